"""A transaction is whole or it is nothing, and whoever waits for one gets its turn."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store.databases import NOW, lay_ledger

from billhook.store import merchants
from billhook.store.database import Database, after_commit
from billhook.store.schema import Instant, new_id, to_micros
from billhook_testing.servers import PostgresServer

WRITER = """
import sys
from datetime import UTC, datetime
from billhook.store.database import Database
from billhook.store.merchants import create_merchant
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    with database.begin() as tx:
        create_merchant(tx, "there", datetime.now(UTC))
database.close()
"""

KILLED = """
import sys
from datetime import UTC, datetime
from billhook.store.database import Database
from billhook.store.merchants import create_merchant
with Database(sys.argv[1]).begin() as tx:
    create_merchant(tx, "half done", datetime.now(UTC))
    print("in the middle", flush=True)
    sys.stdin.readline()
"""

times = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 (hypothesis wants the bounds bare)
    max_value=datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


def add(database: Database, name: str) -> None:
    with database.begin() as tx:
        merchants.create_merchant(tx, name, NOW)


def names(database: Database) -> list[str]:
    with database.read() as tx:
        return [merchant.name for merchant in merchants.list_merchants(tx, limit=10_000)]


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process running the script, up to its first line of output."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def address(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def test_what_raises_leaves_nothing(database: Database) -> None:
    def half() -> None:
        with database.begin() as tx:
            merchants.create_merchant(tx, "never", NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert names(database) == []
    add(database, "ever")
    assert names(database) == ["ever"]


def test_what_is_to_follow_a_commit_follows_none_that_failed(database: Database) -> None:
    done: list[str] = []
    with database.begin() as tx:
        after_commit(tx, lambda: done.append("committed"))
        assert done == []
    assert done == ["committed"]

    def fail() -> None:
        with database.begin() as tx:
            after_commit(tx, lambda: done.append("never"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.begin():
        pass
    assert done == ["committed"]


def test_one_reading_sees_one_moment(database: Database) -> None:
    add(database, "before")
    with database.read() as tx:
        seen = merchants.list_merchants(tx)
        add(database, "meanwhile")
        assert merchants.list_merchants(tx) == seen
    assert names(database) == ["before", "meanwhile"]


def test_writers_in_threads_and_in_another_process_all_get_their_turn(database: Database) -> None:
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for _ in range(25):
                add(database, name)
        except BaseException as error:
            failures.append(error)

    with child(WRITER, address(database), "100") as other:
        threads = [threading.Thread(target=write, args=(f"here {number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        _, said = other.communicate("\n", timeout=60)
        for thread in threads:
            thread.join()
    assert (failures, said, other.returncode) == ([], "", 0)
    written = names(database)
    assert [written.count(name) for name in ("there", *(f"here {n}" for n in range(6)))] == [100, *([25] * 6)]


def test_a_writer_that_is_killed_leaves_no_lock_and_no_half(database: Database) -> None:
    with child(KILLED, address(database)) as other:
        other.kill()
        other.wait()
    add(database, "after")
    assert names(database) == ["after"]


def test_a_database_that_was_closed_opens_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    for _ in range(2):
        with database.begin() as tx:
            assert tx.exec_driver_sql("SELECT 1").scalar() == 1
        database.close()


def test_what_was_lent_when_a_database_was_closed_is_closed_when_it_comes_back(database: Database) -> None:
    with database.read() as tx:
        lent = tx.connection.dbapi_connection
        database.close()
    with pytest.raises(Exception, match="closed"):
        lent.cursor().execute("SELECT 1")


def test_sqlite_keeps_its_promises_through_a_power_cut(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.begin() as tx:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        assert [tx.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas] == ["wal", 2, 1]
    database.close()


def test_the_log_of_sqlite_is_cut_when_nobody_reads_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billhook.store.sqlite.LONGEST_LOG", 100_000)
    database = Database(f"sqlite:///{tmp_path}/x.db")

    def write(size: int) -> int:
        with database.begin() as tx:
            tx.exec_driver_sql("INSERT INTO t VALUES (zeroblob(?))", (size,))
        database.checkpoint()
        return (tmp_path / "x.db-wal").stat().st_size

    with database.begin() as tx:
        tx.exec_driver_sql("CREATE TABLE t (x)")
    with database.read() as reader:
        reader.exec_driver_sql("SELECT * FROM t").all()
        write(500_000)
        assert write(500_000) > 1_000_000
    write(1)
    assert write(1) <= 100_000
    database.close()


@settings(max_examples=60, deadline=None)
@example(at=datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC))
@example(at=datetime(2999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
@given(at=times)
def test_a_time_comes_back_as_it_was_to_the_microsecond(migrated: Database, at: datetime) -> None:
    with migrated.read() as tx:
        back = tx.execute(sa.select(sa.cast(sa.literal(at, Instant), Instant))).scalar_one()
    assert back == at
    assert back.tzinfo is UTC


@given(st.lists(times, min_size=2, max_size=2))
def test_stored_times_are_in_the_order_of_the_times(pair: list[datetime]) -> None:
    assert (to_micros(pair[0]) < to_micros(pair[1])) == (pair[0] < pair[1])


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_micros(NOW.replace(tzinfo=None))


def test_ids_made_later_sort_later() -> None:
    made = [new_id("evt") for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000


def test_a_checkpoint_folds_the_log_back_while_others_write(tmp_path: Path) -> None:
    lay_ledger(tmp_path / "billhook.db")
    database = Database(f"sqlite:///{tmp_path}/billhook.db")
    before = (tmp_path / "billhook.db").stat().st_size
    with database.begin() as tx:
        for number in range(500):  # more than the pages that the schema left free
            merchants.create_merchant(tx, f"written {number}", NOW)
        database.checkpoint()  # waits for nobody, this transaction included
    database.checkpoint()
    assert (tmp_path / "billhook.db").stat().st_size > before
    database.close()


def test_an_error_does_not_say_what_a_statement_was_given(database: Database) -> None:
    """Errors go into logs, and what stands in the rows is customers' data."""
    with pytest.raises(sa.exc.DBAPIError) as refused, database.begin() as tx:
        tx.execute(sa.text("INSERT INTO nowhere VALUES (:email)"), {"email": "ada@example.com"})
    assert "ada@example.com" not in str(refused.value)


def test_another_default_of_the_servers_changes_nothing(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    name = url.rpartition("/")[2]
    database, other = Database(url), Database(postgres.url)
    for setting in (
        "datestyle = 'German'",
        "default_transaction_isolation = 'serializable'",
        "timezone = 'Asia/Kolkata'",
    ):
        with other.begin() as tx:
            tx.exec_driver_sql(f"ALTER DATABASE {name} SET {setting}")
    with database.begin() as tx:
        [(now, isolation)] = tx.exec_driver_sql("SELECT now(), current_setting('transaction_isolation')")
    assert abs((now - datetime.now(UTC)).total_seconds()) < 60
    assert isolation == "read committed"
    database.close()
    other.close()


def test_only_what_may_be_lost_is_not_synced(database: Database) -> None:
    asked, off = ("PRAGMA synchronous", 1) if database.sqlite else ("SHOW synchronous_commit", "off")
    said = []
    for durable in (True, False, True):
        with database.begin(durable=durable) as tx:
            said.append(tx.exec_driver_sql(asked).scalar())
    assert said[1] == off
    assert said[0] == said[2] != off
    with pytest.raises(ZeroDivisionError), database.begin(durable=False):
        1 / 0  # noqa: B018
    with database.statement() as run:  # which is lent the same connection
        assert run(asked, ()).fetchall()[0][0] == said[0]
