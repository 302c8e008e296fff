"""One database, two dialects: how a transaction begins and ends on SQLite and on PostgreSQL, and how long anybody waits
for it.

A database may be silent without being gone: a network that swallows packets, a server that stands still, a writer of
SQLite that does not let go. So every wait here ends, on our side of the connection, with an error that
`is_store_away` is true of.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from billhook.errors import StoreAway
from billhook.logs import Outage
from billhook.store import sqlite
from billhook.store.silence import Silence

log = logging.getLogger(__name__)

Tx = sa.Connection
"""An open transaction. Functions of this package take one and never end it."""


class Rows(Protocol):
    """What a driver's cursor brought."""

    @property
    def rowcount(self) -> int: ...
    def fetchall(self) -> Sequence[Sequence[Any]]: ...


class Run(Protocol):
    """Executes a statement in the driver's own words: `run_in(tx)`, or what `Database.statement` yields."""

    def __call__(self, text: str, parameters: Any, /, **options: Any) -> Rows:
        """`options` are the driver's own: with `binary` PostgreSQL's brings values as they are and not as text."""


_AFTER_COMMIT: Final = "billhook_after_commit"
_OPENED_AFTER: Final = "billhook_opened_after"


def after_commit(tx: Tx, done: Callable[[], object]) -> None:
    """Do this once the transaction is committed, and not at all if it is not: what is counted has happened."""
    tx.info[_AFTER_COMMIT].append(done)


_CHANGED: Final = "billhook_changed"


def changed(tx: Tx, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Tell whoever listens to a transaction that a table was changed by what SQLAlchemy does not execute. `row` is the
    first of those that were added, if any was."""
    if (hear := tx.info.get(_CHANGED)) is not None:
        hear(table, row)


@contextmanager
def hearing_changes(
    tx: Tx, statement: Callable[..., None], rows: Callable[[sa.Table, Mapping[str, Any]], None]
) -> Iterator[None]:
    """Call these for whatever the block executes: `statement` as SQLAlchemy calls its `before_execute`, `rows` for
    what goes past it."""
    tx.info[_CHANGED] = rows
    sa.event.listen(tx, "before_execute", statement)
    try:
        yield
    finally:
        sa.event.remove(tx, "before_execute", statement)
        del tx.info[_CHANGED]


def run_in(tx: Tx) -> Run:
    """The driver's own way to execute within a transaction: past SQLAlchemy, which takes several times as long as the
    driver over a short statement."""
    if not tx.in_transaction():
        tx.begin()  # as SQLAlchemy would with its first statement
    driver: Any = tx.connection.driver_connection

    def run(text: str, parameters: Any, /, **options: Any) -> Rows:
        try:
            rows: Rows = driver.execute(text, parameters, **options)
        except tx.dialect.loaded_dbapi.Error as error:
            # As for statements of its own: what it raises is told apart, and of a pool whose server is gone no
            # connection is lent any more.
            tx._handle_dbapi_exception(error, text, None, None, None)
        return rows

    return run


Witness = Callable[[Tx], AbstractContextManager[None]]
"""Goes along with a transaction, from its beginning until it is about to be committed."""

_WITNESS: Final[ContextVar[Witness | None]] = ContextVar("billhook_witness", default=None)


@contextmanager
def witnessed(witness: Witness) -> Iterator[None]:
    """Let it go along with every durable transaction that is begun to write in this block, whoever begins it."""
    before = _WITNESS.set(witness)
    try:
        yield
    finally:
        _WITNESS.reset(before)


def insert_into(tx: Tx, table: sa.Table) -> Any:
    """An INSERT that can say what happens on a conflict. Each dialect has one of its own, and is imported by whoever
    uses it."""
    if tx.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    return insert(table)


def load_dialect(url: str) -> None:
    """Import what a database of this kind needs, for a process that will be forked."""
    sa.create_engine(url).dispose()
    if not url.startswith("sqlite"):
        import billhook.store.postgresql  # noqa: F401


ANSWER_SECONDS = 4.0
"""How long one statement, one wait for a lock or one wait for a connection may take. A sender is to have its 503 within
five seconds; the longest statement there is, a batch of pruning or of settling, takes a tenth of a second."""


class Database:
    """Opens on first use. `begin()` writes, `read()` reads; both are one transaction."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        answer_seconds: float | None = ANSWER_SECONDS,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`answer_seconds`: see `ANSWER_SECONDS`; None waits for ever, as a migration of large tables must. `waited`
        hears how long each transaction waited for its connection, and on SQLite for its turn to write."""
        self._waited = waited
        self._outage = Outage(log, "the database")
        self._no_room = Outage(log, "the database, for writing,")
        self._silence = Silence(answer_seconds)
        self.url: URL = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = (
            sqlite.engine(self.url, _ALIKE, answer_seconds)
            if self.sqlite
            else _postgresql(self.url, pool_size, answer_seconds, self._silence)
        )
        self._committing: sa.Engine | None = None if self.sqlite else _committing(self.engine)
        self._queue: sqlite.WriteQueue | None = None
        if self.sqlite:
            self._queue = sqlite.WriteQueue(Path(f"{self.url.database}.lock"), answer_seconds, self._silence)
        self._times_closed = 0
        for pool in (self.engine, self._committing):
            if pool is not None:
                sa.event.listen(pool, "connect", self._opened)
                sa.event.listen(pool, "checkin", self._returned)
                if not self.sqlite:
                    sa.event.listen(pool, "checkout", self._still)

    def _still(self, *_: object) -> None:
        """Whoever waited for a connection need not wait for an answer that nobody gets."""
        self._silence.still()

    def _opened(self, _: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info[_OPENED_AFTER] = self._times_closed

    def _returned(self, _: object, record: sa.pool.ConnectionPoolEntry) -> None:
        """A pool that is closed forgets what it has lent: whoever brings it back later would leave it open for good."""
        if record.info.get(_OPENED_AFTER) != self._times_closed:
            record.invalidate()

    @contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[Tx]:
        """A transaction that writes; committed when the block ends well, rolled back when it raises.

        Not `durable`: it ends before it has been synced, and a crash of PostgreSQL's server, or of SQLite's machine,
        may take it back. That is for claims, renewals and deferrals: one that is lost makes work due earlier, and no
        more.
        """
        done: list[Callable[[], object]] = []
        with self._begun(durable) as tx:
            tx.info[_AFTER_COMMIT] = done
            if (witness := _WITNESS.get()) is None or not durable:
                yield tx
            else:
                with witness(tx):
                    yield tx
        for each in done:
            each()

    @contextmanager
    def _begun(self, durable: bool) -> Iterator[Tx]:
        if self._queue is None:
            with self._connect(self.engine, writes=True) as tx, tx.begin():
                if not durable:
                    run_in(tx)("SET LOCAL synchronous_commit = off", ())
                yield tx
        else:
            immediate = {"billhook_begin": "IMMEDIATE"}
            with (
                self._turn(self._queue),
                self.engine.connect().execution_options(**immediate) as tx,
                nullcontext() if durable else sqlite.unsynced(tx),
                tx.begin(),
            ):
                yield tx

    @contextmanager
    def _connect(self, engine: sa.Engine, *, writes: bool) -> Iterator[Tx]:
        began = time.perf_counter()
        with self._watched(writes=writes), engine.connect() as connection:
            self._waited(time.perf_counter() - began)
            yield connection

    @contextmanager
    def _turn(self, queue: sqlite.WriteQueue) -> Iterator[None]:
        began = time.perf_counter()
        with self._watched(writes=True), queue:
            self._waited(time.perf_counter() - began)
            yield

    @contextmanager
    def _watched(self, *, writes: bool) -> Iterator[None]:
        """Whoever uses the database need not say that it is away, nor why, nor that it takes nothing more: it is said
        here, once. Nor wait for one that is known to be silent; readers of SQLite wait for nobody."""
        silence = self._silence if writes or not self.sqlite else None
        try:
            if silence is not None:
                silence.ask()
            yield
        except Exception as error:
            if is_outage(error):
                if silence is not None and isinstance(error, (DBAPIError, PoolTimeout)) and is_store_away(error):
                    silence.waited()
                outage = self._outage if is_store_away(error) else self._no_room
                outage.failed(str(getattr(error, "orig", None) or error).strip().partition("\n")[0])
            raise
        self._outage.worked()
        if silence is not None:
            silence.answered()
        if writes:
            self._no_room.worked()

    @contextmanager
    def statement(self) -> Iterator[Run]:
        """For statements that are a transaction each. PostgreSQL takes one in one round trip, where BEGIN and COMMIT
        around it would make three; SQLite takes it in one step. They go past SQLAlchemy, which takes three times as
        long as the driver over a short one: where messages come one by one, that was a third of their whole way."""
        if self._queue is None:
            with self._watched(writes=True), self._lent() as run:
                yield run
        else:
            with self._turn(self._queue), self._lent() as run:
                yield run

    @contextmanager
    def question(self) -> Iterator[Run]:
        """For statements that only read and are a view of the database each, in as few round trips as there can be."""
        with self._watched(writes=False), self._lent() as run:
            yield run

    @contextmanager
    def _lent(self) -> Iterator[Run]:
        """A connection that commits each statement, without a transaction around it."""
        connection, began, pool = None, time.perf_counter(), (self._committing or self.engine).pool
        try:
            connection = pool.connect()
            if self._committing is not None:
                self._waited(time.perf_counter() - began)
            driver: Any = connection.driver_connection
            yield driver.execute
        except self.engine.dialect.loaded_dbapi.Error as error:
            lost = connection is not None and (
                getattr(connection.driver_connection, "closed", False)
                or self.engine.dialect.is_disconnect(error, None, None)
            )
            if connection is not None and lost and self._committing is not None:
                connection.invalidate()
                # The others were opened at the same server, and would fail one after another.
                self._committing.dispose()
            told = DBAPIError.instance(None, None, error, Exception, hide_parameters=True, connection_invalidated=lost)
            assert isinstance(told, DBAPIError)
            raise told from error
        finally:
            if connection is not None:
                connection.close()

    @contextmanager
    def glance(self) -> Iterator[Tx]:
        """For what only reads and needs no consistent view: on PostgreSQL each statement is a transaction, in one round
        trip where BEGIN and ROLLBACK around it would make three."""
        with self.read() if self._committing is None else self._connect(self._committing, writes=False) as tx:
            yield tx

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that only reads: one consistent view, and on SQLite it waits for nobody."""
        with self._connect(self.engine, writes=False) as tx:
            if not self.sqlite:
                # PostgreSQL's default shows each statement a moment of its own.
                tx.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield tx

    def connections(self) -> dict[str, tuple[int, int, int]]:
        """Of each pool, by what it is for: how many are in use, how many are kept, and how many there may be."""
        engines = {"transactions": self.engine, "statements": self._committing}
        pools = {name: engine.pool for name, engine in engines.items() if engine is not None}
        return {
            name: (pool.checkedout(), pool.checkedin(), pool.size() + pool._max_overflow)
            for name, pool in pools.items()
            if isinstance(pool, sa.QueuePool)
        }

    def last_write(self) -> Hashable | None:
        """A mark that another commit changes, of whichever process: the cheapest question there is, and on SQLite none.
        There two commits in the same few milliseconds may leave the same one, and it is None where there is none to be
        had. PostgreSQL's says which transactions have ended: where it is the same, whoever looks sees the same."""
        if not self.sqlite:
            with self.question() as run:
                return str(run("SELECT pg_current_snapshot()::text", ()).fetchall()[0][0])
        try:
            log_file = os.stat(f"{self.url.database}-wal")
        except FileNotFoundError:
            return None
        return log_file.st_mtime_ns, log_file.st_size

    def checkpoint(self) -> None:
        """On SQLite, fold the log back into the database beside the writers. They do it themselves when it has grown
        long, but within a commit that everybody else waits for: 50 ms and more, twice a second under load."""
        if self.sqlite:
            with self.engine.connect().execution_options(billhook_begin=None) as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def overwriting(self) -> Iterator[None]:
        """On SQLite, what is deleted in this block is overwritten in the file, and then taken out of the log: it would
        stand in free pages until somebody else needs them. PostgreSQL vacuums by itself."""
        if not self.sqlite:
            yield
            return

        def overwrite(connection: sa.Connection) -> None:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")

        sa.event.listen(self.engine, "begin", overwrite)
        try:
            yield
            with self.engine.connect().execution_options(billhook_begin=None) as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            sa.event.remove(self.engine, "begin", overwrite)
            self.engine.dispose()

    def close(self) -> None:
        self._times_closed += 1
        self.engine.dispose()
        if self._committing is not None:
            self._committing.dispose()
        if self._queue is not None:
            self._queue.close()


_ALIKE: Final[dict[str, Any]] = {
    # Ten times as fast as the standard library, for every JSON column.
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
    # What a statement was given is customers' data, and errors go into the log.
    "hide_parameters": True,
}
"""What engines of both dialects are made with."""


def _postgresql(url: URL, pool_size: int, answer_seconds: float | None, silence: Silence) -> sa.Engine:
    from billhook.store.postgresql import engine  # its driver is a third of what a command on SQLite would import

    return engine(url, _ALIKE, pool_size, answer_seconds, silence)


def _committing(engine: sa.Engine) -> sa.Engine:
    """Connections beside those of the engine, that commit each statement: switching one to and fro costs as much as the
    statement."""

    from psycopg.types.json import set_json_loads

    from billhook.store.postgresql import check_is_there

    def connect() -> Any:
        connection = engine.raw_connection()
        driver: Any = connection.driver_connection
        connection.detach()
        driver.autocommit = True
        if driver.prepare_threshold is not None:  # a pooler is between that forgets them
            driver.prepare_threshold = 0  # there are few statements, and each comes again
            # PostgreSQL finds that the plan it would make for these very parameters costs less by so much, and makes
            # it anew each time: for a claim of a few deliveries that took twice as long as the claim.
            driver.execute("SET plan_cache_mode = force_generic_plan")
        set_json_loads(msgspec.json.decode, driver)
        return driver

    assert isinstance(engine.pool, sa.QueuePool)
    # A courier claims in one thread and settles in another; nobody else has more than one.
    pool = sa.QueuePool(connect, 2, max_overflow=2, timeout=engine.pool.timeout(), use_lifo=True, reset_on_return=None)
    sa.event.listen(pool, "checkout", check_is_there)
    return sa.Engine(pool, engine.dialect, engine.url, hide_parameters=True)


_AWAY_SQLSTATES: Final = ("08", "57P01", "57P02", "57P03", "53300")
"""Connection lost; the server shuts down, crashed, cannot take connections now; it has too many."""

_AWAY_SQLITE: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL")


_UNWRITABLE: Final = ("53100", "25006", "SQLITE_FULL", "SQLITE_READONLY")
"""A full disk; a server that may only be read, as one that was failed over from."""


def is_unwritable(error: BaseException) -> bool:
    """Whether the database answers, and takes nothing more whoever asks."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return code is not None and code.startswith(_UNWRITABLE)


def is_outage(error: BaseException) -> bool:
    """Whether it is the database's fault whoever asks, which `Database` says itself, once: it is away, or takes nothing
    more. Others need no line for it."""
    return is_store_away(error) or is_unwritable(error)


def is_store_away(error: BaseException) -> bool:
    """Whether the database itself was away or silent, as opposed to refusing what a piece of work asked of it: a
    statement that took too long, a deadlock, a full disk are that work's own, and its neighbours may be fine."""
    if isinstance(error, (StoreAway, PoolTimeout)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    # Without a code of the server's the error is the client's own: it could not connect, or lost the connection.
    return code is None or code.startswith((*_AWAY_SQLSTATES, *_AWAY_SQLITE))
