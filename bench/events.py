"""Signed Stripe events, made before the clock starts: one subscription each, 2 KB, every id of its own."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

SECRET = "whsec_bench"
BODY_BYTES = 2048
MARK = b"sub_1Bench"
"""Stands before an event's number (eight digits) in its body, and in every webhook that follows from it."""

DIGITS = 8

_NUMBER = "00000000"
_NOW = int(time.time())
_SUBSCRIPTION: dict[str, Any] = {
    "id": f"{MARK.decode()}{_NUMBER}",
    "object": "subscription",
    "application": None,
    "application_fee_percent": None,
    "automatic_tax": {"enabled": False, "liability": None},
    "billing_cycle_anchor": _NOW,
    "cancel_at": None,
    "cancel_at_period_end": False,
    "canceled_at": None,
    "collection_method": "charge_automatically",
    "created": _NOW,
    "currency": "eur",
    "customer": f"cus_Bench{_NUMBER}",
    "days_until_due": None,
    "default_payment_method": "pm_1Bench2eZvKYlo2C",
    "default_tax_rates": [],
    "discounts": [],
    "ended_at": None,
    "items": {
        "object": "list",
        "data": [
            {
                "id": f"si_Bench{_NUMBER}",
                "object": "subscription_item",
                "created": _NOW,
                "current_period_end": _NOW + 2_592_000,
                "current_period_start": _NOW,
                "price": {
                    "id": "price_1Bench2eZvKYlo2C",
                    "object": "price",
                    "active": True,
                    "billing_scheme": "per_unit",
                    "currency": "eur",
                    "product": "prod_Bench2eZvKYlo",
                    "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
                    "type": "recurring",
                    "unit_amount": 2900,
                    "unit_amount_decimal": "2900",
                },
                "quantity": 3,
            }
        ],
        "has_more": False,
    },
    "latest_invoice": f"in_1Bench{_NUMBER}",
    "livemode": True,
    "metadata": {"filler": ""},
    "start_date": _NOW,
    "status": "active",
    "trial_end": None,
}
_EVENT: dict[str, Any] = {
    "id": f"evt_1Bench{_NUMBER}",
    "object": "event",
    "api_version": "2025-03-31.basil",
    "created": _NOW,
    "data": {"object": _SUBSCRIPTION, "previous_attributes": {"items": {"data": [{"quantity": 2}]}}},
    "livemode": True,
    "pending_webhooks": 1,
    "request": {"id": "req_Bench", "idempotency_key": None},
    "type": "customer.subscription.updated",
}


def _parts() -> list[bytes]:
    """The body around its number, of `BODY_BYTES` in all."""
    text = json.dumps(_EVENT)
    filler = "x" * (BODY_BYTES - len(text))
    return text.replace('"filler": ""', f'"filler": "{filler}"').encode().split(_NUMBER.encode())


def event_body(number: int) -> bytes:
    """The event of a number, as it is posted."""
    return (b"%08d" % number).join(_parts())


def signed_requests(host: str, path: str, first: int, count: int) -> list[bytes]:
    """Whole HTTP/1.1 requests, for events number `first` and on; signed now, good for Stripe's five minutes."""
    parts, key, now = _parts(), SECRET.encode(), b"%d" % int(time.time())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\nContent-Length: {BODY_BYTES}\r\n"
        f"Stripe-Signature: t={now.decode()},v1="
    ).encode()
    requests = []
    for number in range(first, first + count):
        body = (b"%08d" % number).join(parts)
        signature = hmac.digest(key, b"%s.%s" % (now, body), "sha256").hex().encode()
        requests.append(b"%s%s\r\n\r\n%s" % (head, signature, body))
    return requests


def bodies(first: int, count: int) -> list[bytes]:
    """Only what such requests carry."""
    parts = _parts()
    return [(b"%08d" % number).join(parts) for number in range(first, first + count)]


def number_in(body: bytes) -> int:
    """Which event a body is about."""
    at = body.index(MARK) + len(MARK)
    return int(body[at : at + DIGITS])
