"""Publishing: a merchant's own events, delivered as billhook's are, and once for each idempotency key."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from billhook.actions.sources import ring
from billhook.errors import Refused
from billhook.rules.endpoint_settings import own_event
from billhook.runtime.env import Env
from billhook.store.database import Tx, is_store_away
from billhook.store.deliveries import add_deliveries, count_deliveries, deliveries_for
from billhook.store.messages import Message, NewPublication, add_messages, add_publications, find_publications

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
class Prepared:
    """A publication that nothing is wrong with, and the message it becomes unless its key has spoken before."""

    key: str
    message: Message
    digest: bytes
    """Of the request: the same key with another one is refused."""

    @property
    def identity(self) -> tuple[str, str]:
        return self.message.merchant_id, self.key


@dataclass(frozen=True)
class Published:
    message_id: str
    deliveries: int
    """Endpoints that it goes to."""
    replayed: bool
    """It was published before, under the same key."""


def prepared(merchant_id: str, key: str, new: Publication, now: datetime) -> Prepared:
    """Raises `Refused` for what cannot be published."""
    if not KEY.fullmatch(key):
        raise Refused("idempotency_key_invalid", "`Idempotency-Key` must be 1 to 255 printable ASCII characters.")
    own_event(new.event_type)
    if new.occurred_at is not None:
        if not EARLIEST <= new.occurred_at <= now + AHEAD:
            raise Refused("occurred_at_invalid", "`occurred_at` must be a time since 1970 that is not in the future.")
        new = Publication(new.event_type, new.data, new.customer, new.subscription, new.occurred_at.astimezone(UTC))
    if not all(map(math.isfinite, _floats(new.data))):
        raise Refused("data_invalid", "`data` holds NaN, Infinity or a number too large for JSON's readers.")
    happened = new.occurred_at or now
    try:
        body = msgspec.json.encode({"type": new.event_type, "timestamp": happened, "data": new.data})
        digest = hashlib.sha256(msgspec.json.encode(new, order="sorted")).digest()
    except (UnicodeEncodeError, RecursionError):
        raise Refused(
            "data_invalid", "`data` holds half a character (a lone surrogate), or is nested too deeply."
        ) from None
    message = Message.own(
        merchant_id,
        new.event_type,
        "publication",
        key,
        body,
        happened,
        customer=new.customer,
        subscription=new.subscription,
    )
    return Prepared(key, message, digest)


def publish(env: Env, merchant_id: str, key: str, new: Publication) -> Published:
    """Publish once: the same again under the same key is answered with what there is. Raises `Refused`."""
    (result,) = publish_all(env, [prepared(merchant_id, key, new, env.clock())])
    if isinstance(result, Exception):
        raise result
    return result


def publish_all(env: Env, wanted: Sequence[Prepared]) -> Sequence[Published | Exception]:
    """Publish what has gathered in one transaction; each is answered for itself."""
    for last in (False, True):
        try:
            with env.database.begin() as tx:
                results, due = _publish(tx, wanted, env.clock())
        except IntegrityError:  # another process came first with one of the keys, between our look and our word
            if not last:
                continue
            raise
        except Exception as error:
            if is_store_away(error) or len(wanted) == 1:
                raise
            # One of them is to blame. Each by itself: the others must not pay for it.
            return [_alone(env, one) for one in wanted]
        break
    ring(env, {"deliveries": due})
    return results


def _alone(env: Env, one: Prepared) -> Published | Exception:
    try:
        return publish_all(env, [one])[0]
    except Exception as error:
        return error


def _publish(tx: Tx, wanted: Sequence[Prepared], now: datetime) -> tuple[list[Published | Exception], list[str]]:
    """In one transaction: messages, their deliveries and the keys' rows, or what the keys published before."""
    known = find_publications(tx, {one.identity for one in wanted})
    first: dict[tuple[str, str], Prepared] = {}
    for one in wanted:
        if one.identity not in known:
            first.setdefault(one.identity, one)
    deliveries = deliveries_for(tx, add_messages(tx, [one.message for one in first.values()], now))
    due = add_deliveries(tx, deliveries, now)
    add_publications(tx, [NewPublication(*one.identity, one.digest, one.message.id) for one in first.values()], now)
    counts = Counter(delivery.message_id for delivery in deliveries)
    counts.update(count_deliveries(tx, {row["message_id"] for row in known.values()}))
    results: list[Published | Exception] = []
    for one in wanted:
        before = known.get(one.identity)
        speaker = first.get(one.identity)
        digest = bytes(before["sha256"]) if before is not None else (speaker or one).digest
        message_id = before["message_id"] if before is not None else (speaker or one).message.id
        if digest != one.digest:
            results.append(
                Refused(
                    "idempotency_key_reused",
                    "`Idempotency-Key` was used for another event. Use a new key for each event, and an old one only to"
                    " repeat the very same request.",
                )
            )
        else:
            results.append(Published(message_id, counts[message_id], replayed=speaker is not one))
    return results, due


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
