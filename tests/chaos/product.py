"""The product under test: its services as processes of our own, and the servers it needs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from billhook.actions.sources import new_signing_secret
from billhook.runtime.env import Env
from billhook.runtime.health import is_ready, wait_until_ready
from billhook.runtime.settings import Settings
from billhook.runtime.valkey import free_port
from billhook.store import migrate
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.sources import create_source
from billhook_testing.proxy import Proxy
from billhook_testing.servers import PostgresServer, ValkeyServer
from tests.chaos.debts import Debts, is_charging
from tests.chaos.sender import Address
from tests.chaos.service import CLOCK_FILE, HANDLERS, lease_of
from tests.forks import Fork, start

SERVICES = ("ingress", "bookkeeper", "invoicer", "courier", "relay")
CHARGING_SECONDS = 10.0
"""How long a kill in mid-attempt waits for an attempt."""
WATCH_SECONDS = 0.02
LAST_WORDS = 15


@dataclass
class Child:
    """A service's process, and how often it was started."""

    process: Fork
    starts: int = 1


class Product:
    """Started on an empty database. A service that falls is started again at once, as a supervisor would."""

    def __init__(
        self,
        directory: Path,
        database_url: str,
        *,
        lease_seconds: float | None,
        server: PostgresServer | None = None,
        debts: Debts | None = None,
    ) -> None:
        """`server`: where the database is, to be killed and frozen. `debts`: what a dunner is to collect."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._server = server
        self._debts = debts
        self.services = SERVICES if debts is None else (*SERVICES, "dunner")
        self._writer: sqlite3.Connection | None = None
        self.valkey = ValkeyServer(directory / "valkey")
        self.valkey.start()
        self._lease_seconds = lease_seconds
        chosen = {
            "var": str(directory),
            "database_url": database_url,
            "queue_url": self.valkey.url,
            "log_level": "error",
            "allow_http": "true",  # the merchants are on this machine
            "allowed_networks": "127.0.0.0/8",
            "provider_calls_per_second": "1000",
            **{f"{name}_port": str(free_port()) for name in self.services},
        }
        self._environment = {
            **{f"BILLHOOK_{name.upper()}": value for name, value in chosen.items()},
            "TMPDIR": str(directory),
            CLOCK_FILE: str(directory / "clock"),
        }
        self._way: Proxy | None = None
        if server is not None:
            # Ours goes straight to the server: it is the services that are to be cut off.
            self._way = Proxy(server.port)
            self._way.start()
            through = make_url(database_url).set(port=self._way.port).render_as_string(hide_password=False)
            self._environment["BILLHOOK_DATABASE_URL"] = through
        self._clock_file = directory / "clock"
        self.step_clock(0)
        self.settings = Settings(**chosen)
        self.env = Env(self.settings)
        self._children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._spawned = threading.Event()
        self._disorderly: list[str] = []
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self.log = (directory / "services.log").open("ab")

    @property
    def longest_lease(self) -> float:
        """In seconds, of all queues."""
        if self._lease_seconds is not None:
            return self._lease_seconds
        return max(lease_of(name).total_seconds() for name in self.services if name in HANDLERS)

    def prepare(self) -> dict[str, Address]:
        """Make the schema, a merchant, and a source of each provider; returns where to send their events."""
        self.env.make_encryption_key()
        migrate.upgrade(self.env.database)
        addresses = {}
        with self.env.database.begin() as tx:
            merchant = create_merchant(tx, "Chaos Ltd", self.env.clock())
            self._merchant_id = merchant.id
            for provider in ("standard", "stripe"):
                secret = new_signing_secret()
                sealed = self.env.vault.seal(secret)
                source = create_source(tx, merchant.id, provider, provider, sealed, self.env.clock())
                addresses[provider] = Address(self._address_of(source.id), secret)
        if self._debts is not None:
            self._debts.prepare(self.env, self._address_of)
        return addresses

    def _address_of(self, source_id: str) -> str:
        return f"http://{self.settings.host}:{self.settings.ingress_port}/v1/sources/{source_id}/events"

    def add_endpoint(self, url: str, event_types: list[str], secret: str) -> None:
        with self.env.database.begin() as tx:
            sealed = self.env.vault.seal(secret)
            create_endpoint(tx, self._merchant_id, url, event_types, sealed, self.env.clock())

    def start(self) -> bool:
        """Start the services; True when all of them are ready."""
        self._watcher.start()
        self._spawned.wait()
        return wait_until_ready(self.settings, self.services, self._stopping)

    def wait_until_up(self, timeout: float) -> None:
        """Wait until every service is ready, or time is up."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not all(
            is_ready(self.settings.host, self.settings.port_of(name)) for name in self.services
        ):
            time.sleep(WATCH_SECONDS)

    def kill(self, service: str) -> None:
        """kill -9, unless it has just fallen."""
        with suppress(ProcessLookupError):
            os.kill(self._children[service].process.pid, signal.SIGKILL)

    def kill_in_mid_attempt(self) -> None:
        """kill -9 the dunner while a payment is at the provider."""
        deadline = time.monotonic() + CHARGING_SECONDS
        while not is_charging(self.env.database) and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
        self.kill("dunner")

    @property
    def postgres(self) -> PostgresServer:
        assert self._server is not None, "a fault of PostgreSQL on another database"
        return self._server

    def start_the_database(self) -> None:
        self.postgres.start()
        self.env.database.engine.dispose()  # our own connections died with it

    @property
    def way(self) -> Proxy:
        """Between the services and PostgreSQL."""
        assert self._way is not None, "a fault of PostgreSQL on another database"
        return self._way

    def allow_writes(self, allowed: bool) -> None:
        """Whether PostgreSQL takes them: not, where its disk is full or another server has taken over from it."""
        with psycopg.connect(self.postgres.url.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if allowed else 'on'}")
            connection.execute("SELECT pg_reload_conf()")

    def hold_the_writer(self) -> None:
        self._writer = sqlite3.connect(self.env.database.url.database or "", isolation_level=None, timeout=10)
        self._writer.execute("BEGIN IMMEDIATE")

    def let_go_of_the_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def step_clock(self, seconds: float) -> None:
        """Set the services' wall clock so far ahead of ours (or behind)."""
        new = self._clock_file.with_suffix(".new")
        new.write_text(f"{seconds:+g}\n")
        new.replace(self._clock_file)

    @property
    def restarts(self) -> int:
        return sum(child.starts - 1 for child in self._children.values())

    def last_words(self) -> list[str]:
        """The end of the services' log."""
        return (self.directory / "services.log").read_text(errors="replace").splitlines()[-LAST_WORDS:]

    def stop(self) -> list[str]:
        """SIGTERM to all; names those that did not finish what they had in hand and leave with 0."""
        self._stopping.set()
        self._watcher.join()
        return self._disorderly

    def close(self) -> None:
        """End whatever still runs."""
        if self._watcher.is_alive():
            self.stop()
        self.let_go_of_the_writer()
        if self._way is not None:
            self._way.close()
        self.valkey.thaw()
        self.valkey.stop()
        self.env.close()
        self.log.close()

    def _watch(self) -> None:
        for name in self.services:
            self._children[name] = Child(self._spawn(name))
        self._spawned.set()
        while not self._stopping.wait(WATCH_SECONDS):
            for name, child in self._children.items():
                if child.process.poll() is not None:
                    child.process = self._spawn(name)
                    child.starts += 1
        self._end_children()

    def _end_children(self) -> None:
        for child in self._children.values():
            child.process.terminate()
        deadline = time.monotonic() + self.settings.drain_seconds + 5
        for name, child in self._children.items():
            try:
                code = child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                code = child.process.wait()
            if code:
                self._disorderly.append(f"{name} left with {code} after SIGTERM")

    def _spawn(self, name: str) -> Fork:
        lease = [] if self._lease_seconds is None else [str(self._lease_seconds)]
        return start("tests.chaos.service", name, *lease, environment=self._environment, output=self.log)
