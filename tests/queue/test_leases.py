"""The leases of what is in hand: renewed by the monotonic clock, and no longer than a batch may take."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from queue_line import until
from store.databases import NOW
from store.events import put, row

from billhook.queue.leases import LONGEST_BATCH, Leases
from billhook.store import work
from billhook.store.database import Database
from billhook.store.inbox import inbox
from billhook_testing.clock import ManualClock

LEASE = timedelta(seconds=30)


class Desk:
    """Events in hand under leases, at a wall clock and a monotonic clock that we move."""

    def __init__(self, database: Database, count: int = 1) -> None:
        self.database, self.clock, self.seconds = database, ManualClock(NOW), 0.0
        self.leases = Leases(database, inbox, LEASE, self.clock, monotonic=lambda: self.seconds)
        self.ids = put(database, count)
        self.claim()

    def claim(self) -> None:
        with self.database.begin() as tx:
            claim = work.claim(tx, inbox, ids=self.ids, limit=10, max_attempts=9, now=self.clock(), lease=LEASE)
        self.leases.take(claim.token, self.ids)

    def pass_time(self, time: timedelta) -> None:
        self.clock.at += time
        self.seconds += time.total_seconds()
        self.leases.renew()

    def due(self) -> Sequence[datetime]:
        return [row(self.database, row_id)["due_at"] for row_id in self.ids]


def test_what_is_in_hand_is_renewed_and_what_was_given_back_is_not(database: Database) -> None:
    desk = Desk(database, 2)
    desk.pass_time(LEASE / 6)
    assert desk.due() == [NOW + LEASE] * 2  # a third of it is not used up
    desk.pass_time(LEASE / 6)
    renewed = desk.clock() + LEASE
    assert desk.due() == [renewed] * 2
    desk.pass_time(LEASE / 6)
    assert desk.due() == [renewed] * 2
    first = desk.ids[0]
    desk.leases.release({first: "tok_of_another"})  # which is not what it is held under
    assert desk.leases.holds(first)
    desk.leases.release({first: desk.leases.token(first)})
    desk.pass_time(LEASE / 2)
    assert desk.due() == [renewed, desk.clock() + LEASE]
    assert [desk.leases.holds(row_id) for row_id in desk.ids] == [False, True]


def test_a_batch_that_is_stuck_loses_its_lease(database: Database) -> None:
    desk = Desk(database)
    while desk.seconds < LONGEST_BATCH.total_seconds():
        assert desk.due()[0] > desk.clock()
        desk.pass_time(LEASE / 2)
    (until,) = desk.due()
    assert until - NOW <= LONGEST_BATCH + LEASE
    for _ in range(3):
        desk.pass_time(LEASE)
    assert desk.due() == [until]
    desk.claim()  # somebody else, or this process once more
    desk.pass_time(LEASE / 2)
    assert desk.due() == [desk.clock() + LEASE]


def test_a_wall_clock_that_is_set_back_does_not_stop_the_renewals(database: Database) -> None:
    desk = Desk(database)
    desk.clock.at -= timedelta(hours=1)
    desk.pass_time(LEASE / 2)
    assert desk.due() == [desk.clock() + LEASE]


def test_what_somebody_else_has_is_not_renewed(database: Database) -> None:
    desk = Desk(database)
    with database.begin() as tx:
        tx.execute(sa.update(inbox).values(token="tok_of_another"))
    desk.pass_time(LEASE / 2)
    assert desk.due() == [NOW + LEASE]


def test_a_database_that_is_away_for_a_while_does_not_end_the_renewals(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(database)
    desk.leases.lease = timedelta(milliseconds=6)
    done, tries = threading.Event(), 0

    def renew() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise sa.exc.OperationalError("UPDATE", {}, ConnectionError("away"))
        done.set()

    monkeypatch.setattr(desk.leases, "renew", renew)
    desk.leases.keep(done)
    assert tries == 3


def test_one_thread_renews_for_block_after_block_and_ends_when_none_follows(database: Database) -> None:
    desk = Desk(database)
    desk.leases.lease = timedelta(seconds=0.12)
    with database.read() as tx:
        token = tx.execute(sa.select(inbox.c.token)).scalar_one()
    others = keepers()
    with desk.leases.kept(token, desk.ids):
        [keeper] = keepers() - others
        desk.clock.at += timedelta(seconds=20)
        desk.seconds += 20
        until(lambda: desk.due() == [desk.clock() + desk.leases.lease])
    assert len(desk.leases) == 0
    with desk.leases.kept(token, desk.ids):
        desk.leases.take("tok_of_the_next", desk.ids)
        assert keepers() - others == {keeper}
    assert [desk.leases.token(row_id) for row_id in desk.ids] == ["tok_of_the_next"]
    desk.leases.release(dict.fromkeys(desk.ids, "tok_of_the_next"))
    until(lambda: not keeper.is_alive())


def keepers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "keeper"}
