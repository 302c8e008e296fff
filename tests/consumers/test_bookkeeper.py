"""What becomes of an event once it is in the inbox."""

from __future__ import annotations

import json
from typing import Any

import pytest
from consumers.lifecycle import event, invoice, life, subscription
from consumers.world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook.store import dead_letters, queues
from billhook.store.book import TABLES
from billhook.store.database import Database

BOOK = sorted(TABLES)


def the_book(world: World) -> dict[str, Any]:
    """Everything in the book but the moment at which it was written."""
    found = {}
    for table in TABLES.values():
        columns = [c.name for c in table.c if c.name not in ("updated_at", "merchant_id", "source_id", "id")]
        found[table.name] = [
            tuple(json.dumps(v, sort_keys=True, default=str) for v in row) for row in world.rows(table.name, *columns)
        ]
    return found


def test_a_life_ends_in_the_book_with_its_news_and_documents(world: World) -> None:
    for told in life():
        world.arrive(world.stripe_source, told)
    world.post()

    assert world.rows("subscriptions", "external_id", "status") == [("sub_1", "canceled")]
    assert world.rows("invoices", "external_id", "status", "subscription") == [
        ("in_1", "paid", "sub_1"),
        ("in_2", "void", "sub_1"),
    ]
    assert world.rows("payments", "external_id", "status", "decline_code") == [
        ("pi_1", "succeeded", None),
        ("pi_2", "requires_payment_method", "insufficient_funds"),
    ]
    told_names = [row[0] for row in world.rows("messages", "type")]
    assert told_names.count("invoice.paid") == 1
    assert {"payment.failed", "invoice.finalized", "subscription.canceled"} <= set(told_names)
    assert [row[0] for row in world.rows("documents", "kind")] == ["invoice", "invoice", "receipt", "void"]
    assert world.rows("inbox", "state")[0] == ("ignored",)
    assert {row[0] for row in world.rows("inbox", "state")} == {"ignored", "processed"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_repetition_ends_in_the_same_book(migrated: Database, data: st.DataObject) -> None:
    in_order = World.begin(migrated)
    for told in life():
        in_order.arrive(in_order.stripe_source, told)
    in_order.post()
    expected = {table: sorted(row for row in rows) for table, rows in _of_source(in_order).items()}

    shuffled = World.begin(migrated)
    deliveries = data.draw(st.permutations(life() + data.draw(st.lists(st.sampled_from(life()), max_size=5))))
    cuts = data.draw(st.sets(st.integers(0, len(deliveries)), max_size=4))
    for place, told in enumerate(deliveries):
        shuffled.arrive(shuffled.stripe_source, told)
        if place in cuts:
            shuffled.post()
    shuffled.post()
    assert _of_source(shuffled) == expected


def _of_source(world: World) -> dict[str, Any]:
    """The book, the news and the documents of this world's merchant; ids of one source stand for those of another."""
    found: dict[str, Any] = {}
    for name in [table.name for table in TABLES.values()] + ["messages", "documents"]:
        skipped = {"updated_at", "merchant_id", "source_id", "id", "account", "inbox_id", "created_at", "due_at"}
        skipped |= {"object_id", "subject_id", "body", "token"}
        from billhook.store.schema import metadata

        columns = [c.name for c in metadata.tables[name].c if c.name not in skipped]
        rows = world.rows(name, "merchant_id", *columns)
        found[name] = sorted(
            json.dumps(row[1:], sort_keys=True, default=str) for row in rows if row[0] == world.merchant_id
        )
    return found


def test_replaying_everything_changes_nothing(world: World) -> None:
    events = [world.arrive(world.stripe_source, told) for told in life()]
    world.endpoint("http://127.0.0.1:1/never")
    world.post()
    before = {name: world.rows(name, "id") for name in ("messages", "deliveries", "documents")}
    book = the_book(world)

    world.clock.move(days=1)
    with world.database.begin() as tx:
        assert len(queues.replay(tx, "inbox", events, by="test", now=world.clock())["inbox"]) == len(events)
    world.post()

    assert {name: world.rows(name, "id") for name in before} == before
    assert the_book(world) == book


def test_a_message_goes_to_every_endpoint_that_wants_it_and_to_no_other_merchants(world: World) -> None:
    with world.database.begin() as tx:
        from billhook.store import endpoints, merchants

        other = merchants.create_merchant(tx, "Other", world.clock())
        endpoints.create_endpoint(tx, other.id, "http://127.0.0.1:1/other", ["*"], b"", world.clock())
    everything = world.endpoint("http://127.0.0.1:1/all")
    invoices = world.endpoint("http://127.0.0.1:1/invoices", "invoice.*")
    world.endpoint("http://127.0.0.1:1/none", "dispute.created")
    world.arrive(world.stripe_source, event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), 1_772_366_400))
    world.arrive(world.stripe_source, event(2, "customer.subscription.updated", subscription("active"), 1_772_366_400))
    world.post()

    assert sorted(row[0] for row in world.rows("deliveries", "endpoint_id")) == sorted(
        [everything, everything, invoices]
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"id": "in_1", "object": "invoice"}, "status"),
        (invoice("in_1", "open", currency="zzz"), "zzz"),
        (invoice("in_1", "open", total=2**70), "total"),
        (invoice("in_1", "open", total="12.50"), "total"),
        (invoice("in_1", "open", lines=None), "lines"),
        (invoice("in_1", "open", customer_name="A\0da"), "NUL"),
    ],
)
def test_an_event_that_cannot_be_understood_is_a_dead_letter_and_its_neighbours_are_not(
    world: World, value: dict[str, Any], reason: str
) -> None:
    bad = world.arrive(world.stripe_source, event(1, "invoice.finalized", value, 1_772_366_400))
    good = world.arrive(world.stripe_source, event(2, "customer.subscription.updated", subscription("active"), 1))
    world.post()

    assert world.state_of("inbox", good) == ("processed", None)
    state, said = world.state_of("inbox", bad)
    assert state == "dead"
    assert said is not None
    with world.database.read() as tx:
        (letter,) = dead_letters.list_dead(tx, merchant_id=world.merchant_id)
    assert letter["work_id"] == bad
    assert reason in letter["reason"] or "invoice.finalized" in letter["reason"]


def test_a_document_is_not_made_of_half_an_invoice(world: World) -> None:
    cut = invoice("in_1", "open")
    cut["lines"]["has_more"] = True
    told = world.arrive(world.stripe_source, event(1, "invoice.finalized", cut, 1_772_366_400))
    world.post()

    state, reason = world.state_of("inbox", told)
    assert state == "dead"
    assert "set-api-key" in (reason or "")
    assert world.rows("documents", "id") == []


def test_an_event_that_kills_its_worker_is_set_apart_and_given_up(world: World) -> None:
    from consumers.world import Silence

    from billhook.queue.steps import Steps
    from services.bookkeeper.posting import Posting

    told = world.arrive(world.stripe_source, event(1, "customer.subscription.updated", subscription("active"), 1))
    posting = Posting(world.database, world.apis, world.clock)
    steps = Steps(posting, world.database, Silence(), world.metrics, world.clock)
    for _ in range(posting.max_attempts):
        assert len(steps.claim(None, 10)[1]) == 1  # claimed, and then the process dies
        assert steps.claim(None, 10)[1] == []
        world.clock.move(seconds=posting.lease.total_seconds())
    world.post()

    state, reason = world.state_of("inbox", told)
    assert state == "dead"
    assert "kill its worker" in (reason or "")


def test_the_recorded_events_of_stripe_all_go_through(world: World, recordings: Any) -> None:
    paths = sorted((recordings / "stripe" / "events").rglob("*.json"))
    for path in paths:
        told = json.loads(path.read_bytes())
        world.arrive(world.stripe_source, path.read_bytes(), external_id=f"{told['id']}-{path.parent.name}-{path.name}")
    world.post()

    states = [row[0] for row in world.rows("inbox", "state")]
    assert len(states) == len(paths) == 162
    assert set(states) == {"processed", "ignored"}
    assert world.rows("dead_letters", "id") == []
