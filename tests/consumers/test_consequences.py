"""What follows from a fact of the book is one list, walked for mirrored and own objects alike."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest
from consumers.lifecycle import BEGAN, checkout, customer, event
from consumers.world import World

from billhook.actions import consequences
from billhook.actions.book_update import BookUpdate, merged
from billhook.queue.handler import Rings
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store.database import Tx
from billhook.store.merchants import set_invoicing
from billhook.store.own_invoices import OWN


def attach(monkeypatch: pytest.MonkeyPatch, one: consequences.Consequence) -> None:
    monkeypatch.setattr(consequences, "CONSEQUENCES", (*consequences.CONSEQUENCES, one))


def test_a_new_line_hears_of_mirrored_and_of_own_objects(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str, bool]] = []

    def listen(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
        for update in updates:
            heard.extend((update.source_id, fact.type, bool(update.event_id)) for fact in update.facts)
        return {}

    attach(monkeypatch, listen)
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(invoice_payments=True))
    world.arrive(world.stripe_source, event(1, "checkout.session.completed", checkout("cs_1"), BEGAN))
    world.post()

    assert heard == [
        (world.stripe_source, "checkout.completed", True),
        (OWN, "invoice.created", False),
        (OWN, "invoice.finalized", False),
        (OWN, "invoice.paid", False),
    ]


def test_work_is_there_exactly_when_what_it_follows_from_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
        raise ValueError("no work could be made")

    attach(monkeypatch, fail)
    arrived = world.arrive(world.stripe_source, event(1, "customer.created", customer(), BEGAN))
    world.post()

    assert world.state_of("inbox", arrived)[0] == "due"
    assert world.rows("customers", "external_id") == world.rows("messages", "type") == []


def test_rings_of_several_are_one() -> None:
    assert merged([{"deliveries": ["dlv_1"]}, {"documents": []}, {"deliveries": ["dlv_2"]}]) == {
        "deliveries": ["dlv_1", "dlv_2"],
        "documents": [],
    }
