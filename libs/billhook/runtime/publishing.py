"""Publishing: a merchant's own events on the same rails as billhook's, each once a key."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from billhook.errors import Refused
from billhook.rules.endpoint_settings import own_event
from billhook.runtime.env import Env
from billhook.runtime.registration import ring
from billhook.store.deliveries import address, count_deliveries
from billhook.store.messages import Message, add_messages, add_publication, find_publication

KEY = re.compile(r"[ -~]{1,255}")
"""An idempotency key: what a header can carry everywhere."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
"""How far a publisher's clock may be wrong. What has not happened yet is no event."""


@dataclass(frozen=True)
class Publication:
    """What is to be published."""

    event_type: str
    data: dict[str, Any]
    customer: str | None = None
    subscription: str | None = None
    occurred_at: datetime | None = None


@dataclass(frozen=True)
class Published:
    message_id: str
    deliveries: int
    """Endpoints that it goes to."""
    replayed: bool
    """It was published before, under the same key."""


def publish(env: Env, merchant_id: str, key: str, new: Publication) -> Published:
    """Publish once: the same again under the same key is answered with what there is. Raises `Refused`."""
    if not KEY.fullmatch(key):
        raise Refused("idempotency_key_invalid", "`Idempotency-Key` must be 1 to 255 printable ASCII characters.")
    own_event(new.event_type)
    now = env.clock()
    if new.occurred_at is not None:
        if not EARLIEST <= new.occurred_at <= now + AHEAD:
            raise Refused("occurred_at_invalid", "`occurred_at` must be a time since 1970 that is not in the future.")
        new = replace(new, occurred_at=new.occurred_at.astimezone(UTC))
    if not all(map(math.isfinite, _floats(new.data))):
        raise Refused("data_invalid", "`data` holds NaN, Infinity or a number too large for JSON's readers.")
    try:
        happened = new.occurred_at or now
        body = msgspec.json.encode({"type": new.event_type, "timestamp": happened, "data": new.data})
        digest = hashlib.sha256(msgspec.json.encode(new, order="sorted")).digest()
    except (UnicodeEncodeError, RecursionError):
        raise Refused(
            "data_invalid", "`data` holds half a character (a lone surrogate), or is nested too deeply."
        ) from None
    try:
        published, due = _once(env, merchant_id, key, new, body, digest, now)
    except IntegrityError:  # another request with this key came first, between our look and our word
        published, due = _once(env, merchant_id, key, new, body, digest, now)
    ring(env, {"deliveries": due})
    return published


def _once(
    env: Env, merchant_id: str, key: str, new: Publication, body: bytes, digest: bytes, now: datetime
) -> tuple[Published, list[str]]:
    """In one transaction: what the key published before, or the message, its deliveries and the key's row together."""
    with env.database.begin() as tx:
        before = find_publication(tx, merchant_id, key)
        if before is not None:
            if bytes(before["sha256"]) != digest:
                raise Refused(
                    "idempotency_key_reused",
                    "`Idempotency-Key` was used for another event. Use a new key for each event, and an old one only to"
                    " repeat the very same request.",
                )
            return Published(before["message_id"], count_deliveries(tx, before["message_id"]), True), []
        message = Message.own(
            merchant_id,
            new.event_type,
            "publication",
            key,
            body,
            new.occurred_at or now,
            customer=new.customer,
            subscription=new.subscription,
        )
        due = address(tx, add_messages(tx, [message], now), now)
        add_publication(tx, merchant_id, key, digest, message.id, now)
        return Published(message.id, count_deliveries(tx, message.id), False), due


def _floats(value: Any) -> Iterator[float]:
    """All of them, however deep."""
    left = [value]
    while left:
        match left.pop():
            case float() as number:
                yield number
            case dict() as fields:
                left.extend(fields.values())
            case list() as items:
                left.extend(items)
