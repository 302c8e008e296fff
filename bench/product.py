"""The product as it is run for real: a process a service, a real Valkey, SQLite or PostgreSQL with fsync on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil

from bench.events import SECRET
from bench.waiting import wait_until
from billhook.actions.sources import new_signing_secret
from billhook.runtime.env import Env
from billhook.runtime.health import is_ready
from billhook.runtime.nursery import process_name
from billhook.runtime.settings import Settings, read_settings
from billhook.runtime.valkey import HOST, ending_with_parent, free_port
from billhook.store import migrate
from billhook.store.database import Database
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.sources import create_source
from billhook.store.vault import new_key
from billhook_testing.servers import PostgresServer, postgres_server, valkey_server

DURABILITY = {
    "sqlite": "SQLite, WAL, synchronous=FULL",
    "postgresql": "PostgreSQL, fsync and synchronous_commit on",
}
WHOLE = ("ingress", "bookkeeper", "courier", "relay", "invoicer")
SERVICES = (*WHOLE, "desk")


@contextmanager
def databases(name: str) -> Iterator[Databases]:
    """`sqlite` or `postgresql`; a PostgreSQL server is started. Raises `NoServer` where there is none to start."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-bench-")))
        server = stack.enter_context(postgres_server()) if name == "postgresql" else None
        yield Databases(directory, server)


class Databases:
    """Fresh, migrated databases on one server or in one directory."""

    def __init__(self, directory: Path, server: PostgresServer | None) -> None:
        self._directory = directory
        self._server = server
        self._made = 0

    def new(self) -> str:
        self._made += 1
        url = self._server.create_database() if self._server else f"sqlite:///{self._directory}/{self._made}.db"
        database = Database(url)
        migrate.upgrade(database)
        database.close()
        return url


class Product:
    """One installation of the product, with a merchant that has one Stripe source. Nothing runs until `run`."""

    host = HOST

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.env = Env(settings)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        now = self.env.clock()
        with self.env.database.begin() as tx:
            self.merchant_id = create_merchant(tx, "Bench", now).id
            source = create_source(tx, self.merchant_id, "stripe", "bench", self.env.vault.seal(SECRET), now)
        self.path = f"/v1/sources/{source.id}/events"

    @property
    def port(self) -> int:
        """The ingress's."""
        return self.settings.ingress_port

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def add_endpoints(
        self, urls: Sequence[str], event_types: Sequence[str] = ("*",), merchant_id: str | None = None, **options: Any
    ) -> list[str]:
        """An endpoint at each URL; `options` are fields of `Endpoint`. Of the one merchant, if no other is named."""
        now, sealed = self.env.clock(), self.env.vault.seal(new_signing_secret())
        with self.env.database.begin() as tx:
            return [
                create_endpoint(tx, merchant_id or self.merchant_id, url, list(event_types), sealed, now, **options).id
                for url in urls
            ]

    def run(self, services: Sequence[str]) -> None:
        """Start a process for each, and wait until all are ready."""
        for name in services:
            self._processes[name] = start(self.settings, "billhook.runtime.process", name)
        for name in services:
            wait_until(lambda: self._ready(name), 60, f"{name} to be ready")  # noqa: B023
        if "ingress" in services:
            _open_the_door(self.port, self.path)

    def run_together(self, services: Sequence[str]) -> dict[str, int]:
        """Start them as `billhook run` and `billhook up` do, as forks of one process that has imported what they need.
        Returns who they are."""
        supervisor = self._processes["supervisor"] = start(self.settings, "billhook.cli.main", "run", *services)
        for name in services:
            wait_until(lambda: self._ready(name, "supervisor"), 60, f"{name} to be ready")  # noqa: B023
        family = {process.name(): process.pid for process in psutil.Process(supervisor.pid).children(recursive=True)}
        return {name: family[process_name(name)] for name in services}

    @contextmanager
    def another(self, name: str) -> Iterator[None]:
        """One more process of a service that runs already, as long as the block does."""
        port = {f"{name}_port": free_port()}
        process = start(dataclasses.replace(self.settings, **port), "billhook.runtime.process", name)
        try:
            wait_until(lambda: is_ready(HOST, port[f"{name}_port"]), 60, f"another {name} to be ready")
            yield
        finally:
            process.terminate()
            process.wait()

    def _ready(self, name: str, started: str | None = None) -> bool:
        code = self._processes[started or name].poll()
        if code is not None:
            raise RuntimeError(f"the {name} ended with {code} while it was to start")
        return is_ready(HOST, self.settings.port_of(name))

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.env.close()


@contextmanager
def installed(url: str) -> Iterator[Product]:
    """The product on the database at `url`, with a queue of its own. What it was made to run ends with the block."""
    with ExitStack() as stack:
        var = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-bench-")))
        valkey = stack.enter_context(valkey_server(var / "valkey"))
        chosen = {f"{name}_port": free_port() for name in SERVICES}
        settings = read_settings(
            var=var,
            database_url=url,
            queue_url=valkey.url,
            encryption_keys=new_key(),
            host=HOST,
            # The endpoints are on this machine, where the product sends nothing by default.
            allow_http=True,
            allowed_networks="127.0.0.0/8",
            # The desk is measured, not what a merchant may ask of it.
            requests_per_second=1e6,
            **chosen,
        )
        yield stack.enter_context(closing(Product(settings)))


@contextmanager
def running(url: str, services: Sequence[str], endpoint_url: str | None = None) -> Iterator[Product]:
    """`services` on the database at `url`, with one endpoint for everything where `endpoint_url` is given."""
    with installed(url) as product:
        if endpoint_url:
            product.add_endpoints([endpoint_url])
        product.run(services)
        yield product


def _open_the_door(port: int, path: str) -> None:
    """One unsigned event, refused, so that the ingress knows the source before the clock starts."""
    connection = HTTPConnection(HOST, port, timeout=5)
    connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    if status != 401:
        raise RuntimeError(f"the ingress answered {status} to an unsigned event")


def start(settings: Settings, *module: str) -> subprocess.Popen[bytes]:
    """A process of the product: a module, and what it is told."""
    given = {
        "VAR": settings.var,
        "DATABASE_URL": settings.database_url,
        "QUEUE_URL": settings.queue_url.get_secret_value(),
        "ENCRYPTION_KEYS": settings.encryption_keys.get_secret_value(),
        "HOST": settings.host,
        "ALLOW_HTTP": settings.allow_http,
        "ALLOWED_NETWORKS": settings.allowed_networks,
        "REQUESTS_PER_SECOND": settings.requests_per_second,
        "LOG_LEVEL": "error",
        **{f"{service.upper()}_PORT": settings.port_of(service) for service in SERVICES},
    }
    return subprocess.Popen(
        ending_with_parent([sys.executable, "-m", *module], SIGTERM),
        env={**os.environ, **{f"BILLHOOK_{key}": str(value) for key, value in given.items()}},
        stdin=subprocess.DEVNULL,
    )
