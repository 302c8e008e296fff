"""What is older than its time is deleted in small batches; what is still wanted, and what was said, stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.history import delivery, endpoint_of, made, said, sent, tried

from billhook.metrics import Metrics
from billhook.outlets.objects import Objects
from billhook.parts import Parts
from billhook.store import dead_letters, retention
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.messages import Message, add_messages, messages
from billhook.store.publications import UsedKey, add_used_keys, find_used_keys
from billhook.store.retention import delete_attempts, delete_idempotency_keys, prune_messages
from billhook_testing.clock import ManualClock
from services.relay.pruning import Keep, Pruner

DAY = timedelta(days=1)
CUTOFF = NOW - 90 * DAY
OLD = CUTOFF - timedelta(milliseconds=1)


def ids_in(tx: Tx, table: sa.Table) -> set[str]:
    return set(tx.execute(sa.select(table.c.id)).scalars())


def bodies(tx: Tx) -> dict[str, bytes]:
    return {row[0]: bytes(row[1]) for row in tx.execute(sa.select(messages.c.id, messages.c.body))}


def state(tx: Tx, delivery_id: str) -> str:
    return str(tx.execute(sa.select(deliveries.c.state).where(deliveries.c.id == delivery_id)).scalar_one())


def test_old_attempts_go_and_young_ones_stay(database: Database) -> None:
    with database.begin() as tx:
        for hours in range(3):
            tried(tx, "dlv_1", OLD - timedelta(hours=hours))
        young = {tried(tx, "dlv_1", CUTOFF), tried(tx, "dlv_1", NOW)}
        assert delete_attempts(tx, CUTOFF).count == 3
        assert ids_in(tx, delivery_attempts) == young
        assert delete_attempts(tx, CUTOFF).count == 0


def test_an_old_body_is_emptied_and_its_row_keeps_the_event_from_speaking_twice(database: Database) -> None:
    event = Message(made("msg", OLD), "mrc_a", "invoice.paid", "invoice", "inv_1", b"{}", "evt_1", 0, OLD)
    with database.begin() as tx:
        add_messages(tx, [event], OLD)
        young = said(tx, "mrc_a", CUTOFF)
        assert prune_messages(tx, CUTOFF, NOW).count == 1
        assert bodies(tx) == {event.id: b"", young: b"{}"}
        assert prune_messages(tx, CUTOFF, NOW).count == 0
        again = Message(made("msg", NOW), "mrc_a", "invoice.paid", "invoice", "inv_1", b"{}", "evt_1", 0, NOW)
        assert add_messages(tx, [again], NOW) == []


def test_what_is_still_on_its_way_keeps_its_body(database: Database) -> None:
    with database.begin() as tx:
        here, there = endpoint_of(tx, "mrc_a", OLD), endpoint_of(tx, "mrc_a", OLD)
        message = said(tx, "mrc_a", OLD)
        sent(tx, here, message, OLD, "delivered")
        due = sent(tx, there, message, OLD, "due")
        assert prune_messages(tx, CUTOFF, NOW).count == 0
        assert bodies(tx) == {message: b"{}"}
        tx.execute(sa.update(deliveries).where(deliveries.c.id == due).values(state="delivered"))
        assert prune_messages(tx, CUTOFF, NOW).count == 1


def test_what_was_never_delivered_is_closed_with_a_trace(database: Database) -> None:
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", OLD)
        held, dead, done = (delivery(tx, endpoint, OLD, state) for state in ("held", "dead", "delivered"))
        young = delivery(tx, endpoint, CUTOFF, "dead")
        dead_letters.bury(tx, "inbox", [dead_letters.DeadLetter("mrc_a", dead, "the same id elsewhere", 1)], NOW)
        letters = {(row["queue"], row["work_id"]): row["id"] for row in dead_letters.list_dead(tx)}

        assert prune_messages(tx, CUTOFF, NOW).count == 3

        assert [state(tx, one) for one in (held, dead, done, young)] == ["expired", "dead", "delivered", "dead"]
        closed = dead_letters.get_dead(tx, letters["deliveries", dead])
        assert closed is not None
        assert (closed["resolution"], closed["resolved_by"], closed["resolved_at"]) == ("expired", "retention", NOW)
        assert {(row["queue"], row["work_id"]) for row in dead_letters.list_dead(tx)} == {
            ("inbox", dead),
            ("deliveries", young),
        }


def test_old_idempotency_keys_are_forgotten(database: Database) -> None:
    with database.begin() as tx:
        message = said(tx, "mrc_a", OLD)
        for merchant, key, at in (("mrc_a", "one", OLD), ("mrc_b", "one", CUTOFF), ("mrc_a", "two", NOW)):
            add_used_keys(tx, [UsedKey(merchant, key, b"", message)], at)
        assert delete_idempotency_keys(tx, CUTOFF) == 1
        assert not find_used_keys(tx, [("mrc_a", "one")])
        assert find_used_keys(tx, [("mrc_b", "one")])
        assert find_used_keys(tx, [("mrc_a", "two")])


def test_a_batch_is_bounded_and_the_next_one_goes_on_behind_it(database: Database) -> None:
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", OLD)
        for number in range(retention.MESSAGES_BATCH):  # all of them on their way: they must not be in the way
            delivery(tx, endpoint, OLD - DAY + timedelta(seconds=number), "due")
        over = delivery(tx, endpoint, OLD, "held")
        for _ in range(retention.BATCH + 1):
            tried(tx, over, OLD)
        attempts = delete_attempts(tx, CUTOFF)
        assert (attempts.count, attempts.more) == (retention.BATCH, True)
        first = prune_messages(tx, CUTOFF, NOW)
        assert (first.count, first.more) == (0, True)
        second = prune_messages(tx, CUTOFF, NOW, after=first.last)
        assert (second.count, second.more) == (1, False)
        assert state(tx, over) == "expired"


def test_of_many_that_have_to_stay_a_step_looks_at_some_and_the_next_round_at_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of them took seconds in one statement, each hour anew."""
    monkeypatch.setattr(retention, "LOOKED_AT", 3)
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", OLD)
        stay = [delivery(tx, endpoint, OLD - DAY + timedelta(seconds=number), "due") for number in range(7)]
        delivery(tx, endpoint, OLD, "delivered")
        delivery(tx, endpoint, NOW, "delivered")
    clock = ManualClock(NOW)
    relay = Pruner(database, no_objects, Metrics(), clock, Parts(), Keep(attempts=90, messages=90, deliveries=90))
    looked_at: list[int] = []
    walk = retention._oldest

    def watched(tx: Tx, table: sa.Table, end: str, after: str, *over: Any) -> Any:
        ids, walked = walk(tx, table, end, after, *over)
        if table is deliveries:
            seen = sa.select(sa.func.count()).where(table.c.id > after, table.c.id <= walked.last)
            looked_at.append(tx.execute(seen).scalar_one())
        return ids, walked

    def round_of(relay: Pruner) -> list[int]:
        looked_at.clear()
        while relay.prune():
            pass
        return looked_at

    monkeypatch.setattr(retention, "_oldest", watched)
    assert round_of(relay) == [3, 3, 2]
    with database.read() as tx:
        assert len(ids_in(tx, deliveries)) == len(stay) + 1
    assert round_of(relay) == [0]
    with database.begin() as tx:
        tx.execute(sa.update(deliveries).values(state="delivered"))
    clock.move(days=1)
    round_of(relay)
    with database.read() as tx:
        assert len(ids_in(tx, deliveries)) == 1, "what was over by now went a day later"


@pytest.fixture
def old_things(database: Database) -> dict[str, Any]:
    """More than one batch of everything."""
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", OLD)
        kept = delivery(tx, endpoint, OLD, "due")
        gone = [delivery(tx, endpoint, OLD - DAY, "dead") for _ in range(retention.MESSAGES_BATCH + 5)]
        for _ in range(retention.BATCH + 5):
            tried(tx, kept, OLD)
        message = said(tx, "mrc_a", NOW)
        for number in range(retention.BATCH + 5):
            add_used_keys(tx, [UsedKey("mrc_a", f"key {number}", b"", message)], OLD)
    return {"kept": kept, "gone": gone}


def pruner(database: Database, metrics: Metrics, attempts: int, messages: int) -> Pruner:
    clock = ManualClock(NOW)
    keep = Keep(attempts=attempts, messages=messages)
    return Pruner(database, no_objects, metrics, clock, Parts(), keep)


def no_objects() -> Objects:
    raise AssertionError("no documents are to be deleted")


def counts(metrics: Metrics) -> tuple[float | None, ...]:
    tables = ("delivery_attempts", "messages", "idempotency_keys")
    return tuple(
        metrics.registry.get_sample_value("billhook_retention_pruned_total", {"table": table}) for table in tables
    )


def test_the_pruner_takes_a_batch_at_a_time_until_nothing_is_left(
    database: Database, old_things: dict[str, Any]
) -> None:
    metrics = Metrics()
    relay = pruner(database, metrics, 30, 90)
    assert relay.prune()
    assert counts(metrics) == (retention.BATCH, retention.MESSAGES_BATCH, retention.BATCH)
    assert not relay.prune()
    assert counts(metrics) == (retention.BATCH + 5, retention.MESSAGES_BATCH + 5, retention.BATCH + 5)
    with database.read() as tx:
        assert dead_letters.list_dead(tx) == []
        assert state(tx, old_things["kept"]) == "due"
    assert not relay.prune()


def test_zero_days_keep_everything(database: Database, old_things: dict[str, Any]) -> None:
    metrics = Metrics()
    assert not pruner(database, metrics, 0, 0).prune()
    assert counts(metrics) == (None, None, None)
    with database.read() as tx:
        assert len(dead_letters.list_dead(tx, limit=1000)) == len(old_things["gone"])


def test_several_relays_prune_without_waiting_for_each_other(postgres_database: Database) -> None:
    with postgres_database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", OLD)
        for _ in range(retention.MESSAGES_BATCH):
            delivery(tx, endpoint, OLD, "held")
        tried(tx, "dlv_1", OLD)
        add_used_keys(tx, [UsedKey("mrc_a", "one", b"", said(tx, "mrc_a", NOW))], OLD)
    with postgres_database.begin() as one, postgres_database.begin() as other:
        assert delete_attempts(one, CUTOFF).count == delete_idempotency_keys(one, CUTOFF) == 1
        assert prune_messages(one, CUTOFF, NOW).count == retention.MESSAGES_BATCH
        assert delete_attempts(other, CUTOFF).count == delete_idempotency_keys(other, CUTOFF) == 0
        assert prune_messages(other, CUTOFF, NOW).count == 0


def test_pruning_is_not_in_the_way_of_a_new_delivery_of_an_old_message(postgres_database: Database) -> None:
    with postgres_database.begin() as tx:
        endpoint, message = endpoint_of(tx, "mrc_a", NOW), said(tx, "mrc_a", OLD)
    with postgres_database.begin() as pruning, postgres_database.begin() as courier:
        assert prune_messages(pruning, CUTOFF, NOW).count == 1
        courier.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        assert sent(courier, endpoint, message, NOW, "due")


def test_the_pruner_stops_when_it_is_told_to(database: Database, old_things: dict[str, Any]) -> None:
    relay = pruner(database, Metrics(), 30, 90)
    relay.start()
    assert relay.stop(timeout=30)
