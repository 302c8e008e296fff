"""The product as it is run for real: a process a service, a real Valkey, SQLite or PostgreSQL with fsync on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGTERM

from bench.events import SECRET
from bench.waiting import wait_until
from billhook.runtime.env import Env
from billhook.runtime.health import is_ready
from billhook.runtime.settings import Settings, read_settings
from billhook.runtime.valkey import HOST, ending_with_parent, free_port
from billhook.runtime.welcome import new_signing_secret
from billhook.store import migrate
from billhook.store.database import Database
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.sources import create_source
from billhook.store.vault import new_key
from billhook.testing.servers import PostgresServer, postgres_server, valkey_server

DURABILITY = {
    "sqlite": "SQLite, WAL, synchronous=FULL",
    "postgresql": "PostgreSQL, fsync and synchronous_commit on",
}
WHOLE = ("ingress", "bookkeeper", "courier", "relay", "invoicer")


@dataclass(frozen=True)
class Product:
    """A running product with one Stripe source."""

    host: str
    port: int
    path: str
    pids: dict[str, int]


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


@contextmanager
def running(url: str, services: Sequence[str], endpoint_url: str | None = None) -> Iterator[Product]:
    """`services` on the database at `url`, with one endpoint for everything where `endpoint_url` is given."""
    with ExitStack() as stack:
        var = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-bench-")))
        valkey = stack.enter_context(valkey_server(var / "valkey"))
        chosen = {f"{name}_port": free_port() for name in WHOLE}
        settings = read_settings(
            var=var, database_url=url, queue_url=valkey.url, encryption_keys=new_key(), host=HOST, **chosen
        )
        source_id = _prepare(settings, endpoint_url)
        processes = {name: _start(settings, name, stack) for name in services}
        for name, process in processes.items():
            wait_until(lambda: _ready(settings, name, process), 60, f"{name} to be ready")  # noqa: B023
        path = f"/v1/sources/{source_id}/events"
        if "ingress" in processes:
            _open_the_door(settings.ingress_port, path)
        yield Product(HOST, settings.ingress_port, path, {name: process.pid for name, process in processes.items()})


def _open_the_door(port: int, path: str) -> None:
    """One unsigned event, refused, so that the ingress knows the source before the clock starts."""
    connection = HTTPConnection(HOST, port, timeout=5)
    connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    if status != 401:
        raise RuntimeError(f"the ingress answered {status} to an unsigned event")


def _ready(settings: Settings, name: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the {name} ended with {process.returncode} while it was to start")
    return is_ready(HOST, settings.port_of(name))


def _prepare(settings: Settings, endpoint_url: str | None) -> str:
    env = Env(settings)
    now = env.clock()
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Bench", now)
        source = create_source(tx, merchant.id, "stripe", "bench", env.vault.seal(SECRET), now)
        if endpoint_url:
            create_endpoint(tx, merchant.id, endpoint_url, ["*"], env.vault.seal(new_signing_secret()), now)
    env.close()
    return source.id


def _start(settings: Settings, name: str, stack: ExitStack) -> subprocess.Popen[bytes]:
    given = {
        "VAR": settings.var,
        "DATABASE_URL": settings.database_url,
        "QUEUE_URL": settings.queue_url.get_secret_value(),
        "ENCRYPTION_KEYS": settings.encryption_keys.get_secret_value(),
        "HOST": settings.host,
        "LOG_LEVEL": "error",
        **{f"{service.upper()}_PORT": settings.port_of(service) for service in WHOLE},
    }
    process = subprocess.Popen(
        ending_with_parent([sys.executable, "-m", "billhook.runtime.process", name], SIGTERM),
        env={**os.environ, **{f"BILLHOOK_{key}": str(value) for key, value in given.items()}},
        stdin=subprocess.DEVNULL,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
