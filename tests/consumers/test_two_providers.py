"""A merchant with sources at two providers has one book; each event goes the way of its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from consumers.lifecycle import life
from consumers.world import SECRET, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from providers import paddle_shapes

from billhook.providers.paddle import EVENTS
from billhook.rules.dunning_policy import PRESETS
from billhook.store import sources
from billhook.store.book import TABLES
from billhook.store.database import Database
from billhook.store.dunning_policies import set_policy


def begin(database: Database) -> tuple[World, str]:
    world = World.begin(database)
    with world.database.begin() as tx:
        sealed = world.vault.seal(SECRET)
        paddle = sources.create_source(tx, world.merchant_id, "paddle", "Paddle", sealed, world.clock())
    return world, paddle.id


def notifications(recordings: Path) -> list[tuple[str, bytes]]:
    """Every recorded notification in an envelope of its own."""
    found = []
    for number, path in enumerate(sorted((recordings / "paddle" / "entities").glob("*.json"))):
        event_id = f"evt_{number:02}"
        envelope: dict[str, Any] = {"event_id": event_id, "event_type": path.stem, "notification_id": f"ntf_{number}"}
        envelope |= {"occurred_at": f"2024-06-01T00:00:00.{number:06}Z", "data": json.loads(path.read_bytes())}
        found.append((event_id, json.dumps(envelope).encode()))
    return found


def book_of(world: World, source: str) -> dict[str, list[Any]]:
    found = {}
    for table in TABLES.values():
        columns = [c.name for c in table.c if c.name not in ("updated_at", "merchant_id", "source_id", "id")]
        rows = world.rows(table.name, "source_id", *columns)
        found[table.name] = sorted(json.dumps(row[1:], sort_keys=True, default=str) for row in rows if row[0] == source)
    return found


@pytest.fixture
def told(recordings: Path) -> list[tuple[str, bytes]]:
    return notifications(recordings)


def test_the_recorded_notifications_all_go_through(database: Database, told: list[tuple[str, bytes]]) -> None:
    world, paddle = begin(database)
    for event_id, body in told:
        world.arrive(paddle, body, external_id=event_id)
    world.post()

    states = [row[0] for row in world.rows("inbox", "state")]
    assert (len(states), states.count("processed"), states.count("ignored")) == (56, len(EVENTS), 56 - len(EVENTS))
    assert world.rows("dead_letters", "id") == []


def test_both_providers_objects_stand_in_one_book(database: Database, told: list[tuple[str, bytes]]) -> None:
    world, paddle = begin(database)
    for event in life():
        world.arrive(world.stripe_source, event)
    for event_id, body in told:
        world.arrive(paddle, body, external_id=event_id)
    world.post()

    owners = {row[0] for row in world.rows("invoices", "merchant_id")}
    assert owners == {world.merchant_id}
    by_source = {row[0] for row in world.rows("invoices", "source_id")}
    assert by_source == {world.stripe_source, paddle}
    assert world.rows("invoices", "source_id", "number", "status").count((paddle, "325-10566", "paid")) == 1


def test_what_paddle_sells_in_its_own_name_gets_no_invoice_of_ours(
    database: Database, told: list[tuple[str, bytes]]
) -> None:
    world, paddle = begin(database)
    for event_id, body in told:
        world.arrive(paddle, body, external_id=event_id)
    world.post()
    assert world.rows("documents", "id") == []
    assert "invoice.paid" in {row[0] for row in world.rows("messages", "type")}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_repetition_ends_in_the_same_book(
    migrated: Database, told: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    in_order, paddle = begin(migrated)
    for event_id, body in told:
        in_order.arrive(paddle, body, external_id=event_id)
    in_order.post()

    shuffled, other = begin(migrated)
    deliveries = data.draw(st.permutations(told + data.draw(st.lists(st.sampled_from(told), max_size=5))))
    cuts = data.draw(st.sets(st.integers(0, len(deliveries)), max_size=4))
    for place, (event_id, body) in enumerate(deliveries):
        shuffled.arrive(other, body, external_id=event_id)
        if place in cuts:
            shuffled.post()
    shuffled.post()
    assert book_of(shuffled, other) == book_of(in_order, paddle)


def test_what_paddle_collects_is_tried_again_by_paddle_alone(database: Database) -> None:
    world, paddle = begin(database)
    failed = paddle_shapes.transaction("past_due", payments=[paddle_shapes.tried("error", error_code="declined")])
    for number, (preset, cases) in enumerate((("polar", 0), ("provider-retries", 1))):
        with database.begin() as tx:
            set_policy(tx, world.merchant_id, "merchant", "", PRESETS[preset], world.clock(), by="ada")
        body = paddle_shapes.event("transaction.payment_failed", failed, event_id=f"evt_{number}")
        world.arrive(paddle, body, external_id=f"evt_{number}")
        world.post()
        assert len(world.rows("dunning_cases", "id")) == cases
