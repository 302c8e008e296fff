"""All services in one process, each with a registry and a port of its own; database and queue can be cut off."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import sqlalchemy as sa
import uvicorn
from consumers.world import SECRET, stripe_signature

from billhook.actions.publishing import Publication, prepared
from billhook.runtime.clock import Clock, system_clock
from billhook.runtime.connections import Bounds
from billhook.runtime.env import Env
from billhook.runtime.health import Probes, ProbeServer, is_ready
from billhook.runtime.service import Health, Running, find_service, service_names
from billhook.runtime.settings import Settings
from billhook.runtime.valkey import HOST, free_port
from billhook.runtime.vitals import exporting_vitals
from billhook.store import queues
from billhook.store.deliveries import address
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.messages import add_messages
from billhook.store.sources import create_source
from billhook.store.vault import new_key
from billhook_testing.proxy import Proxy

PATIENCE_SECONDS = 60.0


@dataclass
class Process:
    """What would be a process: started and stopped by itself."""

    name: str
    settings: Settings
    port: int
    _open: ExitStack = field(default_factory=ExitStack)

    def start(self, clock: Clock = system_clock) -> None:
        self._open = ExitStack()
        env = Env(self.settings, clock=clock)
        self._open.callback(env.close)
        self._open.enter_context(exporting_vitals(env, self.name))
        service, health = find_service(self.name), Health()
        if service.app is not None:
            self._serve(uvicorn.Config(service.app(env, health), http=Bounds(env.metrics).protocol, **self._where()))
        else:
            assert service.start is not None
            self._consume(service.start(env, health), ProbeServer(Probes(env, health), HOST, self.port))

    def _where(self) -> dict[str, Any]:
        return {"host": HOST, "port": self.port, "log_config": None, "lifespan": "on", "ws": "none"}

    def _serve(self, config: uvicorn.Config) -> None:
        interval = sys.getswitchinterval()
        self._open.callback(sys.setswitchinterval, interval)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        until(lambda: server.started)

        def stop() -> None:
            server.should_exit = True
            thread.join()

        self._open.callback(stop)

    def _consume(self, running: Running, probes: ProbeServer) -> None:
        self._open.callback(running.stop, 10)
        self._open.callback(probes.close)

    def stop(self) -> None:
        self._open.close()

    def start_anew(self, clock: Clock = system_clock) -> None:
        self.stop()
        self.start(clock)


class Endpoint:
    """A merchant's, which answers what it is told to."""

    def __init__(self) -> None:
        self.status = 204
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(endpoint.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Installation:
    env: Env
    """Of an operator: not by way of what can be cut."""
    processes: dict[str, Process]
    database: Proxy
    queue: Proxy
    endpoint: Endpoint
    merchant_id: str
    source_id: str
    _said: int = 0

    def post(self, event: Mapping[str, Any]) -> int:
        body = json.dumps(event).encode()
        url = f"http://{HOST}:{self.processes['ingress'].port}/v1/sources/{self.source_id}/events"
        headers = {"Content-Type": "application/json", "Stripe-Signature": stripe_signature(body)}
        try:
            with urlopen(Request(url, body, headers), timeout=30) as answer:
                return int(answer.status)
        except HTTPError as refused:
            with refused:
                return refused.code

    def say(self, count: int, *, ago: timedelta = timedelta(0)) -> None:
        """Publish messages, which go to the endpoint, and should have so long ago."""
        now = self.env.clock() - ago
        news = [Publication("order.shipped", b"{}") for _ in range(count)]
        self._said += count
        messages = [
            prepared(self.merchant_id, f"key-{self._said - number}", each, now).message
            for number, each in enumerate(news)
        ]
        with self.env.database.begin() as tx:
            address(tx, add_messages(tx, messages, now), now)

    def ask(self, process: str, path: str) -> int:
        try:
            with urlopen(f"http://{HOST}:{self.processes[process].port}{path}", timeout=30) as answer:
                return int(answer.status)
        except HTTPError as refused:
            with refused:
                return refused.code

    def ready(self) -> set[str]:
        """Which processes say that they are."""
        return {name for name, process in self.processes.items() if is_ready(HOST, process.port)}

    def count(self, table: str, state: str) -> int:
        rows = queues.QUEUES[table]
        with self.env.database.read() as tx:
            found = tx.execute(sa.select(sa.func.count()).select_from(rows).where(rows.c.state == state))
            return int(found.scalar_one())


@contextmanager
def installed(directory: Path, database_url: str, valkey_port: int) -> Iterator[Installation]:
    """The product, running. The URL leads to a migrated PostgreSQL."""
    url = sa.engine.make_url(database_url)
    assert url.port is not None
    with ExitStack() as stack:
        database, queue = Proxy(url.port), Proxy(valkey_port)
        for way in (database, queue):
            way.start()
            stack.callback(way.close)
        direct = Settings(
            var=directory,
            database_url=database_url,
            queue_url=f"redis://{HOST}:{queue.port}/0",
            encryption_keys=new_key(),
            allow_http=True,
            allowed_networks="127.0.0.0/8",
            log_level="error",
        )
        through = url.set(port=database.port).render_as_string(hide_password=False)
        settings = replace(direct, database_url=through)
        env, endpoint = Env(direct), Endpoint()
        stack.callback(env.close)
        stack.callback(endpoint.close)
        merchant_id, source_id = _registered(env, endpoint.url)
        processes = {name: Process(name, settings, free_port()) for name in service_names()}
        stack.callback(_stop_together, processes)
        for process in processes.values():
            process.start()
        yield Installation(env, processes, database, queue, endpoint, merchant_id, source_id)


def _stop_together(processes: Mapping[str, Process]) -> None:
    with ThreadPoolExecutor(len(processes)) as pool:
        list(pool.map(Process.stop, processes.values()))


def _registered(env: Env, url: str) -> tuple[str, str]:
    now, sealed = env.clock(), env.vault.seal(SECRET)
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Acme Ltd", now)
        source = create_source(tx, merchant.id, "stripe", "shop", sealed, now)
        key = env.vault.seal("sk_live_none")
        create_source(tx, merchant.id, "stripe", "asked", sealed, now, api_key=key, api_base=f"http://{HOST}:1")
        create_endpoint(tx, merchant.id, url, ["*"], sealed, now)
    return merchant.id, source.id


def until(happened: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
