"""One database, two dialects: how a transaction begins and ends on SQLite and on PostgreSQL."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

Tx = sa.Connection
"""An open transaction. Functions of this package take one and never end it."""


class Database:
    """Opens on first use. `begin()` writes, `read()` reads; both are one transaction."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url: URL = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite(self.url) if self.sqlite else _postgresql(self.url, pool_size)
        self._queue = _WriteQueue(Path(f"{self.url.database}.lock")) if self.sqlite else None

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """A transaction that writes; committed when the block ends well, rolled back when it raises."""
        if self._queue is None:
            with self.engine.begin() as tx:
                yield tx
        else:
            with self._queue, self.engine.connect().execution_options(billhook_begin="IMMEDIATE") as tx, tx.begin():
                yield tx

    @contextmanager
    def statement(self) -> Iterator[Tx]:
        """For statements that are a transaction each. PostgreSQL takes one in one round trip, where BEGIN and COMMIT
        around it would make three; SQLite takes it in one step."""
        if self._queue is None:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
                yield tx
        else:
            with self._queue, self.engine.connect().execution_options(billhook_begin=None) as tx:
                yield tx

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that only reads: one consistent view, and on SQLite it waits for nobody."""
        with self.engine.connect() as tx:
            if not self.sqlite:
                # PostgreSQL's default shows each statement a moment of its own.
                tx.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield tx

    def checkpoint(self) -> None:
        """On SQLite, fold the log back into the database beside the writers. They do it themselves when it has grown
        long, but within a commit that everybody else waits for: 50 ms and more, twice a second under load."""
        if self.sqlite:
            with self.engine.connect().execution_options(billhook_begin=None) as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        self.engine.dispose()
        if self._queue is not None:
            self._queue.close()


class _WriteQueue:
    """SQLite has one writer at a time. Writers that meet poll for up to 100 ms in SQLite's own busy handler; waiting
    for a file lock instead wakes the next one at once, and the kernel lets go of it when a process is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread_lock = threading.Lock()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        self._thread_lock.acquire()
        try:
            if self._file is None:
                self._file = self._path.open("ab")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._thread_lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread_lock.release()

    def close(self) -> None:
        with self._thread_lock:
            if self._file is not None:
                self._file.close()
                self._file = None


_JSON: Final[dict[str, Any]] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}
"""Ten times as fast as the standard library, for every JSON column."""


def _postgresql(url: URL, pool_size: int) -> sa.Engine:
    return sa.create_engine(
        url,
        **_JSON,
        pool_size=pool_size,
        max_overflow=pool_size,
        # A dead server must be noticed: without a limit a connect to a silent host waits for minutes.
        connect_args={"connect_timeout": 5, "application_name": "billhook"},
    )


def _sqlite(url: URL) -> sa.Engine:
    # Last in, first out: one connection does most of the work and keeps its statements and pages.
    engine = sa.create_engine(url, **_JSON, connect_args={"check_same_thread": False}, pool_use_lifo=True)

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        # The driver's own BEGIN is deferred and would fail with SQLITE_BUSY when a reader turns writer: we begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the log at each commit. With grouped commits it costs under 3 % over NORMAL, and NORMAL may lose
        # what a 2xx promised when the power fails.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # 8 MiB of pages in memory a connection (the system caches the file anyway). The relay folds the log back all
        # the time (`checkpoint`); a commit does only when it is 40 MB long all the same.
        cursor.execute("PRAGMA cache_size = -8192")
        cursor.execute("PRAGMA wal_autocheckpoint = 10000")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        kind = connection.get_execution_options().get("billhook_begin", "DEFERRED")
        if kind is not None:
            connection.exec_driver_sql(f"BEGIN {kind}")

    return engine
