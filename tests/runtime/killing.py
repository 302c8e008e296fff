"""What the tests of killed services share: an installation, its services as processes, and waiting."""

from __future__ import annotations

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
from tests.forks import Fork, start

PATIENCE_SECONDS = 90.0


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
    def running(self, *services: str) -> Iterator[Sequence[Fork]]:
        chosen = {f"BILLHOOK_{name.upper()}": value for name, value in self._settings.items()}
        processes = [
            start(
                "billhook.runtime.process",
                name,
                environment={**chosen, f"BILLHOOK_{name.upper()}_PORT": str(free_port())},
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


def kill(processes: Sequence[Fork]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
