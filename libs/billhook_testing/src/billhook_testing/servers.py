"""Real servers for tests, made to be killed: PostgreSQL and Valkey, child processes that listen on 127.0.0.1.

    with postgres_server(fast=True) as postgres:
        url = postgres.create_database()  # postgresql+psycopg://…, empty
        postgres.kill()
        postgres.start()
        postgres.freeze()
        postgres.thaw()

    with valkey_server(directory) as valkey:
        valkey.freeze()
        valkey.thaw()
        valkey.restart(keep_data=False)

Each ends with the process that started it (on Linux, however that process dies).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from billhook.errors import BillhookError
from billhook.runtime.valkey import HOST, EmbeddedValkey, ending_with_parent, free_port, last_words
from billhook_testing.postgres_installation import Installation, install

_POLL_SECONDS = 0.01


class PostgresServer:
    """One throw-away PostgreSQL cluster. Its port and its data stay over `kill`, `stop` and `start`, until `close`.

    `fast` gives up what protects data from a power cut (fsync); a kill of the server loses nothing either way.
    """

    def __init__(self, directory: Path | None = None, *, fast: bool = False) -> None:
        """`directory`: where to make the cluster's own directory. The system's temporary one by default, and where the
        user who runs the server cannot get at it."""
        self.port = free_port()
        self._directory = directory
        self._fast = fast
        self._password = secrets.token_urlsafe(12)
        self._installation: Installation | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process, None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def url(self) -> str:
        """The maintenance database. Tests work in one of their own, by `create_database`."""
        return self._url("postgres")

    def create_database(self, template: str | None = None) -> str:
        """The URL of a new database: an empty one, or a copy of another, of which this is the URL. Nobody may be
        connected to that one meanwhile."""
        name = f"test_{secrets.token_hex(6)}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            copied = make_url(template).database or ""
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(copied))
        with psycopg.connect(self.url.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute(statement)
        return self._url(name)

    def start(self, *, within_seconds: float = 60) -> None:
        """Start, and return once it takes connections; nothing to do if it runs. Raises `NoServer`, `BillhookError`."""
        if self.pid is not None:
            return
        if self._installation is None:
            self._installation = install(self._directory, self._password)
        home = self._installation.home
        deadline = time.monotonic() + within_seconds
        self._process = self._spawn(self._installation)
        while not _is_ready(home, self._process):
            if time.monotonic() > deadline:
                self.kill()
                raise BillhookError(f"PostgreSQL was not ready in time. {last_words(home / 'postgres.log')}")
            if self._process.poll() is not None:
                words = last_words(home / "postgres.log")
                # The children of a killed server leave one by one, and until the last is gone its shared memory is
                # in use and a new server keeps its hands off the data.
                if "pre-existing shared memory block" not in words:
                    raise BillhookError(f"PostgreSQL did not start. {words}")
                self._process = self._spawn(self._installation)
            time.sleep(_POLL_SECONDS)

    def stop(self, *, within_seconds: float = 20) -> None:
        """Cut every connection and leave in order; a kill once `within_seconds` are over."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """kill -9. What was committed is there after the next `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Every process of the server stops where it stands: connections stay open, and nothing answers."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # a helper of the server that ended meanwhile
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def close(self) -> None:
        """Stop, and remove the cluster."""
        self.thaw()
        self.stop()
        if self._installation is not None:
            shutil.rmtree(self._installation.home, ignore_errors=True)
            self._installation = None

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres:{self._password}@{HOST}:{self.port}/{database}"

    def _spawn(self, installation: Installation) -> subprocess.Popen[bytes]:
        settings = {
            "port": str(self.port),
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        if self._fast:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # SIGQUIT: leave at once and recover at the next start; nobody is left to wait for.
        command = ending_with_parent([str(installation.binaries / "postgres"), "-D", "data", *options], signal.SIGQUIT)
        with (installation.home / "postgres.log").open("ab") as log:
            return installation.account.spawn(command, installation.home, log)


class ValkeyServer(EmbeddedValkey):
    """A Valkey to be killed, frozen and brought back with or without its memory."""

    def freeze(self) -> None:
        """The process stops where it stands: connections stay open, and nothing answers."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, keep_data: bool = True) -> None:
        """kill -9 and start again, on the same port; without `keep_data`, as if the disk had been lost."""
        self.kill()
        if not keep_data:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        self.start()


@contextmanager
def postgres_server(directory: Path | None = None, *, fast: bool = False) -> Iterator[PostgresServer]:
    """A running PostgreSQL, removed at the end. Raises `NoServer` where there is none to start."""
    server = PostgresServer(directory, fast=fast)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def valkey_server(directory: Path) -> Iterator[ValkeyServer]:
    """A running Valkey on `directory`, stopped at the end."""
    server = ValkeyServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.thaw()
        server.stop()


def _is_ready(home: Path, process: subprocess.Popen[bytes]) -> bool:
    """The postmaster says so itself, in the last line of its pid file; the first line tells whose file it is."""
    try:
        lines = (home / "data" / "postmaster.pid").read_text().split()
    except FileNotFoundError:
        return False
    return len(lines) > 1 and lines[0] == str(process.pid) and lines[-1] == "ready"
