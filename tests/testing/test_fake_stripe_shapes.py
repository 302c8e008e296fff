"""The fake's objects beside the recorded ones: the same fields, so that what reads one reads the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from billhook_testing.fake_stripe import FakeStripe

VERSION = "2025-10-29.clover"

LEGACY = {"subscription": {"plan", "quantity"}}
"""What recorded subscriptions repeat of their single item for readers older than items."""

BLANKED = {"client_secret"}
"""Secrets were blanked out of the recordings, and a part of this name with them."""

ON_REQUEST = {"payments", "refunds"}
"""Fields that come only when a call expands them."""


def objects_in(value: Any) -> list[dict[str, Any]]:
    found = []
    if isinstance(value, dict):
        if isinstance(value.get("object"), str):
            found.append(value)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            found += objects_in(inner)
    return found


@pytest.fixture(scope="module")
def recorded(recordings: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Kind of object to the fields that every recorded one has, and that any has."""
    fields: dict[str, list[set[str]]] = {}
    for path in sorted((recordings / "stripe" / "api" / VERSION).glob("*.json")):
        for conversation in json.loads(path.read_bytes()):
            for obj in objects_in(conversation["response"]):
                fields.setdefault(obj["object"], []).append({name for name in obj if "<" not in name})
    return {kind: (set.intersection(*sets), set.union(*sets)) for kind, sets in fields.items()}


@pytest.fixture(scope="module")
def ours() -> dict[str, set[str]]:
    """Kind of object to the fields that the fake's events and answers show."""
    with FakeStripe() as fake:
        v1 = fake.client().v1
        customer = v1.customers.create({"email": "ada@example.com"})
        method = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
        v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
        price = v1.prices.create(
            {
                "product_data": {"name": "Pro"},
                "currency": "usd",
                "unit_amount": 1900,
                "recurring": {"interval": "month"},
            }
        )
        v1.invoice_items.create({"customer": customer.id, "amount": 100, "currency": "usd"})
        v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
        invoice = v1.invoices.list().data[0]
        v1.credit_notes.create({"invoice": invoice.id, "amount": 500, "refund_amount": 500})
        shown = objects_in([event["data"]["object"] for event in fake.events])
    return {obj["object"]: set(obj) for obj in shown}


@pytest.mark.parametrize(
    "kind",
    [
        "charge",
        "credit_note",
        "credit_note_line_item",
        "customer",
        "invoice",
        "invoice_payment",
        "invoiceitem",
        "line_item",
        "payment_intent",
        "payment_method",
        "plan",
        "price",
        "refund",
        "subscription",
        "subscription_item",
    ],
)
def test_fields_are_those_of_the_recorded_objects(
    kind: str, recorded: dict[str, tuple[set[str], set[str]]], ours: dict[str, set[str]]
) -> None:
    always, ever = recorded[kind]
    assert always - ours[kind] - LEGACY.get(kind, set()) - ON_REQUEST == set()
    assert ours[kind] - ever - BLANKED == set()
