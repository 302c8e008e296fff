"""What the tests of killed services share: an installation, its services as processes, and waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from billhook.runtime.valkey import free_port
from billhook.store import migrate
from billhook.store.vault import new_key
from billhook_testing.servers import PostgresServer, ValkeyServer

PATIENCE_SECONDS = 90.0

Process = subprocess.Popen[bytes]


def eventually(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


class Installation:
    """A migrated ledger, and the settings that its services are started with."""

    def __init__(self, directory: Path, valkey: ValkeyServer, postgres: PostgresServer | None, **chosen: str) -> None:
        """Without a PostgreSQL server the ledger is a file in the directory."""
        self._settings = {
            "var": str(directory),
            "database_url": "" if postgres is None else postgres.create_database(),
            "queue_url": valkey.url,
            "encryption_keys": new_key(),
            "log_level": "error",
            **chosen,
        }
        self.env = Env(read_settings(**self._settings))
        migrate.upgrade(self.env.database)

    @contextmanager
    def running(self, *services: str) -> Iterator[Sequence[Process]]:
        chosen = {f"BILLHOOK_{name.upper()}": value for name, value in self._settings.items()}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "billhook.runtime.process", name],
                env={**os.environ, **chosen, f"BILLHOOK_{name.upper()}_PORT": str(free_port())},
                stdin=subprocess.DEVNULL,
            )
            for name in services
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def kill(processes: Sequence[Process]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
