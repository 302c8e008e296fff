"""Messages and deliveries of another time: their ids say when they were made."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from billhook.store import dead_letters
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.endpoints import Endpoint, create_endpoint
from billhook.store.messages import messages
from billhook.store.schema import id_at, new_id


def made(prefix: str, at: datetime) -> str:
    """An id of that time."""
    return id_at(prefix, at) + new_id(prefix)[-20:]


def endpoint_of(tx: Tx, merchant_id: str, at: datetime, *event_types: str, **options: Any) -> Endpoint:
    wanted = list(event_types or ["*"])
    return create_endpoint(tx, merchant_id, "https://a.test/hook", wanted, b"sealed", at, **options)


def said(tx: Tx, merchant_id: str, at: datetime, event_type: str = "invoice.paid", **fields: Any) -> str:
    """A message of that time."""
    message_id = made("msg", at)
    row = {
        "id": message_id,
        "merchant_id": merchant_id,
        "type": event_type,
        "object_kind": "invoice",
        "object_id": "inv_1",
        "body": b"{}",
        "inbox_id": message_id,
        "number": 0,
        "occurred_at": at,
        "created_at": at,
    }
    tx.execute(messages.insert().values(**row | fields))
    return message_id


def sent(tx: Tx, endpoint: Endpoint, message_id: str, at: datetime, state: str = "dead", **fields: Any) -> str:
    """A delivery of that time, with its dead letter where it is dead."""
    delivery_id = made("dlv", at)
    row = {
        "id": delivery_id,
        "merchant_id": endpoint.merchant_id,
        "message_id": message_id,
        "endpoint_id": endpoint.id,
        "created_at": at,
        "due_at": at,
        "state": state,
    }
    tx.execute(deliveries.insert().values(**row | fields))
    if state == "dead":
        letter = dead_letters.DeadLetter(endpoint.merchant_id, delivery_id, "gave up", 10)
        dead_letters.bury(tx, "deliveries", [letter], at)
    return delivery_id


def delivery(tx: Tx, endpoint: Endpoint, at: datetime, state: str = "dead", event_type: str = "invoice.paid") -> str:
    """A message of that time and its delivery."""
    return sent(tx, endpoint, said(tx, endpoint.merchant_id, at, event_type), at, state)


def tried(tx: Tx, delivery_id: str, at: datetime) -> str:
    """An attempt of that time."""
    attempt_id = made("att", at)
    tx.execute(
        delivery_attempts.insert().values(
            id=attempt_id,
            merchant_id="mrc_a",
            delivery_id=delivery_id,
            number=1,
            started_at=at,
            duration_ms=5,
            outcome="5xx",
            response=b"",
        )
    )
    return attempt_id
