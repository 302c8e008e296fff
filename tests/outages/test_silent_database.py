"""A database that is silent costs a bounded wait, and is told apart from one that refuses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from store.databases import NOW, lay_ledger
from store.test_database import child, names

from billhook.errors import StoreAway
from billhook.runtime.env import Env
from billhook.runtime.health import Probes
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.store import fitness, merchants
from billhook.store.database import Database, is_store_away, is_unwritable
from billhook_testing.proxy import Proxy, proxy
from billhook_testing.servers import PostgresServer

PATIENCE = 0.5
"""Seconds that a statement may take here; far less than the 20 for which the tests would wait in vain."""

HOLDER = """
import fcntl, sys
file = open(sys.argv[1] + ".lock", "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def way(postgres: PostgresServer) -> Iterator[Proxy]:
    with proxy(postgres.port) as way:
        yield way


@pytest.fixture
def behind(postgres: PostgresServer, postgres_template: str, way: Proxy) -> Iterator[Database]:
    """A migrated database behind the proxy."""
    url = make_url(postgres.create_database(postgres_template))
    database = Database(url.set(port=way.port).render_as_string(hide_password=False), answer_seconds=PATIENCE)
    yield database
    way.open()
    database.close()


def add(database: Database, name: str) -> None:
    with database.begin() as tx:
        merchants.create_merchant(tx, name, NOW)


def add_in_the_end(database: Database, name: str) -> None:
    """As whoever is told to try again."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return add(database, name)
        except StoreAway:
            assert time.monotonic() < deadline
            time.sleep(PATIENCE / 50)


@pytest.mark.timeout(20)
def test_packets_that_are_swallowed_end_the_wait_and_the_connection(behind: Database, way: Proxy) -> None:
    add(behind, "before")
    way.swallow()
    with pytest.raises(sa.exc.OperationalError, match="PostgreSQL did not answer within") as silent:
        add(behind, "swallowed")
    assert is_store_away(silent.value)
    way.open()
    add_in_the_end(behind, "after")
    assert names(behind) == ["before", "after"]


@pytest.mark.timeout(20)
def test_a_way_that_takes_long_is_slow_until_it_takes_too_long(behind: Database, way: Proxy) -> None:
    add(behind, "before")
    way.delay(PATIENCE / 20)
    add(behind, "slowly")
    way.trickle(PATIENCE / 5000)
    add(behind, "byte by byte")
    way.delay(2 * PATIENCE)
    with pytest.raises(sa.exc.OperationalError, match="PostgreSQL did not answer within") as silent:
        add(behind, "too slowly")
    assert is_store_away(silent.value)
    way.open()
    add_in_the_end(behind, "after")
    assert names(behind) == ["before", "slowly", "byte by byte", "after"]


@pytest.mark.timeout(20)
def test_of_many_who_ask_a_silent_database_few_wait_and_the_first_answer_ends_it(
    behind: Database, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty threads for eighty requests, as a desk has. One after the other they waited for a connection, for another
    one where that was dead, and for an answer."""
    add(behind, "before")
    way.swallow()
    monkeypatch.setattr("billhook.store.postgresql._CONNECT_SECONDS", 2)
    monkeypatch.setattr("billhook.store.silence._OF_AN_ANSWER", 1 / 60)  # nobody tries, however long this takes

    def ask(_: int) -> BaseException | None:
        try:
            names(behind)
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(40) as threads:
        told = [*threads.map(ask, range(80))]
    assert all(error is not None and is_store_away(error) for error in told)
    waited = [error for error in told if not isinstance(error, StoreAway)]
    assert 1 <= len(waited) <= 40, "nobody of those behind the first"
    assert way.taken <= 17
    way.open()
    with pytest.raises(StoreAway, match="did not answer a moment ago"):
        names(behind)
    monkeypatch.undo()
    behind._silence._next_try = 0.0
    assert names(behind) == ["before"], "one tries"
    assert [ask(0) for _ in range(5)] == [None] * 5, "and was answered"


@pytest.mark.timeout(20)
def test_connections_that_are_cut_are_an_outage_and_new_ones_are_made(behind: Database, way: Proxy) -> None:
    add(behind, "before")
    way.cut()
    with pytest.raises(sa.exc.OperationalError) as cut:
        add(behind, "cut")
    assert is_store_away(cut.value)
    way.open()
    add(behind, "after")
    assert names(behind) == ["before", "after"]


@pytest.mark.timeout(20)
def test_a_server_that_hung_up_while_nobody_spoke_costs_nobody_an_error(
    postgres: PostgresServer, postgres_template: str
) -> None:
    """A restart, a failover, `idle_session_timeout`: the first event after a quiet time is to be a 2xx."""
    url = postgres.create_database(postgres_template)
    database, other = Database(url), Database(postgres.url)

    def state() -> None:
        with database.statement() as run:
            run("SELECT 1", ())

    for number in range(2):
        add(database, f"{number}")
        state()
        with other.read() as tx:
            mine = sa.text("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = :name")
            assert set(tx.execute(mine, {"name": make_url(url).database}).scalars()) == {True}
    add(database, "after")
    state()
    assert names(database) == ["0", "1", "after"]
    other.close()
    database.close()


@pytest.mark.timeout(20)
def test_a_pool_without_a_free_connection_is_an_outage(behind: Database) -> None:
    taken = [behind.engine.connect() for _ in range(16)]
    with pytest.raises(sa.exc.TimeoutError) as full:
        names(behind)
    assert is_store_away(full.value)
    for connection in taken:
        connection.close()
    add_in_the_end(behind, "after")
    assert names(behind) == ["after"]


@pytest.mark.timeout(20)
def test_a_name_server_that_is_silent_ends_the_wait(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends the system's own look-up, and libpq's limit does not count it. A name of two addresses, the first of
    which swallows, leaves time for the second."""
    look_up, answers, asked = socket.getaddrinfo, threading.Event(), []

    def silent(host: str, *rest: Any, **options: Any) -> Any:
        if host != "ledger.test":
            return look_up(host, *rest, **options)
        asked.append(host)
        assert answers.wait(60)
        return [found for name in ("127.0.0.1", "localhost") for found in look_up(name, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr("billhook.store.postgresql._LOOK_UP_SECONDS", PATIENCE)
    url = make_url(postgres.create_database()).set(host="ledger.test")
    database = Database(url.render_as_string(hide_password=False))
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match=r"ledger\.test could not be looked up") as unknown:
            fitness.revision(database)
        assert is_store_away(unknown.value)
    assert len(asked) == 1, "whoever asks meanwhile waits for the same answer"
    answers.set()
    assert fitness.revision(database) is None
    database.close()


@pytest.mark.timeout(20)
def test_a_server_that_became_a_replica_is_left_for_the_one_that_can_be_written_to(postgres: PostgresServer) -> None:
    """As after a failover: a connection that was made too early stays where nothing can be written."""
    url = postgres.create_database()
    database, other = Database(url), Database(url)

    def make(value: str) -> None:
        with other.begin() as tx:
            tx.exec_driver_sql(f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = {value}")

    def write(table: str) -> None:
        with database.begin() as tx:
            tx.exec_driver_sql(f"CREATE TABLE {table} (id int)")

    def state(table: str) -> None:
        with database.statement() as run:
            run(f"CREATE TABLE {table} (id int)", ())

    make("on")
    for do in (write, state):
        with pytest.raises(sa.exc.DBAPIError, match="read-only transaction") as refused:
            do("lost")
        assert is_store_away(refused.value)
        assert is_unwritable(refused.value)
    make("off")  # on a connection of before
    write("kept")
    state("kept_too")
    other.close()
    database.close()


REFUSALS = {
    "a statement that takes too long": "SELECT pg_sleep(15)",
    "a division by zero": "SELECT 1 / 0",
    "a table that is not there": "SELECT * FROM nowhere",
    "a deadlock": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$",
    "a serialization failure": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$",
    "a full disk": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("statement", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_the_server_refuses_is_no_outage(postgres_patient: Database, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError) as refused, postgres_patient.begin() as tx:
        tx.exec_driver_sql(statement)
    assert not is_store_away(refused.value)


@pytest.mark.parametrize("sqlstate", ["08006", "57P01", "57P02", "57P03", "53300"])
def test_what_the_server_says_of_itself_is_one(postgres_patient: Database, sqlstate: str) -> None:
    with pytest.raises(sa.exc.DBAPIError) as away, postgres_patient.begin() as tx:
        tx.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")
    assert is_store_away(away.value)


FORGETTING = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
"""As if the next transaction were on another of the server's connections."""


@pytest.mark.timeout(20)
def test_a_pooler_that_lends_connections_for_a_transaction_costs_one_try(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PgBouncer's words for options, and what it makes of statements that were prepared."""
    connect = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]

    def pooled(kind: type[psycopg.Connection[Any]], *words: Any, **options: Any) -> psycopg.Connection[Any]:
        if "options" in options:
            raise psycopg.OperationalError("connection failed: FATAL:  unsupported startup parameter: options")
        made: psycopg.Connection[Any] = connect(kind, *words, **options)
        return made

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(pooled))
    database = Database(postgres.create_database())

    def ask() -> None:
        for _ in range(8):
            with database.begin() as tx:  # a rollback would forget what is prepared
                tx.exec_driver_sql("SELECT 1")

    def state() -> None:
        with database.statement() as run:
            run("SELECT 2", ())

    def forget() -> None:
        with database.begin() as tx:
            tx.exec_driver_sql(FORGETTING)
        with database.statement() as run:
            run(FORGETTING, ())

    try:
        state()  # takes a connection for good
        ask()
        forget()
        for do in (ask, state):  # each has connections of its own
            with pytest.raises(sa.exc.DBAPIError, match="prepared statement") as lost:
                do()
            assert is_store_away(lost.value), "it is nobody's own fault"
        for do in (ask, state, forget, ask, state):
            do()
    finally:
        database.close()


@pytest.fixture
def postgres_patient(postgres: PostgresServer) -> Iterator[Database]:
    """The client waits longer here than the server does, as it has to for the server's own limit to be seen."""
    database = Database(f"{postgres.create_database()}?options=-c%20statement_timeout%3D300")
    yield database
    database.close()


@pytest.mark.timeout(20)
def test_a_writer_of_sqlite_that_does_not_let_go_ends_the_wait(tmp_path: Path) -> None:
    """Whoever was given up on must not keep what comes too late."""
    path = tmp_path / "billhook.db"
    lay_ledger(path)
    database = Database(f"sqlite:///{path}", answer_seconds=PATIENCE)
    with child(HOLDER, str(path)) as holder:
        for words in ("another writer has held SQLite's lock", "did not answer a moment ago"):
            with pytest.raises(StoreAway, match=words):
                add(database, "too late")
        assert names(database) == []  # readers wait for nobody
        env = Env(Settings(var=tmp_path))
        vars(env)["database"] = database
        assert Probes(env, Health()).answer("/readyz")[0] == 503, "but who is sent here wants to write"
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        holder.wait(10)
    add_in_the_end(database, "ours")
    other = Database(f"sqlite:///{path}")
    add(other, "another process would say the same")
    assert len(names(database)) == 2
    other.close()
    database.close()


def test_writers_that_meet_still_wake_each_other(tmp_path: Path) -> None:
    lay_ledger(tmp_path / "billhook.db")
    database = Database(f"sqlite:///{tmp_path / 'billhook.db'}")
    twin = Database(f"sqlite:///{tmp_path / 'billhook.db'}")
    writers = [
        threading.Thread(target=lambda own=own: [add(own, "there") for _ in range(50)]) for own in (database, twin)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(names(database)) == 100
    twin.close()
    database.close()
