"""An in-house billing system's own events, in billhook's own words, signed by Standard Webhooks.

The body is `{"type": "<a name of billhook.events>", "timestamp": "<RFC 3339>", "data": {…}}`, where `data` has the
fields of that kind in `billhook.rules.book`. The event's id is the signed header `webhook-id`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from billhook.decoding import decoder_of
from billhook.errors import Refused, SettingsError, Unprocessable
from billhook.events import DOMAIN_EVENTS
from billhook.providers import reading
from billhook.providers.provider import TOLERANCE_SECONDS, Envelope, Provider
from billhook.rules import signing
from billhook.rules.book.change import Change, Fact, Translation
from billhook.rules.book.kinds import KINDS, STATUSES
from billhook.rules.book.objects import BookObject, Time
from billhook.rules.storable import in_utc, storable

T = TypeVar("T")


class _Head(msgspec.Struct):
    type: str


class _Event(msgspec.Struct, Generic[T]):
    data: T
    timestamp: Time | None = None


SHORTEST_KEY_BYTES = 24
"""Standard Webhooks: a signing key has 24 to 64 bytes. A longer one does no harm."""


class Standard(Provider):
    """A system that speaks billhook's vocabulary itself."""

    name = "standard"
    headers: ClassVar = {
        signing.ID: "the event's id",
        signing.TIMESTAMP: "seconds since 1970",
        signing.SIGNATURE: "`v1,<base64>`",
    }

    def new_secret(self) -> str:
        return signing.new_secret("v1")

    def check_secret(self, secret: str) -> None:
        try:
            key = signing.signing_key(secret)
        except SettingsError as error:
            raise Refused("secret_invalid", f"`secret`: {error}") from None
        if len(key) < SHORTEST_KEY_BYTES:
            raise Refused("secret_invalid", f"`secret` must hold a key of at least {SHORTEST_KEY_BYTES} bytes.")

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        signing.verify(headers, body, secrets, now, TOLERANCE_SECONDS)

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        event = reading.open_body(_HEAD, body)
        return Envelope(
            external_id=reading.printable(signing.ID, headers.get(signing.ID, "")),
            type=reading.printable("type", event.type),
        )

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        """`timestamp` says when it happened; without one it happened when it arrived."""
        event_type = reading.understand(_HEAD, body, "event").type
        if event_type not in DOMAIN_EVENTS:
            return Translation()
        event = reading.understand(_decoder(DOMAIN_EVENTS[event_type][0]), body, event_type)
        value = event.data
        if event_type.endswith(".deleted"):
            value = msgspec.structs.replace(value, deleted=True)
        value = reading.whole(storable(value, event_type), event_type)
        status = getattr(value, "status", None)
        if (
            value.kind in STATUSES and status not in STATUSES[value.kind]
        ):  # the vocabulary is billhook's own, so an unknown word is a mistake
            raise Unprocessable(f"{event_type}: Invalid enum value {status!r} - at `data.status`")
        at = in_utc(event.timestamp or received_at, event_type, "timestamp")
        return Translation((Change(value, at),), (Fact(event_type, value, at),))


_HEAD = decoder_of(_Head)


@functools.cache
def _decoder(kind: str) -> msgspec.json.Decoder[_Event[BookObject]]:
    """Made on first use, and once."""
    event: Any = _Event
    return decoder_of(event[KINDS[kind]])
