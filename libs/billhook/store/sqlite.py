"""Connections to SQLite, which has one writer at a time, and the line of those who want to write: see
`billhook.store.database`."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from billhook.errors import StoreAway
from billhook.store.silence import Silence

LONGEST_LOG: Final = 64 * 1024 * 1024
"""Nothing is folded back while somebody reads what was before, a backup or an export, and the log grows by all that is
written meanwhile. The file would keep that length for good; behind this it is cut off when it is begun anew."""


def engine(url: URL, alike: Mapping[str, Any], answer_seconds: float | None) -> sa.Engine:
    """`alike`: what engines of both dialects are made with."""
    # Last in, first out: one connection does most of the work and keeps its statements and pages.
    made = sa.create_engine(url, **alike, connect_args={"check_same_thread": False}, pool_use_lifo=True)

    @sa.event.listens_for(made, "connect")
    def on_connect(connection: Any, _: object) -> None:
        # The driver's own BEGIN is deferred and would fail with SQLITE_BUSY when a reader turns writer: we begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {30_000 if answer_seconds is None else int(answer_seconds * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the log at each commit. With grouped commits it costs under 3 % over NORMAL, and NORMAL may lose
        # what a 2xx promised when the power fails.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # 8 MiB of pages in memory a connection (the system caches the file anyway). The relay folds the log back all
        # the time (`checkpoint`); a commit does only when it is 40 MB long all the same.
        cursor.execute("PRAGMA cache_size = -8192")
        cursor.execute("PRAGMA wal_autocheckpoint = 10000")
        cursor.execute(f"PRAGMA journal_size_limit = {LONGEST_LOG}")
        cursor.close()

    @sa.event.listens_for(made, "begin")
    def on_begin(connection: sa.Connection) -> None:
        kind = connection.get_execution_options().get("billhook_begin", "DEFERRED")
        if kind is not None:
            connection.exec_driver_sql(f"BEGIN {kind}")

    return made


@contextmanager
def unsynced(tx: sa.Connection) -> Iterator[None]:
    """A transaction in this block ends without a sync of the log; the next that is synced syncs it too. Killing
    processes takes nothing back, and what a power cut takes back was not yet synced by anybody."""
    driver: Any = tx.connection.driver_connection
    driver.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        try:
            driver.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            tx.invalidate()  # or others would be lent it as it is
            raise


class WriteQueue:
    """SQLite has one writer at a time. Writers that meet poll for up to 100 ms in SQLite's own busy handler; waiting
    for a file lock instead wakes the next one at once, and the kernel lets go of it when a process is killed."""

    def __init__(self, path: Path, answer_seconds: float | None, silence: Silence) -> None:
        self._path = path
        self._answer_seconds = answer_seconds
        self._silence = silence
        self._thread_lock = threading.Lock()
        self._turn_began = 0.0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        self._await_turn()
        try:
            self._silence.still()
            if self._file is None:
                self._file = self._path.open("ab")
            self._lock(self._file)
            self._turn_began = time.monotonic()
        except BaseException:
            self._thread_lock.release()
            raise

    def _await_turn(self) -> None:
        """Behind the other threads of this process, however many they are, as long as they come and go."""
        if self._answer_seconds is None:
            self._thread_lock.acquire()
            return
        waits_since = time.monotonic()
        while not self._thread_lock.acquire(timeout=self._answer_seconds / 4):
            if time.monotonic() - max(self._turn_began, waits_since) > self._answer_seconds:
                raise self._busy()

    def _lock(self, file: IO[bytes]) -> None:
        """Waiting for a file lock cannot time out, so where the lock is held a thread waits in our place, and wakes the
        caller as soon as it has the lock. A thread that was given up on releases a lock that it gets too late."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if self._answer_seconds is None:
                fcntl.flock(file, fcntl.LOCK_EX)
                return
        waiter = _Waiter(file)
        if not waiter.got_it(self._answer_seconds):
            self._file = None  # the waiter's from now on: a file has one lock, however many threads ask for it
            self._silence.waited()
            raise self._busy()

    def _busy(self) -> StoreAway:
        return StoreAway(f"{self._path.name}: another writer has held SQLite's lock for {self._answer_seconds:g} s")

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread_lock.release()

    def close(self) -> None:
        with self._thread_lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class _Waiter:
    """A thread that waits for a file lock."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._meeting = threading.Condition()
        self._locked = False
        self._given_up = False
        threading.Thread(target=self._wait, name="file lock", daemon=True).start()

    def got_it(self, seconds: float) -> bool:
        """Wait for it; after False it will never be ours, and the file is closed."""
        with self._meeting:
            self._given_up = not self._meeting.wait_for(lambda: self._locked, max(0.0, seconds))
            return self._locked

    def _wait(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._meeting:
            if self._given_up:
                self._file.close()  # and lets go
            self._locked = True
            self._meeting.notify()
