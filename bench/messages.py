"""A merchant's own messages of 1 KB, each with its number, for the measures that begin where a message is published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bench.events import MARK
from bench.product import Product
from billhook.store.deliveries import NewDelivery, add_deliveries
from billhook.store.messages import Message, add_messages
from billhook.store.queues import lane_name

EVENT_TYPE = "order.shipped"
BODY_BYTES = 1024
AT_ONCE = 1_000
"""Messages a statement."""

_NUMBER = "00000000"
_DATA: dict[str, Any] = {
    "id": f"{MARK.decode()}{_NUMBER}",
    "object": "order",
    "customer": f"cus_Bench{_NUMBER}",
    "currency": "eur",
    "amount": 12_900,
    "status": "shipped",
    "shipping": {
        "carrier": "DHL",
        "tracking_number": f"00340434161094{_NUMBER}",
        "address": {"city": "Berlin", "country": "DE", "line1": "Unter den Linden 1", "postal_code": "10117"},
    },
    "items": [
        {"sku": f"BNCH-{size}", "description": "A bench made of oak", "quantity": 1, "amount": 4_300}
        for size in ("100", "140", "180")
    ],
    "metadata": {"filler": ""},
}


def _template() -> str:
    """The data of a message whose body is of `BODY_BYTES`."""
    missing = BODY_BYTES - len(_body(json.dumps(_DATA), "2026-01-01T00:00:00.000000Z"))
    return json.dumps({**_DATA, "metadata": {"filler": "x" * missing}})


def _body(data: str, timestamp: str) -> str:
    return f'{{"type": "{EVENT_TYPE}", "timestamp": "{timestamp}", "data": {data}}}'


_TEMPLATE = _template()


def data_of(number: int) -> str:
    """JSON."""
    return _TEMPLATE.replace(_NUMBER, f"{number:08}")


def body_of(number: int, at: datetime) -> bytes:
    return _body(data_of(number), f"{at:%Y-%m-%dT%H:%M:%S.%fZ}").encode()


def message_of(merchant_id: str, number: int, now: datetime, event_type: str = EVENT_TYPE) -> Message:
    return Message.own(merchant_id, event_type, "publication", str(number), body_of(number, now), now)


def heap_up(
    product: Product,
    endpoint_ids: Sequence[str],
    first: int,
    count: int,
    *,
    lane: str,
    merchant_id: str | None = None,
) -> None:
    """Messages number `first` and on, each due for one endpoint, these by turns; one transaction shows them all."""
    now, owner = product.env.clock(), merchant_id or product.merchant_id
    with product.env.database.begin() as tx:
        for start in range(first, first + count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, first + count))
            new = [message_of(owner, number, now) for number in numbers]
            wanted = [
                NewDelivery(owner, message.id, endpoint_ids[number % len(endpoint_ids)], lane=lane)
                for number, message in zip(numbers, new, strict=True)
            ]
            add_messages(tx, new, now)
            add_deliveries(tx, wanted, now)
        # As the database does by itself once a minute: a table that was empty a moment ago misleads its planner.
        tx.execute(sa.text("ANALYZE"))
    product.env.bell.look(lane_name(lane))
