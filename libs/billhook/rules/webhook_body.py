"""What a webhook about an object of the book carries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from billhook.rules.book.objects import BookObject, book_id


def body_of(event_type: str, at: datetime, source_id: str, account: str, thing: BookObject, *, livemode: bool) -> bytes:
    """What is signed and sent: `type`, `timestamp` and `data`, as Standard Webhooks advises."""
    data = {
        "id": book_id(source_id, account, thing),
        "object": thing.kind,
        "source": source_id,
        "account": account or None,
        "livemode": livemode,
        **msgspec.structs.asdict(thing),
    }
    return msgspec.json.encode({"type": event_type, "timestamp": at, "data": data})


def about(thing: BookObject) -> dict[str, Any]:
    """The customer and the subscription that an object belongs to, where it names them."""
    return {
        "customer": thing.external_id if thing.kind == "customer" else getattr(thing, "customer", None),
        "subscription": thing.external_id if thing.kind == "subscription" else getattr(thing, "subscription", None),
    }
