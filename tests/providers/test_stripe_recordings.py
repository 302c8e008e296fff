"""Real events and real API answers, of API versions from 2020 to 2025, go through without an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe_shapes import NOW, STRIPE, translate

from billhook.providers.stripe import EVENTS
from billhook.rules.book.invoice import CreditNote, Invoice, InvoicePayment
from billhook.rules.book.objects import BookObject
from billhook.rules.book.payment import Charge
from billhook.rules.book.subscription import Subscription
from billhook_testing.conformance import latest

CLOVER = "stripe/api/2025-10-29.clover"
UPDATES = {
    "customer": "customer.updated",
    "subscription": "customer.subscription.updated",
    "invoice": "invoice.updated",
    "payment_intent": "payment_intent.created",
    "charge": "charge.updated",
    "refund": "refund.updated",
    "credit_note": "credit_note.updated",
    "invoice_payment": "invoice_payment.paid",
}


def answers(recordings: Path) -> Iterator[dict[str, Any]]:
    """Every object of the recorded API conversations that a webhook could carry too."""
    for path in sorted((recordings / CLOVER).glob("*.json")):
        for conversation in json.loads(path.read_text(encoding="utf-8")):
            response = conversation["response"]
            found = response.get("data", [response]) if response.get("object") == "list" else [response]
            yield from (value for value in found if value.get("object") in UPDATES)


def entry(value: dict[str, Any]) -> BookObject:
    return translate(UPDATES[value["object"]], value).changes[0].object


def recorded(recordings: Path, external_id: str) -> BookObject:
    """The last recorded state of an object."""
    return entry([value for value in answers(recordings) if value["id"] == external_id][-1])


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_all_recorded_events_have_an_effect_or_are_ignored(recordings: Path) -> None:
    paths = sorted((recordings / "stripe/events").glob("*/*.json"))
    assert len(paths) == 162
    for path in paths:
        body = path.read_bytes()
        opened = STRIPE.open({}, body)
        found = STRIPE.translate({}, body, NOW)
        assert bool(found.changes) == (opened.type in EVENTS), path


def test_connect_events_name_their_account(recordings: Path) -> None:
    path = recordings / "stripe/events/dj-stripe__2020-08-27/account.updated.json"
    assert STRIPE.open({}, path.read_bytes()).account.startswith("acct_")


def test_all_recorded_objects_since_basil_are_understood(recordings: Path) -> None:
    kinds = {entry(value).kind for value in answers(recordings)}
    assert kinds == {
        *("customer", "subscription", "invoice", "payment", "charge", "refund", "credit_note", "invoice_payment"),
    }


def test_since_basil_an_invoice_finds_its_subscription_and_its_prices(recordings: Path) -> None:
    values = [value for value in answers(recordings) if value["object"] == "invoice"]
    linked = [value for value in values if (value["parent"] or {}).get("subscription_details")]
    assert linked
    for value in linked:
        invoice = entry(value)
        assert isinstance(invoice, Invoice)
        assert invoice.subscription == value["parent"]["subscription_details"]["subscription"]
        assert invoice.subtotal == sum(line.amount for line in invoice.lines)
        assert invoice.total == invoice.subtotal - invoice.discount + invoice.tax
        for line, sent in zip(invoice.lines, value["lines"]["data"], strict=True):
            assert (line.price, line.product) == (
                sent["pricing"]["price_details"]["price"],
                sent["pricing"]["price_details"]["product"],
            )
            assert (line.period_start, line.period_end) == (at(sent["period"]["start"]), at(sent["period"]["end"]))


def test_since_basil_a_subscription_takes_its_period_from_its_items(recordings: Path) -> None:
    subscription = recorded(recordings, "sub_1SOMr4KXBGcbgpbZnKDfiVUj")
    assert isinstance(subscription, Subscription)
    assert (subscription.current_period_start, subscription.current_period_end) == (at(1761934518), at(1763144118))
    assert subscription.latest_invoice is not None
    assert [(item.price, item.product) for item in subscription.items] == [("default", "prod_EYTX7RYhRjcwKD")]


def test_since_basil_an_invoice_payment_links_payment_and_invoice(recordings: Path) -> None:
    link = recorded(recordings, "inpay_1SRzp4KXBGcbgpbZ7Y6vnnC6")
    assert isinstance(link, InvoicePayment)
    assert (link.invoice, link.payment) == ("in_1SRzp4KXBGcbgpbZ9xmUJ3df", "pi_3SRzp4KXBGcbgpbZ1utYtuTe")
    charge = recorded(recordings, "ch_3SRzp4KXBGcbgpbZ1EpWO6qC")
    assert isinstance(charge, Charge)
    assert (charge.payment, charge.invoice) == (link.payment, None)


def test_since_basil_discounts_and_credited_refunds_are_found(recordings: Path) -> None:
    invoice = recorded(recordings, "in_1SRzrfKXBGcbgpbZqIe4IGKO")
    assert isinstance(invoice, Invoice)
    assert (invoice.discount, [line.discount for line in invoice.lines]) == (950, [950])
    note = recorded(recordings, "cn_1SS02CKXBGcbgpbZGfvL08NT")
    assert isinstance(note, CreditNote)
    assert (note.refund, note.total) == ("re_3SS01XKXBGcbgpbZ1UM2QwG8", 500)


@pytest.fixture(scope="module")
def creation(recordings: Path) -> list[bytes]:
    return (recordings / "stripe/sequences/subscription_create_2023-10-16.jsonl").read_bytes().splitlines()


@given(order=st.permutations(range(7)), again=st.lists(st.sampled_from(range(7))))
def test_a_real_subscription_creation_ends_active_and_paid_in_any_order(
    creation: list[bytes], order: list[int], again: list[int]
) -> None:
    translations = [STRIPE.translate({}, creation[place], NOW) for place in order + again]
    end = latest([change for translation in translations for change in translation.changes])
    invoice, subscription = (change.object for change in end)
    assert isinstance(invoice, Invoice)
    assert isinstance(subscription, Subscription)
    assert (invoice.status, invoice.amount_paid, invoice.subscription) == ("paid", 70000, subscription.external_id)
    assert subscription.status == "active"


def test_a_real_subscription_creation_tells_every_happening_once(creation: list[bytes]) -> None:
    told = [fact.type for body in creation for fact in STRIPE.translate({}, body, NOW).facts]
    assert told == [
        "subscription.created",
        "invoice.created",
        "invoice.finalized",
        "subscription.updated",
        "invoice.updated",
        "invoice.paid",
    ]
