"""Stripe events as its webhooks send them, small enough to read."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from typing import Any

from billhook.providers import PROVIDERS
from billhook.rules.book.change import Translation

STRIPE = PROVIDERS["stripe"]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CREATED = 1_772_366_400
SECRET = "whsec_test_secret"

INVOICE = {
    "id": "in_1",
    "object": "invoice",
    "status": "open",
    "currency": "eur",
    "subtotal": 1000,
    "total": 1190,
    "amount_due": 1190,
    "amount_paid": 0,
    "amount_remaining": 1190,
    "lines": {"object": "list", "data": [{"id": "il_1", "amount": 1000}], "has_more": False},
}
CHARGE = {"id": "ch_1", "object": "charge", "status": "succeeded", "currency": "eur", "amount": 1190, "captured": True}
SUBSCRIPTION = {"id": "sub_1", "object": "subscription", "status": "active", "items": {"data": []}}


def event(event_type: str, value: Any, **fields: Any) -> bytes:
    whole = {"id": "evt_1", "object": "event", "created": CREATED, "type": event_type, "data": {"object": value}}
    return json.dumps({**whole, **fields}).encode()


def translate(event_type: str, value: Any, **fields: Any) -> Translation:
    return STRIPE.translate({}, event(event_type, value, **fields), NOW)


def signature(body: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    seconds = int(at.timestamp())
    return f"t={seconds},v1={hmac.digest(secret.encode(), b'%d.%s' % (seconds, body), 'sha256').hex()}"
