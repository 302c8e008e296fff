"""A job puts back what it is asked for, once, beside what is delivered for the first time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.receiver import receiver
from consumers.world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.databases import NOW, TABLES
from store.history import delivery, endpoint_of, made, said, sent

from billhook.metrics import Metrics
from billhook.queue.steps import Steps
from billhook.rules.retry import MAX_ATTEMPTS
from billhook.store import dead_letters, queues, work
from billhook.store.database import Database
from billhook.store.dead_letters import DeadLetter
from billhook.store.deliveries import deliveries
from billhook.store.endpoints import Endpoint, get_endpoint, update_endpoint
from billhook.store.messages import messages
from billhook.store.replay_windows import WINDOW
from billhook.store.replays import Replay, cancel, create_replay, get_replay, replays
from billhook_testing.clock import ManualClock
from services.relay.replaying import FRESH_BACKLOG, MOST_UNTOUCHED, PAUSE, SETTLED, TRICKLE, Replaying

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
OVER = NOW - timedelta(minutes=1)
"""The end of a range in which nothing can appear any more."""


class Ears:
    """Hears the rings."""

    def __init__(self) -> None:
        self.rung: dict[str, list[str]] = {}

    def ring_all(self, rings: Mapping[str, Sequence[str]]) -> None:
        for queue, ids in rings.items():
            self.rung.setdefault(queue, []).extend(ids)


class Relay:
    """One relay, and a courier to whom nothing is ever sent."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock(NOW)
        self.ears = Ears()
        self.handler = Replaying(database, self.clock)
        self.steps = Steps(self.handler, database, self.ears, Metrics(), self.clock)

    def ask(self, **asked: Any) -> str:
        with self.database.begin() as tx:
            wanted = {"kind": "replay", "until": OVER, "by": "key_1", "now": NOW, **asked}
            return create_replay(tx, "mrc_a", **wanted).id

    def job(self, replay_id: str) -> Replay:
        with self.database.read() as tx:
            found = get_replay(tx, replay_id)
        assert found is not None
        return found

    def step(self) -> bool:
        """The next step of a job, when its time has come."""
        self.clock.at += PAUSE
        return self.steps.run(None) == 1

    def put_back(self) -> list[str]:
        """What waits in the lane of replays to be tried."""
        query = sa.select(deliveries.c.id).where(deliveries.c.state == "due", deliveries.c.lane == "replay")
        with self.database.read() as tx:
            return list(tx.execute(query.order_by(deliveries.c.id)).scalars())

    def deliver(self, state: str = "delivered") -> list[str]:
        """Let a courier end all that was put back."""
        ids = self.put_back()
        with self.database.begin() as tx:
            if state == "dead":
                work.give_up(tx, deliveries, [(one, "again") for one in ids], self.clock())
                letters = [DeadLetter("mrc_a", one, "again", 10) for one in ids]
                dead_letters.bury(tx, "deliveries", letters, self.clock())
            else:
                work.finish(tx, deliveries, ids, state, self.clock())
        return ids

    def history(self, count: int, *, state: str = "held", **fields: Any) -> tuple[Endpoint, list[str]]:
        """An endpoint and its deliveries of the last hours, a second apart."""
        with self.database.begin() as tx:
            endpoint = endpoint_of(tx, "mrc_a", NOW)
            message_id = [made("msg", NOW - 5 * HOUR + timedelta(seconds=number)) for number in range(count)]
            delivery_id = [one.replace("msg", "dlv") for one in message_id]
            common = {"merchant_id": endpoint.merchant_id, "created_at": NOW}
            about = {"type": "invoice.paid", "object_kind": "", "object_id": "", "body": b"", "number": 0}
            tx.execute(
                messages.insert(),
                [{"id": one, "inbox_id": one, "occurred_at": NOW, **about, **common} for one in message_id],
            )
            tx.execute(
                deliveries.insert(),
                [
                    {"id": one, "message_id": said, "endpoint_id": endpoint.id, "due_at": NOW, "state": state}
                    | fields
                    | common
                    for one, said in zip(delivery_id, message_id, strict=True)
                ],
            )
        return endpoint, delivery_id


@pytest.fixture
def relay(database: Database) -> Relay:
    return Relay(database)


def test_dead_deliveries_are_put_back_and_their_letters_closed(relay: Relay) -> None:
    with relay.database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW)
        dead = [delivery(tx, endpoint, NOW - HOUR), delivery(tx, endpoint, NOW - DAY)]
        delivered = delivery(tx, endpoint, NOW - HOUR, "delivered")
    job = relay.ask()
    assert relay.step()
    assert relay.put_back() == sorted(dead)
    assert sorted(relay.ears.rung["deliveries.replay"]) == sorted(dead)
    over = relay.job(job)
    assert (over.phase, over.matched, over.progress) == ("done", 2, 1.0)
    with relay.database.read() as tx:
        row = tx.execute(sa.select(deliveries).where(deliveries.c.id == dead[0])).mappings().one()
        assert (row["attempts"], row["due_at"], row["finished_at"]) == (0, relay.clock(), None)
        assert dead_letters.list_dead(tx) == []
        closed = list(tx.execute(sa.select(dead_letters.dead_letters)).mappings())
        assert {(letter["resolution"], letter["resolved_by"]) for letter in closed} == {("replayed", "key_1")}
        unasked = tx.execute(sa.select(deliveries.c.state).where(deliveries.c.id == delivered)).scalar_one()
        assert unasked == "delivered"
    assert not relay.step()


def test_what_was_delivered_comes_again_where_that_is_asked_for(relay: Relay) -> None:
    _, sent_before = relay.history(3, state="delivered")
    relay.ask(states=["delivered"])
    relay.step()
    assert relay.put_back() == sent_before


def test_a_job_takes_windows_and_falls_due_at_once_between_them(relay: Relay) -> None:
    relay.history(WINDOW + 1, state="delivered")
    job = relay.ask()
    assert relay.steps.run(None) == 1
    between = relay.job(job)
    assert (between.phase, between.due_at, between.attempts, between.token) == ("running", NOW, 0, None)
    assert 0.9 < between.progress < 1
    assert relay.steps.run(None) == 1
    assert relay.job(job).phase == "done"


def test_a_job_keeps_pace_with_the_couriers(relay: Relay) -> None:
    endpoint, held = relay.history(MOST_UNTOUCHED + 30)
    with relay.database.begin() as tx:
        other = delivery(tx, endpoint_of(tx, "mrc_a", NOW), NOW - HOUR)
    job = relay.ask(endpoint=endpoint)
    assert relay.step()
    assert relay.put_back() == held[:MOST_UNTOUCHED]
    assert relay.job(job).due_at == relay.clock() + PAUSE
    for _ in range(30):
        assert relay.step()
    waiting = relay.job(job)
    assert (waiting.matched, waiting.attempts) == (MOST_UNTOUCHED, 0), "waiting is no attempt"
    assert "waits" in str(waiting.last_error)

    relay.deliver()
    assert relay.step()
    assert relay.put_back() == held[MOST_UNTOUCHED:]
    assert (relay.job(job).phase, relay.job(job).matched) == ("done", MOST_UNTOUCHED + 30)
    relay.ask()
    relay.step()
    assert other in relay.put_back()


def test_a_slow_endpoint_does_not_hold_up_the_jobs_of_others(relay: Relay) -> None:
    relay.history(MOST_UNTOUCHED, state="due", lane="replay")
    with relay.database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_b", NOW)
        theirs = delivery(tx, endpoint, NOW - HOUR)
        create_replay(tx, "mrc_b", kind="replay", until=OVER, by="key_2", now=NOW)
    relay.ask()
    relay.step()
    relay.step()
    assert theirs in relay.put_back()


def test_beside_a_backlog_of_first_attempts_there_is_a_trickle(relay: Relay) -> None:
    relay.history(FRESH_BACKLOG + 1, state="due")
    endpoint, held = relay.history(3 * TRICKLE)
    relay.ask(endpoint=endpoint)
    relay.step()
    relay.step()
    assert relay.put_back() == held[:TRICKLE]
    relay.deliver()
    relay.step()
    assert relay.put_back() == held[TRICKLE : 2 * TRICKLE]


def test_a_backfill_makes_what_a_new_endpoint_never_had(relay: Relay) -> None:
    with relay.database.begin() as tx:
        old = endpoint_of(tx, "mrc_a", NOW)
        for number in range(3):
            sent(tx, old, said(tx, "mrc_a", NOW - HOUR + timedelta(seconds=number)), NOW - HOUR, "delivered")
        new = endpoint_of(tx, "mrc_a", NOW, "invoice.*")
    for _ in range(2):  # the second finds nothing to do
        job = relay.ask(kind="backfill", endpoint=new)
        relay.step()
        assert relay.job(job).phase == "done"
        assert len(relay.put_back()) == 3
    assert relay.job(job).matched == 0


def test_a_backfill_leaves_alone_what_another_one_made_meanwhile(relay: Relay) -> None:
    with relay.database.begin() as tx:
        said(tx, "mrc_a", NOW - HOUR)
        endpoint = endpoint_of(tx, "mrc_a", NOW)
    first, second = relay.ask(kind="backfill", endpoint=endpoint), relay.ask(kind="backfill", endpoint=endpoint)
    token, jobs = relay.steps.claim([first], 1)
    found = relay.handler.perform(jobs)
    relay.step()
    assert (relay.job(second).phase, relay.job(second).matched) == ("done", 1)
    relay.steps.settle({first: token}, found)
    assert (relay.job(first).phase, relay.job(first).matched) == ("done", 0)
    assert len(relay.put_back()) == 1


def test_nothing_is_put_back_for_endpoints_that_are_disabled_or_deleted(relay: Relay) -> None:
    with relay.database.begin() as tx:
        for gone in ({"disabled_at": NOW}, {"deleted_at": NOW}):
            endpoint = endpoint_of(tx, "mrc_a", NOW, **gone)
            delivery(tx, endpoint, NOW - HOUR, "dead")
            delivery(tx, endpoint, NOW - HOUR, "held")
    job = relay.ask()
    relay.step()
    assert (relay.job(job).phase, relay.job(job).matched) == ("done", 0)


@pytest.mark.parametrize("gone", ["disabled_at", "deleted_at"])
@pytest.mark.parametrize("kind", ["replay", "backfill"])
def test_a_job_whose_endpoint_is_gone_is_canceled(relay: Relay, kind: str, gone: str) -> None:
    endpoint, _ = relay.history(3)
    job = relay.ask(kind=kind, endpoint=endpoint)
    with relay.database.begin() as tx:
        update_endpoint(tx, endpoint.id, **{gone: NOW})
    relay.step()
    assert (relay.job(job).phase, relay.put_back()) == ("canceled", [])


def test_a_canceled_job_puts_nothing_back_any_more_not_even_the_step_in_hand(relay: Relay) -> None:
    endpoint, _ = relay.history(MOST_UNTOUCHED + 30)
    job = relay.ask(endpoint=endpoint)
    relay.step()
    relay.deliver()
    relay.clock.at += PAUSE
    token, jobs = relay.steps.claim(None, 1)
    found = relay.handler.perform(jobs)
    with relay.database.begin() as tx:
        assert cancel(tx, job, relay.clock())
    relay.steps.settle({job: token}, found)
    assert relay.put_back() == []
    assert not relay.step()
    assert (relay.job(job).phase, relay.job(job).matched) == ("canceled", MOST_UNTOUCHED)
    assert relay.job(job).progress < 1


def test_a_job_does_not_pass_an_id_that_may_still_appear(relay: Relay) -> None:
    relay.clock.at = NOW + timedelta(milliseconds=1)
    with relay.database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW)
        first = delivery(tx, endpoint, NOW - SETTLED)
    job = relay.ask(until=NOW)
    assert relay.steps.run(None) == 1
    assert (relay.put_back(), relay.job(job).phase) == ([first], "running")
    with relay.database.begin() as tx:  # its transaction took so long
        late = delivery(tx, endpoint, NOW - SETTLED + timedelta(milliseconds=10))
    assert not relay.step()
    relay.clock.at = relay.job(job).due_at
    assert relay.steps.run(None) == 1
    assert (relay.put_back(), relay.job(job).phase) == ([first, late], "done")


def test_a_step_that_kills_its_relay_again_and_again_is_a_dead_letter_and_can_go_on(relay: Relay) -> None:
    _, held = relay.history(3)
    job = relay.ask()
    for _ in range(MAX_ATTEMPTS):
        assert len(relay.steps.claim(None, 1)[1]) == 1
        relay.clock.at += relay.handler.lease
    assert relay.steps.run(None) == 0
    assert relay.job(job).phase == "dead"
    with relay.database.begin() as tx:
        queues.replay(tx, replays.name, [job], by="key_1", now=relay.clock())
    relay.step()
    assert (relay.job(job).phase, relay.put_back()) == ("done", held)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["step", "crash", "stale", "courier"]), max_size=8))
def test_whatever_happens_everything_is_put_back_exactly_once(database: Database, happens: list[str]) -> None:
    with database.begin() as tx:
        for table in reversed(TABLES):
            tx.execute(table.delete())
    relay = Relay(database)
    relay.history(FRESH_BACKLOG + 1, state="due")  # so that a job takes many steps
    endpoint, held = relay.history(3 * TRICKLE)
    job = relay.ask(endpoint=endpoint)
    counted: Counter[str] = Counter()
    for event in happens:
        relay.clock.at += PAUSE
        if event == "step":
            relay.steps.run(None)
        elif event == "crash":  # it died with the step in hand
            relay.steps.claim(None, 1)
            relay.clock.at += relay.handler.lease
        elif event == "stale":  # it was slower than its lease, and another relay was faster
            token, jobs = relay.steps.claim(None, 1)
            found = relay.handler.perform(jobs)
            relay.clock.at += relay.handler.lease
            relay.steps.run(None)
            relay.steps.settle({job.id: token for job in jobs}, found)
        else:
            counted.update(relay.deliver("dead"))
    for _ in range(20):
        relay.step()
        counted.update(relay.deliver("dead"))
    assert (relay.job(job).phase, relay.job(job).matched) == ("done", len(held))
    assert counted == Counter(held)


def test_what_died_arrives_when_it_is_replayed(world: World) -> None:
    world.clock.at = NOW
    with receiver() as merchant:
        endpoint_id = world.endpoint(merchant.url)
        with world.database.begin() as tx:
            endpoint = get_endpoint(tx, endpoint_id)
            assert endpoint is not None
            message = said(tx, world.merchant_id, NOW - HOUR, body=b'{"a": 1}')
            dead = sent(tx, endpoint, message, NOW - HOUR, attempts=10)
            create_replay(tx, world.merchant_id, kind="replay", until=OVER, by="key_1", now=NOW)
        handler = Replaying(world.database, world.clock)
        assert Steps(handler, world.database, Ears(), world.metrics, world.clock).run(None) == 1
        world.deliver()
    ((headers, body),) = merchant.received
    assert (headers["webhook-id"], body) == (message, b'{"a": 1}')
    assert world.state_of("deliveries", dead) == ("delivered", None)
