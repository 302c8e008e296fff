"""Paddle's notifications as its webhooks send them, small enough to read."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billhook.providers import PROVIDERS
from billhook.rules.book.change import Translation

PADDLE = PROVIDERS["paddle"]
NOW = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
SECRET = "pdl_ntfset_01_a/b+c"


def event(event_type: str, data: Any, **fields: Any) -> bytes:
    whole = {
        "data": data,
        "event_id": "evt_01",
        "event_type": event_type,
        "occurred_at": "2026-03-01T11:59:58.286848Z",
        "notification_id": "ntf_01",
    }
    return json.dumps({**whole, **fields}, separators=(",", ":")).encode()


def translate(event_type: str, data: Any, **fields: Any) -> Translation:
    return PADDLE.translate({}, event(event_type, data, **fields), NOW)


def signature(body: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    seconds = int(at.timestamp())
    return f"ts={seconds};h1={hmac.digest(secret.encode(), b'%d:%s' % (seconds, body), 'sha256').hex()}"


def recorded(recordings: Path) -> dict[str, Any]:
    """The object of every recorded notification, by its type."""
    paths = sorted((recordings / "paddle" / "entities").glob("*.json"))
    return {path.stem: json.loads(path.read_bytes()) for path in paths}


def transaction(status: str = "ready", **fields: Any) -> dict[str, Any]:
    line = {
        "id": "txnitm_1",
        "price_id": "pri_1",
        "quantity": 2,
        "totals": {"subtotal": "1000", "discount": "100", "tax": "171", "total": "1071"},
        "unit_totals": {"subtotal": "500"},
        "product": {"id": "pro_1", "name": "Seat"},
    }
    totals = {**line["totals"], "grand_total": "1071", "balance": "1071"}
    whole = {
        "id": "txn_1",
        "status": status,
        "customer_id": "ctm_1",
        "currency_code": "EUR",
        "created_at": "2026-03-01T10:00:00.000001Z",
        "updated_at": "2026-03-01T11:00:00.000001Z",
        "details": {"totals": totals, "line_items": [line]},
        "payments": [],
    }
    return {**whole, **fields}


def tried(status: str, attempt: str = "try_1", **fields: Any) -> dict[str, Any]:
    whole = {
        "payment_attempt_id": attempt,
        "amount": "1071",
        "status": status,
        "created_at": "2026-03-01T11:30:00.5Z",
        "captured_at": None,
        "error_code": None,
    }
    return {**whole, **fields}


def adjustment(action: str, status: str, **fields: Any) -> dict[str, Any]:
    whole = {
        "id": "adj_1",
        "action": action,
        "status": status,
        "transaction_id": "txn_1",
        "customer_id": "ctm_1",
        "currency_code": "EUR",
        "reason": "error",
        "totals": {"subtotal": "92", "tax": "8", "total": "100"},
        "created_at": "2026-03-02T08:00:00.1Z",
        "updated_at": "2026-03-02T09:00:00.1Z",
    }
    return {**whole, **fields}
