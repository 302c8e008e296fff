"""`make chaos` in short: every kind of fault once, on one database or the other, and everything is accounted for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from billhook.outlets.objects import DirectoryObjects
from billhook.store.database import Database
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.messages import messages
from billhook.store.schema import new_id
from billhook_testing.postgres_installation import NoServer
from billhook_testing.servers import PostgresServer, postgres_server
from tests.chaos.account import account
from tests.chaos.evidence import gather
from tests.chaos.faults import (
    EMPTIED,
    EVERYTHING,
    FLUSHED,
    KILLS,
    Fault,
    absent,
    frozen,
    server_absent,
    server_frozen,
    writer_held,
)
from tests.chaos.run import Options, Report, run

# A run that hangs ends by its own deadlines and says what was left; this is for the case that it does not.
pytestmark = pytest.mark.timeout(240)


def test_nothing_is_lost_on_sqlite_when_services_are_killed_one_by_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'billhook.db'}"
    report = _run(url, tmp_path, 11, *KILLS, FLUSHED, frozen(2), writer_held(2))
    _assert_balanced(report)
    # The same run, robbed: an account that could not find this would have proved nothing.
    _assert_found(report, Database(url), DirectoryObjects(tmp_path / "objects"))


def test_nothing_is_lost_on_postgresql_when_all_fall_at_once_and_the_queue_stays_away(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    _assert_balanced(_run(postgres.create_database(), tmp_path, 9, EVERYTHING, EMPTIED, absent(4)))


def test_nothing_is_lost_when_the_database_server_stands_still_and_is_killed(tmp_path: Path) -> None:
    try:
        with postgres_server(tmp_path) as server:  # with fsync, and nobody else's
            faults = (server_frozen(2), server_absent(0), server_absent(2))
            _assert_balanced(_run(server.create_database(), tmp_path, 10, *faults, server=server))
    except NoServer as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def _run(url: str, directory: Path, seconds: float, *faults: Fault, server: PostgresServer | None = None) -> Report:
    options = Options(
        faults=faults,
        seconds=seconds,
        rate=30,
        random_kills=1,
        quiet=1.0,
        lease_seconds=3.0,
        refuse=0.0,
        server=server,
    )
    return run(url, directory, options, print)


def _assert_balanced(report: Report) -> None:
    assert report.account.lost == []
    assert report.account.doubled == []
    assert report.unfinished == []
    assert report.account.accepted == report.begun
    assert report.ok


def _assert_found(report: Report, database: Database, objects: DirectoryObjects) -> None:
    with database.begin() as tx:
        victim = tx.execute(sa.select(deliveries.c.id).order_by(deliveries.c.id).offset(5).limit(1)).scalar_one()
        tx.execute(deliveries.delete().where(deliveries.c.id == victim))
        twin = dict(tx.execute(sa.select(messages).order_by(messages.c.id).offset(9).limit(1)).mappings().one())
        tx.execute(messages.insert().values(**{**twin, "id": new_id("msg"), "number": 1}))
        file = tx.execute(sa.select(documents.c.id).limit(1)).scalar_one()
        tx.execute(sa.update(documents).where(documents.c.id == file).values(object_key="documents/gone.pdf"))
    result = account(gather(database, objects, report.evidence.accepted[:-1], report.evidence.arrivals))
    database.close()
    assert sum("delivery to" in sentence for sentence in result.lost) == 1
    assert sum("document" in sentence for sentence in result.lost) == 1
    assert any("message is there 2 times" in sentence for sentence in result.doubled)
    assert any("in the inbox, and nothing accepted asks for it" in sentence for sentence in result.doubled)
