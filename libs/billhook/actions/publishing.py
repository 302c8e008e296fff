"""Publishing: a merchant's own events, delivered as billhook's are, and once for each idempotency key.

`data` is sent as it was given, byte by byte: it is parsed only to refuse what receivers could not read, and for the
digest that recognises a repeated request.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final

import msgspec

from billhook.actions.ringing import ring
from billhook.errors import Refused, StoreAway
from billhook.rules.endpoint_settings import own_event
from billhook.runtime.env import Env
from billhook.store.database import is_outage
from billhook.store.deliveries import NewDelivery, count_deliveries, delivery_for
from billhook.store.endpoints import Subscriber, subscribed_endpoints
from billhook.store.merchants import good_keys
from billhook.store.messages import Message
from billhook.store.publications import Prepared, find_used_keys
from billhook.store.publications import publish as write

KEY: Final = re.compile(r"[ -~]{1,255}")
"""An idempotency key: what a header can carry everywhere."""

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(days=1)
"""How far a publisher's clock may be wrong. What has not happened yet is no event."""

MERCHANTS_KNOWN: Final = 1000
"""Merchants whose endpoints are remembered between two commits: 50 endpoints each are 20 MB."""

ROUNDS: Final = 5
"""How often endpoints may change under a publication before it is given back."""


class Publication(msgspec.Struct, frozen=True, gc=False):
    """What is to be published."""

    event_type: str
    data: bytes
    """A JSON object, as it is sent."""
    customer: str | None = None
    subscription: str | None = None
    occurred_at: datetime | None = None


class Published(msgspec.Struct, frozen=True, gc=False):
    message_id: str
    deliveries: int
    """Endpoints that it goes to."""
    replayed: bool
    """It was published before, under the same key."""


class KeyRevoked(Exception):
    """The caller's key was revoked before this could be published."""


class NoMerchant(Exception):
    """There is no merchant of that id."""


def prepared(
    merchant_id: str,
    key: str,
    new: Publication,
    now: datetime,
    *,
    api_key_id: str | None = None,
    traceparent: str | None = None,
) -> Prepared:
    """A checked publication, as the message that it becomes if its key is new. Raises `Refused` for what cannot be
    published."""
    if not KEY.fullmatch(key):
        raise Refused("idempotency_key_invalid", "`Idempotency-Key` must be 1 to 255 printable ASCII characters.")
    own_event(new.event_type)
    occurred_at = new.occurred_at
    if occurred_at is not None:
        if not EARLIEST <= occurred_at <= now + AHEAD:
            raise Refused("occurred_at_invalid", "`occurred_at` must be a time since 1970 that is not in the future.")
        occurred_at = occurred_at.astimezone(UTC)
    happened = occurred_at or now
    digest = _digest([new.event_type, _meaning(new.data), new.customer, new.subscription, occurred_at])
    message = Message.own(
        merchant_id,
        new.event_type,
        "publication",
        key,
        msgspec.json.encode({"type": new.event_type, "timestamp": happened, "data": msgspec.Raw(new.data)}),
        happened,
        customer=new.customer,
        subscription=new.subscription,
        traceparent=traceparent,
    )
    return Prepared(message, key, digest, api_key_id)


def _meaning(data: bytes) -> Any:
    """`data` in a canonical form: objects sorted by name. Numbers stay as they were written, because
    10.00000000000000001 and 10 are different amounts of money, and repeated names stay repeated."""
    try:
        return _READER.decode(data.decode())
    except RecursionError:
        raise Refused("data_invalid", "`data` is nested too deeply.") from None
    except ValueError:
        raise Refused("data_invalid", "`data` is not JSON.") from None


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # All in one field, because a dictionary would drop repeated names, and because no array looks like this.
    return {"": sorted(pairs, key=itemgetter(0))}


def _fraction(written: str) -> msgspec.Raw:
    if not math.isfinite(float(written)):
        raise Refused("data_invalid", "`data` holds a number too large for JSON's readers.")
    return msgspec.Raw(written.encode())


def _no_number(name: str) -> Any:
    raise Refused("data_invalid", f"`data` holds {name}, which is no number in JSON.")


_READER: Final = json.JSONDecoder(
    object_pairs_hook=_fields,
    parse_float=_fraction,
    parse_int=lambda written: msgspec.Raw(written.encode()),
    parse_constant=_no_number,
)


def refuse_unreadable(content: bytes) -> None:
    """Raise `Refused`, with the reason, for what some libraries write and others do not accept as JSON."""
    with suppress(ValueError, RecursionError):
        _digest(_READER.decode(content.decode()))


def _digest(meaning: Any) -> bytes:
    try:
        return hashlib.sha256(msgspec.json.encode(meaning)).digest()
    except UnicodeEncodeError:
        raise Refused("data_invalid", "`data` holds half a character (a lone surrogate).") from None


def publish(env: Env, merchant_id: str, key: str, new: Publication) -> Published:
    """Publish once: the same request under the same key returns what was published before. Raises `Refused`."""
    (result,) = Publisher(env)([prepared(merchant_id, key, new, env.clock())])
    if isinstance(result, Exception):
        raise result
    return result


class Publisher:
    """Publishes what has gathered, and answers each for itself. One thread uses it.

    Merchants' endpoints are cached with their version, which the publishing statement compares: an outdated entry costs
    another round and never a wrong delivery.
    """

    def __init__(self, env: Env) -> None:
        self._env = env
        self._subscribers: dict[str, tuple[int, list[Subscriber]]] = {}

    def __call__(self, wanted: Sequence[Prepared]) -> Sequence[Published | Exception]:
        try:
            results, due = self._traced(wanted)
        except Exception as error:
            if is_outage(error):
                raise
            if len(wanted) == 1:
                return [error]
            # One of them is to blame. Each by itself: the others must not pay for it.
            return [result for one in wanted for result in self([one])]
        ring(self._env, {"deliveries": due})
        return results

    def _traced(self, wanted: Sequence[Prepared]) -> tuple[list[Published | Exception], list[str]]:
        if self._env.tracing is None:
            return self._publish(wanted)
        members = [one.message.traceparent for one in wanted]
        with self._env.tracing.together("commit publications", members, {"count": len(wanted)}):
            return self._publish(wanted)

    def _publish(self, wanted: Sequence[Prepared]) -> tuple[list[Published | Exception], list[str]]:
        results: dict[str, Published | Exception] = {}
        due: list[str] = []
        left = wanted
        for _ in range(ROUNDS):
            self._remember({one.message.merchant_id for one in left})
            known: list[Prepared] = []
            for one in left:
                if one.message.merchant_id in self._subscribers:
                    known.append(one)
                else:
                    results[one.message.id] = NoMerchant()
            addressed = {one.message.id: self._addressed(one.message) for one in known}
            if known:
                versions = {one.message.merchant_id: self._subscribers[one.message.merchant_id][0] for one in known}
                flat = [delivery for found in addressed.values() for delivery in found]
                written = write(self._env.database, known, flat, versions, self._env.clock())
                due += written.due
                results |= {id_: Published(id_, len(addressed[id_]), replayed=False) for id_ in written.message_ids}
            left = [one for one in left if one.message.id not in results]
            if left:
                results |= self._why_not(left)
                left = [one for one in left if one.message.id not in results]
            if not left:
                return [results[one.message.id] for one in wanted], due
            # The endpoints have changed since they were read.
            for one in left:
                self._subscribers.pop(one.message.merchant_id, None)
        raise StoreAway("the endpoints of these merchants change all the time")

    def _remember(self, merchant_ids: Collection[str]) -> None:
        missing = [merchant_id for merchant_id in merchant_ids if merchant_id not in self._subscribers]
        if missing:
            if len(self._subscribers) >= MERCHANTS_KNOWN:
                self._subscribers.clear()
                missing = [*merchant_ids]
            with self._env.database.read() as tx:
                self._subscribers |= subscribed_endpoints(tx, missing)

    def _addressed(self, message: Message) -> list[NewDelivery]:
        return [
            delivery_for(message, endpoint)
            for endpoint in self._subscribers[message.merchant_id][1]
            if endpoint.hears(message.type)
        ]

    def _why_not(self, left: Sequence[Prepared]) -> dict[str, Published | Exception]:
        """The results of those that were not published, except where the endpoints have changed."""
        with self._env.database.read() as tx:
            before = find_used_keys(tx, {one.identity for one in left})
            good = good_keys(tx, {one.api_key_id for one in left if one.api_key_id is not None})
            counts = count_deliveries(tx, {row["message_id"] for row in before.values()})
        results: dict[str, Published | Exception] = {}
        for one in left:
            row = before.get(one.identity)
            if one.api_key_id is not None and one.api_key_id not in good:
                results[one.message.id] = KeyRevoked()
            elif row is not None and bytes(row["sha256"]) == one.sha256:
                results[one.message.id] = Published(row["message_id"], counts.get(row["message_id"], 0), replayed=True)
            elif row is not None:
                results[one.message.id] = Refused(
                    "idempotency_key_reused",
                    "`Idempotency-Key` was used for another event. Use a new key for each event, and an old one only to"
                    " repeat the very same request.",
                )
        return results
