"""From a ring to settled work: everything once in effect, and one bad piece of work harms no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from queue_line import Line, until
from store.databases import NOW
from store.events import accept, arrival, put, row

from billhook.errors import TryAgain, Unprocessable
from billhook.parts import Parts
from billhook.queue.consumer import BatchConsumer
from billhook.queue.handler import Rings
from billhook.queue.steps import Steps
from billhook.rules.retry import MAX_ATTEMPTS, Defer, Done, Outcome
from billhook.store import dead_letters, work
from billhook.store.database import Database, Tx
from billhook.store.documents import NewDocument, add_documents, documents
from billhook.store.inbox import inbox
from billhook_testing.clock import ManualClock
from billhook_testing.servers import PostgresServer, ValkeyServer

LEASE = timedelta(minutes=1)


@dataclass(frozen=True)
class Event:
    id: str
    merchant_id: str
    attempts: int
    name: str


@dataclass
class Clerk:
    """Makes a document of each event, named after it. What goes wrong on the way is handed in, by the event's name."""

    prepare_raises: dict[str, Exception] = field(default_factory=dict)
    perform_raises: dict[str, Exception] = field(default_factory=dict)
    effects_raise: dict[str, Exception] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    meanwhile: Callable[[], object] = lambda: None
    performed: list[list[str]] = field(default_factory=list)
    table: sa.Table = inbox
    batch: int = 10
    lease: timedelta = LEASE
    max_attempts: int = MAX_ATTEMPTS

    def prepare(self, tx: Tx, rows: Sequence[work.Row]) -> list[Event]:
        jobs = [Event(found["id"], found["merchant_id"], found["attempts"], found["external_id"]) for found in rows]
        for job in jobs:
            if job.name in self.prepare_raises:
                raise self.prepare_raises[job.name]
        return jobs

    def perform(self, jobs: Sequence[Event]) -> list[tuple[Event, Outcome, NewDocument]]:
        self.performed.append([job.name for job in jobs])
        for job in jobs:
            if job.name in self.perform_raises:
                raise self.perform_raises[job.name]
        self.meanwhile()
        done = Done("processed")
        return [
            (job, self.outcomes.get(job.name, done), NewDocument("mrc_a", job.name, "invoice", "billhook-2", b""))
            for job in jobs
        ]

    def effects(self, tx: Tx, results: Sequence[tuple[Event, Outcome, NewDocument]], now: datetime) -> Rings:
        wanted = [document for _, outcome, document in results if isinstance(outcome, Done)]
        made = add_documents(tx, wanted, now)
        for job, _, _ in results:
            if job.name in self.effects_raise:
                raise self.effects_raise[job.name]
        return {"documents": made}


class Office:
    """A clerk with a database, a queue and a clock of its own."""

    def __init__(self, clerk: Clerk, database: Database, line: Line) -> None:
        self.clerk = clerk
        self.database = database
        self.line = line
        self.clock = ManualClock(NOW)
        self.steps: Steps[Event, NewDocument] = Steps(clerk, database, line.bell, line.metrics, self.clock)
        self.consumer = BatchConsumer(self.steps, line.listener, line.metrics, Parts())

    def made(self) -> list[str]:
        with self.database.read() as tx:
            return list(tx.execute(sa.select(documents.c.subject_id).order_by(documents.c.subject_id)).scalars())

    def letters(self) -> list[tuple[str, str, int]]:
        with self.database.read() as tx:
            return [(row["work_id"], row["reason"], row["attempts"]) for row in dead_letters.list_dead(tx)]

    def finished(self, outcome: str) -> float:
        return self.line.metric("jobs_finished_total", outcome=outcome)


@pytest.fixture
def clerk() -> Clerk:
    return Clerk()


@pytest.fixture
def office(clerk: Clerk, database: Database, line: Line) -> Office:
    return Office(clerk, database, line)


@pytest.fixture
def running(office: Office) -> Iterator[Office]:
    office.consumer.start()
    yield office
    assert office.consumer.stop(timeout=20)


def test_what_is_rung_for_is_done_and_rings_for_what_follows(running: Office) -> None:
    events = put(running.database, 25)
    running.line.bell.ring("inbox", events)
    until(lambda: len(running.made()) == 25)
    assert {row(running.database, event)["state"] for event in events} == {"processed"}
    until(lambda: running.line.broker.waiting("documents") > 0)
    until(lambda: running.finished("processed") == 25)
    assert running.line.metric("jobs_claimed_total") == 25


def test_what_was_due_before_anybody_listened_is_done_without_a_ring(
    clerk: Clerk, database: Database, line: Line
) -> None:
    put(database, 35)
    office = Office(clerk, database, line)
    office.consumer.start()
    until(lambda: len(office.made()) == 35)
    assert office.consumer.stop(timeout=20)
    assert [len(batch) for batch in clerk.performed] == [10, 10, 10, 5]


def test_a_poisoned_event_is_set_apart_retried_and_buried_in_the_end(office: Office) -> None:
    events = put(office.database, 5)
    office.clerk.perform_raises["e2"] = ValueError("broken")
    assert office.steps.run(None) == 5
    assert office.made() == ["e0", "e1", "e3", "e4"]
    assert office.clerk.performed == [["e0", "e1", "e2", "e3", "e4"], ["e0"], ["e1"], ["e2"], ["e3"], ["e4"]]
    poisoned = row(office.database, events[2])
    assert (poisoned["state"], poisoned["attempts"], poisoned["last_error"]) == ("due", 1, "ValueError: broken")
    assert NOW + timedelta(seconds=1) <= poisoned["due_at"] <= NOW + timedelta(seconds=1.2)
    tries = 1
    while (poisoned := row(office.database, events[2]))["state"] == "due":
        office.clock.at = poisoned["due_at"]
        assert office.steps.run(None) == 1
        tries += 1
    assert tries == MAX_ATTEMPTS
    assert office.letters() == [(events[2], "gave up after 11 attempts: ValueError: broken", 11)]
    assert (office.finished("retry"), office.finished("dead")) == (10, 1)


def test_what_cannot_be_understood_is_dead_at_once(office: Office) -> None:
    events = put(office.database, 3)
    office.clerk.perform_raises["e1"] = Unprocessable("a currency nobody knows: \0 \ud800")
    office.steps.run(events)
    assert office.made() == ["e0", "e2"]
    assert row(office.database, events[1])["state"] == "dead"
    assert office.letters() == [(events[1], "a currency nobody knows: \\0 ?", 1)]


def test_what_cannot_even_be_prepared_harms_no_other(office: Office) -> None:
    events = put(office.database, 4)
    office.clerk.prepare_raises = {"e1": KeyError("currency"), "e2": Unprocessable("no id")}
    assert office.steps.run(events) == 2
    assert office.made() == ["e0", "e3"]
    waiting = row(office.database, events[1])
    assert (waiting["state"], waiting["attempts"], waiting["last_error"]) == ("due", 1, "KeyError: 'currency'")
    assert office.letters() == [(events[2], "no id", 1)]
    assert (office.finished("retry"), office.finished("dead")) == (1, 1)


def test_who_asks_for_time_gets_it(office: Office) -> None:
    [event] = put(office.database, 1)
    office.clerk.perform_raises["e0"] = TryAgain("the provider is busy", after_seconds=90)
    office.steps.run([event])
    waiting = row(office.database, event)
    assert NOW + timedelta(seconds=90) <= waiting["due_at"] <= NOW + timedelta(seconds=108)
    assert waiting["last_error"] == "the provider is busy"


def test_what_is_deferred_is_no_attempt(office: Office) -> None:
    [event] = put(office.database, 1)
    office.clerk.outcomes["e0"] = Defer(NOW + LEASE, "its parent is not there yet")
    office.steps.run([event])
    waiting = row(office.database, event)
    assert (waiting["state"], waiting["attempts"], waiting["due_at"]) == ("due", 0, NOW + LEASE)
    assert office.made() == []


def test_whoever_is_slower_than_the_lease_settles_nothing(office: Office) -> None:
    events = put(office.database, 2)
    other = Office(Clerk(outcomes={"e0": Done("ignored")}), office.database, office.line)

    def somebody_else_takes_over() -> None:
        other.clock.at = office.clock.at = NOW + LEASE
        other.steps.run(events[:1])

    office.clerk.meanwhile = somebody_else_takes_over
    office.steps.run(events)
    assert row(office.database, events[0])["state"] == "ignored"
    assert row(office.database, events[0])["attempts"] == 2
    assert row(office.database, events[1])["state"] == "processed"
    assert office.finished("stale") == 1


def test_a_failure_after_the_lease_is_nobodys_business(office: Office) -> None:
    [event] = put(office.database, 1)
    token, jobs = office.steps.claim([event], 1)
    office.clock.at = NOW + LEASE
    Office(Clerk(), office.database, office.line).steps.claim([event], 1)
    with office.database.begin() as tx:
        tx.execute(sa.update(inbox).values(token="tok_of_another"))
    office.steps.fail(token, jobs[0], Unprocessable("too late"))
    assert row(office.database, event)["token"] == "tok_of_another"
    assert office.letters() == []


def test_effects_and_the_mark_are_one_transaction(office: Office) -> None:
    events = put(office.database, 2)
    office.clerk.effects_raise["e1"] = ZeroDivisionError()
    office.steps.run(events)
    assert office.made() == ["e0"]
    assert row(office.database, events[1])["state"] == "due"
    del office.clerk.effects_raise["e1"]
    office.clock.at = NOW + LEASE
    office.steps.run(events)
    assert office.made() == ["e0", "e1"]


def test_what_the_database_refuses_is_that_works_own_failure(office: Office) -> None:
    events = put(office.database, 3)
    office.clerk.effects_raise["e1"] = sa.exc.DataError("INSERT", {}, ValueError("a value that does not fit"))
    office.steps.run(events)
    assert office.made() == ["e0", "e2"]
    assert "a value that does not fit" in row(office.database, events[1])["last_error"]


@pytest.mark.parametrize(
    "refusal", [psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected, psycopg.errors.DiskFull]
)
def test_work_that_the_database_takes_too_long_for_harms_no_other(
    office: Office, refusal: type[psycopg.OperationalError]
) -> None:
    """An outage would be nobody's attempt: that event would come again and again, and take its batch along."""
    events = put(office.database, 3)
    office.clerk.effects_raise["e1"] = sa.exc.OperationalError("INSERT …", {}, refusal("no"))
    assert office.steps.run(events) == 3
    assert office.made() == ["e0", "e2"]
    alone = row(office.database, events[1])
    assert (alone["state"], alone["attempts"]) == ("due", 1)


def test_work_that_was_tried_before_runs_alone(office: Office) -> None:
    tried = put(office.database, 2)
    office.steps.claim(tried, 2)
    office.clock.at = NOW + LEASE
    fresh = accept(office.database, arrival("new1"), arrival("new2"))
    office.steps.run([*tried, *(receipt.id for receipt in fresh)])
    assert office.clerk.performed == [["new1", "new2"], ["e0"], ["e1"]]


def test_work_that_kills_its_worker_ends_as_a_dead_letter(office: Office) -> None:
    [event] = put(office.database, 1)
    for _ in range(MAX_ATTEMPTS):
        office.steps.claim(None, 1)
        office.clock.at += LEASE
    assert office.steps.run(None) == 0
    [(work_id, reason, attempts)] = office.letters()
    assert (work_id, attempts) == (event, MAX_ATTEMPTS)
    assert "kill its worker" in reason
    assert row(office.database, event)["state"] == "dead"
    assert office.clerk.performed == []


def test_a_consumer_finishes_what_it_has_in_hand_before_it_stops(office: Office) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def hold_on() -> None:
        begun.set()
        assert may_go_on.wait(30)

    office.clerk.meanwhile = hold_on
    events = put(office.database, 1)
    office.consumer.start()
    assert begun.wait(30)
    assert not office.consumer.stop(timeout=0.01)
    may_go_on.set()
    assert office.consumer.stop(timeout=30)
    assert row(office.database, events[0])["state"] == "processed"


def test_a_consumer_goes_on_when_its_database_comes_back(
    fragile_postgres: PostgresServer, fragile_template: str, line: Line
) -> None:
    postgres = fragile_postgres
    database = Database(postgres.create_database(fragile_template))
    office = Office(Clerk(), database, line)
    office.consumer.start()
    line.bell.ring("inbox", put(database, 1))
    until(lambda: office.made() == ["e0"])
    postgres.kill()
    line.bell.ring("inbox", ["evt_unknown"])
    until(lambda: line.metric("store_errors_total") > 0)
    postgres.start()
    database.engine.dispose()
    accept(database, arrival("afterwards"))
    until(lambda: office.made() == ["afterwards", "e0"])
    assert office.consumer.stop(timeout=20)
    database.close()


def test_a_consumer_does_its_work_without_redis(clerk: Clerk, database: Database, tmp_path: Path) -> None:
    valkey = ValkeyServer(tmp_path)
    valkey.start()
    url = valkey.url
    valkey.stop()
    with Line(url) as line:
        office = Office(clerk, database, line)
        office.consumer.start()
        put(database, 3)
        until(lambda: office.made() == ["e0", "e1", "e2"])
        accept(database, arrival("later"))
        until(lambda: "later" in office.made())
        assert office.consumer.stop(timeout=20)


def test_work_that_takes_longer_than_its_lease_is_not_taken_away(office: Office, clerk: Clerk) -> None:
    clerk.lease = office.steps._leases.lease = timedelta(milliseconds=60)
    (event,) = put(office.database, 1)

    def two_leases() -> None:
        for _ in range(2):
            office.clock.move(seconds=clerk.lease.total_seconds())
            kept_until = office.clock() + clerk.lease
            until(lambda kept_until=kept_until: row(office.database, event)["due_at"] >= kept_until)
        assert office.steps.claim(None, 10)[1] == []

    clerk.meanwhile = two_leases
    office.steps.run(None)
    assert row(office.database, event)["state"] == "processed"
    assert clerk.performed == [["e0"]]
