"""`/livez`, `/readyz` and `/metrics`: the same three answers on every process."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST

from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.runtime.stop import Stop
from billhook.store.database import is_store_away

if TYPE_CHECKING:
    from starlette.routing import Route

log = logging.getLogger(__name__)

PATHS = ("/livez", "/readyz", "/metrics")

STARTING_SECONDS = 60.0

PROBED_AT_ONCE = 16
ANSWER_SECONDS = 5.0
"""How long a connection to a consumer's probes may be held before it makes way."""


class Probes:
    """Answers the three paths. Liveness is that every part of the process lives and none hangs; readiness asks the
    database, at most once a second; neither depends on the queue: everything but latency survives without it."""

    def __init__(self, env: Env, health: Health) -> None:
        self._env = env
        self._health = health
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._problem: str | None = None

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """(status, content type, body) for one of `PATHS`."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self._env.metrics.exported()
        if path == "/livez":
            return _answer(self._health.parts.problem)
        return _answer(self._not_ready())

    def _not_ready(self) -> str | None:
        with self._lock:
            if time.monotonic() - self._checked_at > 1.0:
                self._problem = self._ask_database()
                self._checked_at = time.monotonic()
        return self._problem or self._health.waiting_for

    def _ask_database(self) -> str | None:
        try:
            database = self._env.database
            # Readers of SQLite wait for nobody, not even where no writer gets a turn.
            with database.begin(durable=False) if database.sqlite else database.read() as tx:
                tx.execute(sa.text("SELECT 1"))
        except Exception as error:
            if not is_store_away(error):
                log.warning("database not reachable", extra={"reason": str(error)})
            return "the database does not answer"
        return None


def _answer(problem: str | None) -> tuple[int, str, bytes]:
    body: Mapping[str, str] = {"status": "ok"} if problem is None else {"status": "failing", "reason": problem}
    return (200 if problem is None else 503), "application/json", json.dumps(body).encode()


def probe_routes(probes: Probes) -> list[Route]:
    """The probes as routes, for services that serve HTTP anyway."""
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def answer(request: Request) -> Response:
        status, content_type, body = probes.answer(request.url.path)
        return Response(body, status, media_type=content_type)

    async def alive(request: Request) -> Response:
        # Without a thread: while the database is silent all of them wait for it, and what only waits is alive.
        return answer(request)

    return [Route(path, alive if path == "/livez" else answer, include_in_schema=False) for path in PATHS]


class _Bounded(ThreadingHTTPServer):
    """Holds so many connections at once, and none for longer than an answer takes."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._held: dict[Any, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """By default the machine's name is looked up as well. Nobody asks for it, and it takes as long as a silent name
        server likes."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        now = time.monotonic()
        with self._lock:
            for held, since in list(self._held.items()):
                if now - since > ANSWER_SECONDS:
                    del self._held[held]
                    with suppress(OSError):
                        held.shutdown(socket.SHUT_RDWR)  # whoever waits for its next word hears the end
            room = len(self._held) < PROBED_AT_ONCE
            if room:
                self._held[request] = now
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._held.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked did not wait for the answer. By default a traceback of it stands in the log."""


class ProbeServer:
    """The probes on a port of their own, for consumers."""

    def __init__(self, probes: Probes, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = ANSWER_SECONDS

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                status, content_type, body = (
                    probes.answer(path) if path in PATHS else (404, "text/plain", b"See /livez, /readyz, /metrics.\n")
                )
                with suppress(ConnectionError):  # who asked does not wait any longer
                    self.send_response(status)
                    self.send_header("Content-Type", content_type)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Bounded((host, port), Handler)
        self.port = self._server.server_address[1]
        self._closing = Stop()
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # Its own `serve_forever` looks twice a second whether it is to end.
        while not self._closing.wait(None, self._server):
            self._server.handle_request()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._server.server_close()


def wait_until_ready(
    settings: Settings,
    services: Iterable[str],
    stopping: threading.Event | Stop,
    meanwhile: Callable[[], None] = lambda: None,
) -> bool:
    """Wait for every service to answer that it is ready; False if told to stop first, or after a minute. `meanwhile`
    is what to look after between the questions."""
    waiting = list(services)
    deadline = time.monotonic() + STARTING_SECONDS
    while waiting and time.monotonic() < deadline and not stopping.wait(0.05):
        meanwhile()
        waiting = [name for name in waiting if not is_ready(settings.host, settings.port_of(name))]
    return not waiting


def is_ready(host: str, port: int) -> bool:
    """Whether a service answers there, and that it is ready."""
    connection = HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
