"""The relay beside a real queue: what is due is rung for, and jobs of replays run to their end by themselves."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from queue_line import Line, until
from store.databases import NOW
from store.events import arrival, put
from store.history import delivery, endpoint_of

from billhook.parts import Parts
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.clock import system_clock
from billhook.store import inbox, work
from billhook.store.database import Database
from billhook.store.deliveries import deliveries
from billhook.store.replays import Replay, create_replay, get_replay
from billhook_testing.clock import ManualClock
from billhook_testing.servers import ValkeyServer
from services.relay.exporter import Exporter
from services.relay.replaying import LOOK_SECONDS, MOST_UNTOUCHED, Replaying
from services.relay.sweep import GRACE, LIMIT, Sweeper

HOUR = timedelta(hours=1)


@pytest.fixture
def sweeper(database: Database, line: Line) -> Sweeper:
    clock = ManualClock(NOW + GRACE)
    return Sweeper(database, line.broker, line.bell, line.metrics, clock, Parts())


def test_what_is_due_is_rung_for_by_name(sweeper: Sweeper, database: Database, line: Line) -> None:
    events = put(database, 3)
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW)
        delivery(tx, endpoint, NOW, "due")
    line.open()
    rung = sweeper.sweep()
    assert {queue: count for queue, count in rung.items() if count} == {"inbox": 3, "deliveries": 1}
    assert "deliveries.replay" in rung
    heard: list[str] = []
    until(lambda: bool(heard.extend(line.listener.take(10, timeout=1) or []) or len(heard) == 3))
    assert sorted(heard) == sorted(events)
    assert line.metric("sweeper_rerung_total") == 3


def test_at_rest_nothing_is_asked_until_somebody_writes_something_falls_due_or_the_clock_is_set(
    database: Database, line: Line
) -> None:
    began, set_to = time.monotonic(), timedelta()

    def clock() -> datetime:
        return NOW + GRACE + set_to + timedelta(seconds=time.monotonic() - began)

    sweeper = Sweeper(database, line.broker, line.bell, line.metrics, clock, Parts())
    exporter = Exporter(database, line.metrics, clock, Parts())

    def would_find_nothing() -> bool:
        return sweeper.would_find_nothing(sweeper.stamp())

    def rests() -> tuple[bool, bool]:
        sweeper.sweep(sweeper.stamp())
        exporter.read()
        time.sleep(0.02)  # in the same instant two writes on SQLite would look like one
        return would_find_nothing(), exporter.is_at_rest()

    def comes_to_rest(as_far_as: tuple[bool, bool]) -> bool:
        """PostgreSQL's own work, and that of other databases of the same server, may come between."""
        return any(rests() == as_far_as for _ in range(100))

    assert not would_find_nothing()
    assert comes_to_rest((True, True))
    [event] = put(database, 1)
    assert (would_find_nothing(), exporter.is_at_rest()) == (False, False)
    assert rests() == (False, False), "what is due is rung for until somebody takes it"

    with database.begin() as tx:
        tx.execute(sa.update(inbox.inbox).values(due_at=NOW + HOUR))
    assert comes_to_rest((True, False))
    set_to = HOUR
    assert not would_find_nothing()
    set_to = timedelta()

    with database.begin() as tx:
        work.finish(tx, inbox.inbox, [event], "processed", NOW)
    assert comes_to_rest((True, True))
    set_to = timedelta(seconds=-30)
    assert not would_find_nothing()


def test_where_much_is_due_consumers_are_told_to_look_themselves(
    sweeper: Sweeper, database: Database, line: Line
) -> None:
    with database.begin() as tx:
        inbox.accept(tx, [arrival(f"e{number}") for number in range(LIMIT)], NOW)
    line.open()
    assert sweeper.sweep()["inbox"] == LIMIT
    until(lambda: line.listener.take(10, timeout=1) is None)
    assert line.listener.take(10, timeout=0) == []


def test_rings_that_nobody_has_heard_are_enough(sweeper: Sweeper, database: Database, line: Line) -> None:
    put(database, 3)
    assert sweeper.sweep()["inbox"] == 3
    until(lambda: line.broker.waiting("inbox") == 1)
    assert "inbox" not in sweeper.sweep()


class Walker:
    """A relay that walks replays by the system's clock, and a courier to whom nothing is ever sent."""

    def __init__(self, database: Database, line: Line) -> None:
        self.database = database
        steps = Steps(Replaying(database, system_clock), database, line.bell, line.metrics, system_clock)
        self.consumer = BatchConsumer(steps, line.listener, line.metrics, Parts(), look_seconds=LOOK_SECONDS)

    def job(self, replay_id: str) -> Replay:
        with self.database.read() as tx:
            found = get_replay(tx, replay_id)
        assert found is not None
        return found

    def deliver(self) -> int:
        query = sa.select(deliveries.c.id).where(deliveries.c.state == "due", deliveries.c.lane == "replay")
        with self.database.begin() as tx:
            ids = list(tx.execute(query).scalars())
            work.finish(tx, deliveries, ids, "delivered", system_clock())
        return len(ids)

    def over(self, replay_id: str) -> bool:
        self.deliver()
        return self.job(replay_id).phase == "done"


def test_a_job_that_was_rung_for_runs_to_its_end_as_fast_as_couriers_are(
    database: Database, valkey: ValkeyServer
) -> None:
    now = system_clock()
    with Line(valkey.url, "replays") as line:
        line.broker.client.flushall()
        with database.begin() as tx:
            endpoint = endpoint_of(tx, "mrc_a", now)
            for _ in range(MOST_UNTOUCHED + 20):
                delivery(tx, endpoint, now - HOUR, "held")
        walker = Walker(database, line)
        walker.consumer.start()
        with database.begin() as tx:
            job = create_replay(tx, "mrc_a", kind="replay", until=now - HOUR / 2, by="key_1", now=now)
        line.bell.ring("replays", [job.id])
        until(lambda: walker.over(job.id))
        assert walker.job(job.id).matched == MOST_UNTOUCHED + 20
        assert walker.consumer.stop(timeout=20)
