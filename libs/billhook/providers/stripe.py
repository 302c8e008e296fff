"""Stripe: signed webhooks in, what they mean for the book out. Pure; `stripe_api.py` asks Stripe itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from billhook.errors import SignatureRefused
from billhook.providers import reading, stripe_invoices, stripe_objects, stripe_payments
from billhook.providers.provider import TOLERANCE_SECONDS, Envelope, Provider
from billhook.providers.stripe_api import StripeApi
from billhook.providers.stripe_objects import Epoch, Readable, entries
from billhook.rules.book import Change, Fact, Translation
from billhook.rules.signing import refuse_distant
from billhook.rules.storable import storable


class Meaning(msgspec.Struct, frozen=True):
    """What one type of event is about, and under which public name it is told (None: it only changes the book)."""

    read_as: type[Readable]
    fact: str | None = None
    deletes: bool = False
    lone: bool = False
    """Told only where no payment intent stands behind the charge."""


CUSTOMER = stripe_objects.Customer
PRODUCT = stripe_objects.Product
PRICE = stripe_objects.Price
PLAN = stripe_objects.Plan
SUBSCRIPTION = stripe_objects.Subscription
CHECKOUT = stripe_objects.CheckoutSession
INVOICE = stripe_invoices.Invoice
INVOICE_PAYMENT = stripe_invoices.InvoicePayment
CREDIT_NOTE = stripe_invoices.CreditNote
PAYMENT = stripe_payments.PaymentIntent
CHARGE = stripe_payments.Charge
REFUND = stripe_payments.Refund
DISPUTE = stripe_payments.Dispute

# One happening is told once, though Stripe sends several events for it:
# - a try to pay makes payment_intent.* and charge.*: the intent tells it; charges without an intent (the API before
#   2019, direct charges) tell it themselves;
# - invoice.paid comes with invoice.payment_succeeded, but also when an invoice is paid outside Stripe or with credit;
# - refund.updated comes with charge.refund.updated, but also for refunds without a charge;
# - plan.* comes with price.*, for the same object.
# What is not listed is kept and ignored; so is invoice.upcoming, a preview without an id.
EVENTS: Final[dict[str, Meaning]] = {
    "customer.created": Meaning(CUSTOMER, "customer.created"),
    "customer.updated": Meaning(CUSTOMER, "customer.updated"),
    "customer.deleted": Meaning(CUSTOMER, "customer.deleted", deletes=True),
    "product.created": Meaning(PRODUCT, "product.created"),
    "product.updated": Meaning(PRODUCT, "product.updated"),
    "product.deleted": Meaning(PRODUCT, "product.deleted", deletes=True),
    "price.created": Meaning(PRICE, "price.created"),
    "price.updated": Meaning(PRICE, "price.updated"),
    "price.deleted": Meaning(PRICE, "price.deleted", deletes=True),
    "plan.created": Meaning(PLAN),
    "plan.updated": Meaning(PLAN),
    "plan.deleted": Meaning(PLAN, deletes=True),
    "customer.subscription.created": Meaning(SUBSCRIPTION, "subscription.created"),
    "customer.subscription.updated": Meaning(SUBSCRIPTION, "subscription.updated"),
    "customer.subscription.deleted": Meaning(SUBSCRIPTION, "subscription.canceled"),
    "customer.subscription.paused": Meaning(SUBSCRIPTION, "subscription.paused"),
    "customer.subscription.resumed": Meaning(SUBSCRIPTION, "subscription.resumed"),
    "customer.subscription.trial_will_end": Meaning(SUBSCRIPTION, "subscription.trial_ending"),
    "customer.subscription.pending_update_applied": Meaning(SUBSCRIPTION),
    "customer.subscription.pending_update_expired": Meaning(SUBSCRIPTION),
    "invoice.created": Meaning(INVOICE, "invoice.created"),
    "invoice.updated": Meaning(INVOICE, "invoice.updated"),
    "invoice.finalized": Meaning(INVOICE, "invoice.finalized"),
    "invoice.finalization_failed": Meaning(INVOICE),
    "invoice.sent": Meaning(INVOICE),
    "invoice.will_be_due": Meaning(INVOICE),
    "invoice.paid": Meaning(INVOICE, "invoice.paid"),
    "invoice.payment_succeeded": Meaning(INVOICE),
    "invoice.overpaid": Meaning(INVOICE),
    "invoice.payment_attempt_required": Meaning(INVOICE),
    "invoice.payment_failed": Meaning(INVOICE, "invoice.payment_failed"),
    "invoice.payment_action_required": Meaning(INVOICE, "invoice.payment_action_required"),
    "invoice.overdue": Meaning(INVOICE, "invoice.overdue"),
    "invoice.voided": Meaning(INVOICE, "invoice.voided"),
    "invoice.marked_uncollectible": Meaning(INVOICE, "invoice.marked_uncollectible"),
    "invoice.deleted": Meaning(INVOICE, "invoice.deleted", deletes=True),
    "payment_intent.created": Meaning(PAYMENT, "payment.created"),
    "payment_intent.processing": Meaning(PAYMENT, "payment.processing"),
    "payment_intent.requires_action": Meaning(PAYMENT, "payment.action_required"),
    "payment_intent.amount_capturable_updated": Meaning(PAYMENT),
    "payment_intent.partially_funded": Meaning(PAYMENT),
    "payment_intent.succeeded": Meaning(PAYMENT, "payment.succeeded"),
    "payment_intent.payment_failed": Meaning(PAYMENT, "payment.failed"),
    "payment_intent.canceled": Meaning(PAYMENT, "payment.canceled"),
    "charge.succeeded": Meaning(CHARGE, "charge.succeeded", lone=True),
    "charge.failed": Meaning(CHARGE, "charge.failed", lone=True),
    "charge.pending": Meaning(CHARGE),
    "charge.captured": Meaning(CHARGE),
    "charge.expired": Meaning(CHARGE),
    "charge.updated": Meaning(CHARGE),
    "charge.refunded": Meaning(CHARGE, "charge.refunded"),
    "charge.refund.updated": Meaning(REFUND),
    "charge.dispute.created": Meaning(DISPUTE, "dispute.created"),
    "charge.dispute.updated": Meaning(DISPUTE, "dispute.updated"),
    "charge.dispute.closed": Meaning(DISPUTE, "dispute.closed"),
    "charge.dispute.funds_withdrawn": Meaning(DISPUTE),
    "charge.dispute.funds_reinstated": Meaning(DISPUTE),
    "invoice_payment.paid": Meaning(INVOICE_PAYMENT, "invoice_payment.paid"),
    "invoice_payment.detached": Meaning(INVOICE_PAYMENT),
    "refund.created": Meaning(REFUND, "refund.created"),
    "refund.updated": Meaning(REFUND, "refund.updated"),
    "refund.failed": Meaning(REFUND, "refund.failed"),
    "credit_note.created": Meaning(CREDIT_NOTE, "credit_note.created"),
    "credit_note.updated": Meaning(CREDIT_NOTE, "credit_note.updated"),
    "credit_note.voided": Meaning(CREDIT_NOTE, "credit_note.voided"),
    "checkout.session.completed": Meaning(CHECKOUT, "checkout.completed"),
    "checkout.session.expired": Meaning(CHECKOUT, "checkout.expired"),
    "checkout.session.async_payment_succeeded": Meaning(CHECKOUT, "checkout.payment_succeeded"),
    "checkout.session.async_payment_failed": Meaning(CHECKOUT, "checkout.payment_failed"),
}

_HEADER = "stripe-signature"
_USUAL = re.compile(r"t=([0-9]{1,12}),v1=[0-9a-f]{64}(?:,v[01]=[0-9a-f]{64})*\Z", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}\Z")


class _Head(msgspec.Struct):
    type: str


class _Opened(_Head):
    id: str
    account: str | None = None


T = TypeVar("T")


class _Data(msgspec.Struct, Generic[T]):
    object: T


class _Event(msgspec.Struct, Generic[T]):
    created: Epoch
    data: _Data[T]


class Stripe(Provider):
    """Stripe's snapshot events, of every API version."""

    name = "stripe"
    headers: ClassVar = {_HEADER: "`t=<seconds since 1970>,v1=<hex>`"}
    title = "Stripe"
    api = StripeApi

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        header = headers.get(_HEADER, "")
        refuse_distant(_timestamp(header), now, TOLERANCE_SECONDS)
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            # Stripe signs text, so bytes that are none cannot carry a signature of Stripe's.
            raise SignatureRefused("body_not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
        if not any(_signed(text, header, secret) for secret in secrets):
            raise SignatureRefused(
                "signature_mismatch",
                "No signature matches: another endpoint's secret was used, or the body changed after signing.",
            )

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        event = reading.open_body(_OPENED, body)
        return Envelope(
            external_id=reading.printable("id", event.id),
            type=reading.printable("type", event.type),
            account=reading.printable("account", event.account) if event.account else "",
        )

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        event_type = reading.understand(_HEAD, body, "event").type
        meaning = EVENTS.get(event_type)
        if meaning is None:
            return Translation()
        event = reading.understand(_decoder(meaning.read_as), body, event_type)
        if meaning.deletes:
            event.data.object.deleted = True
        at = datetime.fromtimestamp(event.created, UTC)
        objects = entries(event.data.object, event_type)
        if b"\\u0000" in body:  # the only way to write a NUL in JSON
            objects = tuple(storable(value, event_type) for value in objects)
        told = meaning.fact is not None and not (meaning.lone and getattr(objects[0], "payment", None))
        facts = (Fact(meaning.fact, objects[0], at),) if meaning.fact and told else ()
        return Translation(tuple(Change(value, at) for value in objects), facts)


def _timestamp(header: str) -> int:
    """When the header says it was signed. The SDK reads the header again, but takes more than it should: `t=1_0`."""
    usual = _USUAL.match(header)
    if usual:
        return int(usual[1])
    if not header:
        raise SignatureRefused("signature_missing", f"The header `{_HEADER}` is missing.")
    items = [item.partition("=") for item in header.split(",")]
    timestamps = [value for name, _, value in items if name == "t"]
    if not header.isascii() or not timestamps or not _SECONDS.match(timestamps[0]):
        raise SignatureRefused("signature_malformed", f"`{_HEADER}` must be `t=<seconds since 1970>,v1=<hex>`.")
    if not any(name == "v1" and value for name, _, value in items):
        raise SignatureRefused("signature_scheme_missing", f"`{_HEADER}` holds no `v1` signature.")
    return int(timestamps[0])


def _signed(text: str, header: str, secret: str) -> bool:
    verify_header, mismatch = _sdk()
    try:
        # Without tolerance: the SDK would read the clock itself, and let timestamps in the future pass.
        verify_header(text, header, secret, tolerance=None)
    except (mismatch, ValueError, LookupError):
        return False
    return True


@functools.cache
def _sdk() -> tuple[Callable[..., object], type[Exception]]:
    """Imported on first use (0.2 s that a process which receives nothing from Stripe need not spend), and looked up
    once: the SDK finds its names anew, through its importer, at every mention."""
    from stripe import SignatureVerificationError, WebhookSignature

    return WebhookSignature.verify_header, SignatureVerificationError


_HEAD = msgspec.json.Decoder(_Head)
_OPENED = msgspec.json.Decoder(_Opened)


@functools.cache
def _decoder(read_as: type[Readable]) -> msgspec.json.Decoder[_Event[Readable]]:
    """Made on first use, and once."""
    event: Any = _Event
    return msgspec.json.Decoder(event[read_as])
