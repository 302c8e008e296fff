"""The account finds what is missing and what is too many: each test spoils one thing in a world that balances."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.account import (
    BookRow,
    DeliveryRow,
    DocumentRow,
    Evidence,
    InboxRow,
    MessageRow,
    account,
)
from tests.chaos.ledger import Accepted
from tests.chaos.receiver import Arrival
from tests.chaos.traffic import Event, traffic

ENDPOINTS = {"everything": ["*"], "invoices": ["invoice.*"]}
SEED = 2
EVENTS = 60
"""Few, for each of them is left out once, and the rest counted."""


@pytest.fixture
def world() -> Evidence:
    """The first events, all accepted, and exactly what must come of them."""
    events = list(itertools.islice(traffic(seed=SEED), EVENTS))
    assert {event.source for event in events} == {"standard", "stripe"}
    assert any(event.fact is None for event in events)
    assert any(event.documents for event in events)
    latest = {(event.kind, event.source, event.object_id): event for event in events if event.kind}
    messages = [
        MessageRow(f"msg_{event.number}", f"row_{event.number}", event.fact, _said(event))
        for event in events
        if event.fact
    ]
    wanted = [
        (message, endpoint)
        for message in messages
        for endpoint in ENDPOINTS
        if endpoint == "everything" or message.type.startswith("invoice.")
    ]
    documents = {(f"{event.source}_{event.object_id}", kind) for event in events for kind in event.documents}
    return Evidence(
        accepted=[Accepted(event, 10.0) for event in events],
        endpoints=ENDPOINTS,
        arrivals=[Arrival(endpoint, message.id, message.body, True, True, 12.0) for message, endpoint in wanted],
        inbox=[
            InboxRow(
                f"row_{event.number}",
                (event.source, event.id),
                event.sha256,
                "processed" if event.fact else "ignored",
                11.0,
            )
            for event in events
        ],
        book=[
            BookRow(f"{source}_{object_id}", kind, (source, object_id), event.id)
            for (kind, source, object_id), event in latest.items()
        ],
        messages=messages,
        deliveries=[
            DeliveryRow(f"dlv_{message.id}_{endpoint}", message.id, endpoint, "delivered")
            for message, endpoint in wanted
        ],
        documents=[
            DocumentRow(f"doc_{number}", invoice, kind, "ready", None, 13.0)
            for number, (invoice, kind) in enumerate(sorted(documents))
        ],
    )


def _said(event: Event) -> bytes:
    return json.dumps({"type": event.fact, "data": {"source": event.source, "metadata": {"event": event.id}}}).encode()


def _with(world: Evidence, table: str, rows: Sequence[Any]) -> Evidence:
    spoilt: Any = {table: rows}
    return replace(world, **spoilt)


def test_a_world_in_which_nothing_is_missing_balances(world: Evidence) -> None:
    result = account(world)
    assert (result.lost, result.doubled, result.accepted, result.repeated) == ([], [], EVENTS, 0)
    assert set(result.done_at.values()) == {11.0, 12.0, 13.0}


def test_a_webhook_that_arrives_again_is_counted_and_allowed(world: Evidence) -> None:
    result = account(replace(world, arrivals=[*world.arrivals, world.arrivals[0]]))
    assert result.balanced
    assert result.repeated == 1


@pytest.mark.parametrize("table", ["inbox", "book", "messages", "deliveries", "documents", "arrivals"])
def test_any_row_that_is_missing_is_lost(world: Evidence, table: str) -> None:
    for number, row in enumerate(getattr(world, table)):
        result = account(_with(world, table, [other for other in getattr(world, table) if other is not row]))
        assert result.lost, f"{table} {number}"


@pytest.mark.parametrize("table", ["inbox", "book", "messages", "deliveries", "documents"])
def test_any_row_that_is_there_twice_is_doubled(world: Evidence, table: str) -> None:
    for row in getattr(world, table):
        twin = replace(row, id="twin")
        assert account(_with(world, table, [*getattr(world, table), twin])).doubled


def test_what_follows_from_nothing_accepted_is_doubled(world: Evidence) -> None:
    for number in range(len(world.accepted)):
        unknown = [*world.accepted[:number], *world.accepted[number + 1 :]]
        result = account(replace(world, accepted=unknown))
        assert not result.balanced


Spoil = Callable[[Evidence], Evidence]

SPOILT: dict[str, Spoil] = {
    "an event that died": lambda w: replace(w, inbox=[replace(w.inbox[0], state="dead"), *w.inbox[1:]]),
    "an event still due": lambda w: replace(w, inbox=[replace(w.inbox[0], state="due"), *w.inbox[1:]]),
    "other bytes": lambda w: replace(w, inbox=[replace(w.inbox[0], sha256=b"?"), *w.inbox[1:]]),
    "an older state": lambda w: replace(w, book=[replace(w.book[0], event_id="evt_chaos_0"), *w.book[1:]]),
    "another fact": lambda w: replace(w, messages=[replace(w.messages[0], type="refund.failed"), *w.messages[1:]]),
    "a dead delivery": lambda w: replace(w, deliveries=[replace(w.deliveries[0], state="dead"), *w.deliveries[1:]]),
    "an unfinished document": lambda w: replace(w, documents=[replace(w.documents[0], state="due"), *w.documents[1:]]),
    "a damaged file": lambda w: replace(w, documents=[replace(w.documents[0], problem="?"), *w.documents[1:]]),
    "a wrong signature": lambda w: replace(w, arrivals=[replace(w.arrivals[0], verified=False), *w.arrivals[1:]]),
    "only a refused arrival": lambda w: replace(w, arrivals=[replace(w.arrivals[0], taken=False), *w.arrivals[1:]]),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_what_is_not_as_it_must_be_is_lost(world: Evidence, spoil: Spoil) -> None:
    assert account(spoil(world)).lost


def test_one_id_with_two_bodies_is_doubled(world: Evidence) -> None:
    other = replace(world.arrivals[0], body=world.arrivals[0].body + b" ")
    assert account(replace(world, arrivals=[*world.arrivals, other])).doubled


def test_one_fact_under_two_ids_is_doubled_even_where_the_database_knows_of_one(world: Evidence) -> None:
    told_again = replace(world.arrivals[0], webhook_id="msg_made_up")
    assert account(replace(world, arrivals=[*world.arrivals, told_again])).doubled


def test_a_conflict_is_reported_since_every_id_had_one_body(world: Evidence) -> None:
    assert account(replace(world, conflicts=1)).doubled
