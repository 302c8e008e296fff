"""Paddle Billing: signed notifications in, what they mean for the book out.

The signature is checked here and not by Paddle's SDK: that allows five seconds, raises on header keys it does not know,
and lets an environment variable switch its check for replays off.
"""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from billhook.decoding import decoder_of
from billhook.errors import SignatureRefused
from billhook.events import DOMAIN_EVENTS
from billhook.providers import reading
from billhook.providers.paddle_api import PaddleApi
from billhook.providers.paddle_objects import Customer, PaddleObject, Price, Product, Subscription
from billhook.providers.paddle_transactions import Adjustment, Transaction
from billhook.providers.provider import TOLERANCE_SECONDS, Envelope, Provider
from billhook.rules.book.change import Change, Fact, Translation
from billhook.rules.book.objects import Time
from billhook.rules.signing import refuse_distant
from billhook.rules.storable import in_utc, storable


class Meaning(msgspec.Struct, frozen=True):
    """What one type of event is about, and the public names it may be announced under: those that its object
    confirms."""

    read_as: type[PaddleObject]
    facts: tuple[str, ...] = ()


# One happening is told once, though Paddle sends several events for it: every change of a status also comes as
# `subscription.updated` or `transaction.updated`.
# - The money is there with `transaction.paid`, the invoice has its number with `transaction.completed`.
# - `subscription.created` says that a new subscription is active or on trial.
EVENTS: Final[dict[str, Meaning]] = {
    "customer.created": Meaning(Customer, ("customer.created",)),
    "customer.imported": Meaning(Customer, ("customer.created",)),
    "customer.updated": Meaning(Customer, ("customer.updated",)),
    "product.created": Meaning(Product, ("product.created",)),
    "product.imported": Meaning(Product, ("product.created",)),
    "product.updated": Meaning(Product, ("product.updated",)),
    "price.created": Meaning(Price, ("price.created",)),
    "price.imported": Meaning(Price, ("price.created",)),
    "price.updated": Meaning(Price, ("price.updated",)),
    "subscription.created": Meaning(Subscription, ("subscription.created",)),
    "subscription.imported": Meaning(Subscription, ("subscription.created",)),
    "subscription.activated": Meaning(Subscription),
    "subscription.trialing": Meaning(Subscription),
    "subscription.updated": Meaning(Subscription, ("subscription.updated",)),
    "subscription.past_due": Meaning(Subscription),
    "subscription.paused": Meaning(Subscription, ("subscription.paused",)),
    "subscription.resumed": Meaning(Subscription, ("subscription.resumed",)),
    "subscription.canceled": Meaning(Subscription, ("subscription.canceled",)),
    "transaction.created": Meaning(Transaction, ("invoice.created",)),
    "transaction.updated": Meaning(Transaction, ("invoice.updated",)),
    "transaction.ready": Meaning(Transaction),
    "transaction.billed": Meaning(Transaction, ("invoice.finalized",)),
    "transaction.paid": Meaning(Transaction, ("payment.succeeded",)),
    "transaction.completed": Meaning(Transaction, ("invoice.paid",)),
    "transaction.payment_failed": Meaning(Transaction, ("payment.failed", "invoice.payment_failed")),
    "transaction.past_due": Meaning(Transaction, ("invoice.overdue",)),
    "transaction.canceled": Meaning(Transaction, ("invoice.voided",)),
    "transaction.revised": Meaning(Transaction, ("invoice.updated",)),
    "adjustment.created": Meaning(Adjustment, ("refund.created", "credit_note.created", "dispute.created")),
    "adjustment.updated": Meaning(Adjustment),
}

IGNORED: Final[dict[str, str]] = {
    "address": "Paddle sells in its own name and writes the invoices, so billhook needs no addresses.",
    "business": "Paddle sells in its own name and writes the invoices, so billhook needs no businesses.",
    "discount": "What a discount took off is in every transaction's totals.",
    "discount_group": "What a discount took off is in every transaction's totals.",
    "payment_method": "The book holds no payment methods.",
    "payout": "What Paddle pays out to you is not about a customer.",
    "report": "A report was written for a person.",
    "api_key": "It is about an access to Paddle.",
    "api_key_exposure": "It is about an access to Paddle.",
    "client_token": "It is about an access to Paddle.",
}
"""Why events about these are kept and change nothing. An event about anything else is one billhook does not know."""

_HEADER: Final = "paddle-signature"
_SECONDS: Final = re.compile(r"[0-9]{1,12}\Z")


class _Head(msgspec.Struct):
    event_type: str


class _Opened(_Head):
    event_id: str
    data: msgspec.Raw


T = TypeVar("T")


class _Event(msgspec.Struct, Generic[T]):
    occurred_at: Time
    data: T


class Paddle(Provider):
    """Paddle Billing. (Paddle Classic is another product, with other events and signatures.)"""

    name = "paddle"
    headers: ClassVar = {_HEADER: "`ts=<seconds since 1970>;h1=<hex>`"}
    title = "Paddle"
    api = PaddleApi
    merchant_of_record = True

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        timestamp, given = _signatures(headers.get(_HEADER, ""))
        refuse_distant(int(timestamp), now, TOLERANCE_SECONDS)
        signed = b"%s:%s" % (timestamp.encode(), body)
        for secret in secrets:
            expected = hmac.digest(secret.encode(), signed, "sha256").hex().encode() if secret else b""
            if expected and any(hmac.compare_digest(expected, signature) for signature in given):
                return
        raise SignatureRefused(
            "signature_mismatch",
            "No signature matches: another destination's secret was used, or the body changed after signing.",
        )

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        event = reading.open_body(_OPENED, body)
        return Envelope(
            external_id=reading.printable("event_id", event.event_id),
            type=reading.printable("event_type", event.event_type),
            # Sent again by hand, or to a second destination, an event keeps its id and has another `notification_id`.
            content=event.event_type.encode() + b"\0" + bytes(event.data),
        )

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        event_type = reading.understand(_HEAD, body, "event").event_type
        meaning = EVENTS.get(event_type)
        if meaning is None:
            return Translation()
        event = reading.understand(_decoder(meaning.read_as), body, event_type)
        told_at = in_utc(event.occurred_at, event_type, "occurred_at")
        changes = changes_of(event.data, told_at, event_type)
        objects = {change.object.kind: change.object for change in reversed(changes)}
        facts = tuple(
            Fact(name, objects[DOMAIN_EVENTS[name][0]], told_at)
            for name in event.data.confirmed(meaning.facts)
            if DOMAIN_EVENTS[name][0] in objects
        )
        return Translation(changes, facts)


def changes_of(data: PaddleObject, told_at: datetime, what: str) -> tuple[Change, ...]:
    """The object as the book holds it, and what came inside it. `what` names it in an error."""
    changed_at = in_utc(data.changed_at() or told_at, what, "data.updated_at")
    objects = (reading.whole(storable(value, what), what) for value in data.to_book())
    return tuple(Change(value, changed_at) for value in objects)


def _signatures(header: str) -> tuple[str, list[bytes]]:
    """The timestamp, as it was signed, and every `h1` of `ts=<seconds>;h1=<hex>`: there are two during a rotation."""
    if not header:
        raise SignatureRefused("signature_missing", f"The header `{_HEADER}` is missing.")
    items = [item.strip().partition("=") for item in header.split(";")]
    timestamps = [value for name, _, value in items if name == "ts"]
    if len(timestamps) != 1 or not _SECONDS.match(timestamps[0]) or not header.isascii():
        raise SignatureRefused("signature_malformed", f"`{_HEADER}` must be `ts=<seconds since 1970>;h1=<hex>`.")
    given = [value.encode() for name, _, value in items if name == "h1" and value]
    if not given:
        raise SignatureRefused("signature_scheme_missing", f"`{_HEADER}` holds no `h1` signature.")
    return timestamps[0], given


_HEAD = decoder_of(_Head)
_OPENED = decoder_of(_Opened)


@functools.cache
def _decoder(read_as: type[PaddleObject]) -> msgspec.json.Decoder[_Event[PaddleObject]]:
    """Made on first use, and once."""
    event: Any = _Event
    return decoder_of(event[read_as])
