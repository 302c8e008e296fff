"""Stripe: signed webhooks in, what they mean for the book out. Pure; `stripe_api.py` asks Stripe itself."""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from billhook.decoding import convert, decoder_of
from billhook.errors import SignatureRefused, Unprocessable
from billhook.providers import reading, stripe_invoices, stripe_objects, stripe_payments
from billhook.providers.provider import TOLERANCE_SECONDS, Envelope, Provider
from billhook.providers.stripe_api import READ_AS, StripeApi
from billhook.providers.stripe_objects import Epoch, Readable, entries
from billhook.rules.book.change import Change, Fact, Related, Translation, digest_of
from billhook.rules.book.objects import Ref, Time
from billhook.rules.signing import refuse_distant
from billhook.rules.storable import in_utc, storable


class Meaning(msgspec.Struct, frozen=True):
    """What one type of event is about, and under which public name it is told (None: it only changes the book)."""

    read_as: type[Readable]
    fact: str | None = None
    deletes: bool = False
    lone: bool = False
    """Told only where no payment intent stands behind the charge."""

    @property
    def kind(self) -> str:
        """What the book calls the object."""
        return next((kind for kind, (_, read) in READ_AS.items() if read is self.read_as), "price")  # a plan is one


CUSTOMER = stripe_objects.Customer
PRODUCT = stripe_objects.Product
PRICE = stripe_objects.Price
PLAN = stripe_objects.Plan
SUBSCRIPTION = stripe_objects.Subscription
SCHEDULE = stripe_objects.SubscriptionSchedule
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
    "subscription_schedule.created": Meaning(SCHEDULE, "subscription_schedule.created"),
    "subscription_schedule.updated": Meaning(SCHEDULE, "subscription_schedule.updated"),
    "subscription_schedule.expiring": Meaning(SCHEDULE, "subscription_schedule.expiring"),
    "subscription_schedule.completed": Meaning(SCHEDULE, "subscription_schedule.completed"),
    "subscription_schedule.released": Meaning(SCHEDULE, "subscription_schedule.released"),
    "subscription_schedule.canceled": Meaning(SCHEDULE, "subscription_schedule.canceled"),
    "subscription_schedule.aborted": Meaning(SCHEDULE, "subscription_schedule.aborted"),
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
_USUAL = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})((?:,v[01]=[0-9a-f]{64})*)\Z", re.ASCII)
_V1 = re.compile(r"v1=([0-9a-f]{64})")
_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_PENDING_NAME = b'"pending_webhooks"'
_PENDING = re.compile(_PENDING_NAME + rb"\s*:\s*[0-9]+")
"""To how many endpoints an event is still to be sent: another number at each sending."""


_TEST_KEY = re.compile(r"(?:sk|rk)_test_")
_LIVE_KEY = re.compile(r"(?:sk|rk)_live_")
_THIN = "v2.core.event"
_OF_V1 = "v1."
"""Before the types of thin events about objects that have snapshot events too: `v1.invoice.paid`."""


class _Head(msgspec.Struct):
    type: str
    object: str | None = None
    livemode: bool | None = None


class _Opened(_Head, kw_only=True):
    id: str
    account: str | None = None
    """The connected account that a platform's event is about."""
    context: str | None = None
    """Likewise, of an organization's event."""


T = TypeVar("T")


class _Data(msgspec.Struct, Generic[T]):
    object: T
    previous_attributes: dict[str, Any] | None = None


class _Event(msgspec.Struct, Generic[T]):
    created: Epoch
    data: _Data[T]


class _Named(msgspec.Struct):
    id: Ref
    type: str


class _Thin(msgspec.Struct):
    created: Time
    related_object: _Named | None = None


class Stripe(Provider):
    """Stripe's snapshot events, of every API version, and the thin ones that name an object of those."""

    name = "stripe"
    headers: ClassVar = {_HEADER: "`t=<seconds since 1970>,v1=<hex>`"}
    title = "Stripe"
    api = StripeApi

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        header = headers.get(_HEADER, "")
        usual = _USUAL.match(header)
        refuse_distant(int(usual[1]) if usual else _timestamp(header), now, TOLERANCE_SECONDS)
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            # Stripe signs text, so bytes that are none cannot carry a signature of Stripe's.
            raise SignatureRefused("body_not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
        for secret in secrets:
            if _signed_as_usual(body, usual, secret) or _signed(text, header, secret):
                return
        raise SignatureRefused(
            "signature_mismatch",
            "No signature matches: another endpoint's secret was used, or the body changed after signing.",
        )

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        event = reading.open_body(_OPENED, body)
        return Envelope(
            external_id=reading.printable("id", event.id),
            type=reading.printable("type", event.type),
            account=reading.printable("account", account) if (account := event.account or event.context) else "",
            livemode=event.livemode,
            content=_repeated(body),
        )

    def livemode_of(self, api_key: str) -> bool | None:
        return False if _TEST_KEY.match(api_key) else True if _LIVE_KEY.match(api_key) else None

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        head = reading.understand(_HEAD, body, "event")
        event_type, thin = head.type, head.object == _THIN
        meaning = EVENTS.get(event_type.removeprefix(_OF_V1) if thin else event_type)
        if meaning is None:
            return Translation(livemode=head.livemode)
        if thin:
            return _related(meaning, body, head)
        event = reading.understand(_decoder(meaning.read_as), body, event_type)
        if meaning.deletes:
            event.data.object.deleted = True
        at = datetime.fromtimestamp(event.created, UTC)
        objects = entries(event.data.object, event_type)
        if b"\\u0000" in body:  # the only way to write a NUL in JSON
            objects = tuple(storable(value, event_type) for value in objects)
        announced = meaning.fact is not None and not (meaning.lone and getattr(objects[0], "payment", None))
        facts = (Fact(meaning.fact, objects[0], at),) if meaning.fact and announced else ()
        previous = event.data.previous_attributes
        first = Change(
            objects[0],
            at,
            before=_digest_before(meaning, body, previous) if previous else None,
            first=event_type.endswith(".created"),
        )
        changes = (first, *(Change(value, at) for value in objects[1:]))
        return Translation(changes, facts, livemode=head.livemode)


def _repeated(body: bytes) -> bytes:
    """What another sending of the same event has too."""
    at = body.find(_PENDING_NAME)  # behind the object, and found in a third of the pattern's time
    return body if at < 0 else body[:at] + _PENDING.sub(b"", body[at:])


def _related(meaning: Meaning, body: bytes, head: _Head) -> Translation:
    """A thin event says what happened to which object, and nothing of the object."""
    event = reading.understand(_THIN_EVENT, body, head.type)
    at = in_utc(event.created, head.type, "created")
    if event.related_object is None:
        raise Unprocessable(f"{head.type}: a `related_object` expected, for there is nothing else to know it by")
    what = Related(
        kind=meaning.kind,
        external_id=event.related_object.id,
        at=at,
        fact=meaning.fact,
        lone=meaning.lone,
    )
    return Translation(related=what, livemode=head.livemode)


def _digest_before(meaning: Meaning, body: bytes, previous: dict[str, Any]) -> str | None:
    """The digest of the object as the book would have held it before the event. None where that cannot be worked out:
    an event is not refused for what it says of the past."""
    try:
        value = msgspec.json.decode(body)["data"]["object"]
        (found, *_) = entries(convert(_put_back(value, previous), meaning.read_as), "")
        return digest_of(found)
    except (msgspec.DecodeError, Unprocessable, LookupError, TypeError, RecursionError):
        return None


def _put_back(value: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    """Stripe sends the former value of each field that changed; a key of `metadata` that did not exist is null."""
    before = dict(value)
    for name, old in previous.items():
        inner = value.get(name)
        if isinstance(old, dict) and isinstance(inner, dict):
            before[name] = _put_back(inner, old)
            if name == "metadata":
                before[name] = {key: text for key, text in before[name].items() if text is not None}
        else:
            before[name] = old
    return before


def _timestamp(header: str) -> int:
    """When a header that is not as usual says it was signed. The SDK reads it again, but takes more than it should:
    `t=1_0`."""
    if not header:
        raise SignatureRefused("signature_missing", f"The header `{_HEADER}` is missing.")
    items = [item.partition("=") for item in header.split(",")]
    timestamps = [value for name, _, value in items if name == "t"]
    if not header.isascii() or not timestamps or not _SECONDS.match(timestamps[0]):
        raise SignatureRefused("signature_malformed", f"`{_HEADER}` must be `t=<seconds since 1970>,v1=<hex>`.")
    if not any(name == "v1" and value for name, _, value in items):
        raise SignatureRefused("signature_scheme_missing", f"`{_HEADER}` holds no `v1` signature.")
    return int(timestamps[0])


def _signed_as_usual(body: bytes, usual: re.Match[str] | None, secret: str) -> bool:
    """Whether a header as Stripe writes it signs this body, in a tenth of the SDK's time. If not, the SDK is asked."""
    if usual is None or not secret.isascii() or not secret.strip():
        return False
    expected = hmac.digest(secret.encode(), b"%d.%b" % (int(usual[1]), body), "sha256").hex()
    if hmac.compare_digest(expected, usual[2]):
        return True
    return any(hmac.compare_digest(expected, given) for given in _V1.findall(usual[3]))


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


_HEAD = decoder_of(_Head)
_THIN_EVENT = decoder_of(_Thin)
_OPENED = decoder_of(_Opened)


@functools.cache
def _decoder(read_as: type[Readable]) -> msgspec.json.Decoder[_Event[Readable]]:
    """Made on first use, and once."""
    event: Any = _Event
    return decoder_of(event[read_as])
