"""What the book holds: one frozen value for each kind of billing object, in the field's own words.

Amounts are integers in the currency's minor unit, currencies are lower-case ISO 4217 codes, times are aware and UTC.
Other objects are named by the provider's id (`customer`, `subscription`, `invoice`…), so no object has to wait for
another one to arrive first.

`rank` orders two states of one object that carry the same timestamp (Stripe stamps to the second, and one API call
makes several events within it): the state further along its life is the later one.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import replace

Ref = Annotated[str, Meta(min_length=1, max_length=255)]
"""A provider's id of an object."""
Amount = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Minor units, within what a 64-bit column holds."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time = Annotated[datetime, Meta(tz=True)]
"""An aware time; what has no offset is refused when it is decoded."""

DELETED = 2**31 - 1
"""The rank of a deleted object: above every state it had, and above every answer from before it was deleted."""

FIRST = -1
"""The rank of a state in which an object was made: below every other of the same second."""

ASKED = 1000
"""The lowest rank of an answer of the provider's: above every state that an event of the same second told of."""


# A status is text, not an enumeration: providers add new ones, and an object must not be lost for a status that
# billhook does not know. The examples list the known ones; an unknown one has the rank of an object under way.


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    line1: str | None = None
    line2: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None
    """ISO 3166-1 alpha-2."""


class BookObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object as a provider last described it."""

    kind: ClassVar[str]
    """The object's name in tables, ids and documentation."""
    prefix: ClassVar[str]
    """The prefix of billhook's own id for it."""

    external_id: Ref
    """The provider's id of the object."""
    created: Time | None = None
    """When the provider made the object."""
    deleted: bool = False
    metadata: dict[str, str] = {}

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else 0


class Customer(BookObject, frozen=True, kw_only=True):
    kind = "customer"
    prefix = "cus"

    name: str | None = None
    email: str | None = None
    phone: str | None = None
    currency: str | None = None
    address: Address | None = None
    tax_exempt: str | None = None
    default_payment_method: Ref | None = None


class Product(BookObject, frozen=True, kw_only=True):
    kind = "product"
    prefix = "prod"

    name: str | None = None
    """None only where all that is left of a deleted product is its id."""
    description: str | None = None
    active: bool = True


class Price(BookObject, frozen=True, kw_only=True):
    kind = "price"
    prefix = "price"

    product: Ref | None = None
    currency: str | None = None
    """None only where all that is left of a deleted price is its id."""
    unit_amount: Amount | None = None
    """None where the price is tiered or below one minor unit; see `unit_amount_decimal`."""
    unit_amount_decimal: str | None = None
    interval: str | None = None
    """day, week, month or year; None for a one-time price."""
    interval_count: Count | None = None
    usage_type: str | None = None
    active: bool = True
    nickname: str | None = None


class SubscriptionItem(msgspec.Struct, frozen=True, kw_only=True):
    external_id: Ref
    price: Ref | None = None
    product: Ref | None = None
    quantity: Count | None = None


SubscriptionStatus = Literal[
    "incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"
]
_SUBSCRIPTION_RANK: dict[str, int] = {
    "incomplete": 0,
    "trialing": 1,
    "active": 2,
    "past_due": 3,
    "unpaid": 4,
    "paused": 5,
    "incomplete_expired": 6,
    "canceled": 7,
}


class Subscription(BookObject, frozen=True, kw_only=True):
    kind = "subscription"
    prefix = "sub"

    customer: Ref | None = None
    status: Annotated[str, Meta(examples=[*get_args(SubscriptionStatus)])]
    currency: str | None = None
    current_period_start: Time | None = None
    current_period_end: Time | None = None
    cancel_at_period_end: bool = False
    cancel_at: Time | None = None
    canceled_at: Time | None = None
    ended_at: Time | None = None
    trial_end: Time | None = None
    latest_invoice: Ref | None = None
    default_payment_method: Ref | None = None
    items: tuple[SubscriptionItem, ...] = ()
    items_complete: bool = True
    """False when the provider's event carried only the first items, and nobody could be asked for the rest."""
    schedule: Ref | None = None
    """The subscription schedule that changes it."""
    collection_paused: str | None = None
    """What becomes of its invoices while payments are not collected: keep_as_draft, mark_uncollectible or void."""
    collection_resumes_at: Time | None = None

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else _SUBSCRIPTION_RANK.get(self.status, _SUBSCRIPTION_RANK["paused"])


class ScheduledItem(msgspec.Struct, frozen=True, kw_only=True):
    price: Ref | None = None
    quantity: Count | None = None


class SchedulePhase(msgspec.Struct, frozen=True, kw_only=True):
    start: Time | None = None
    end: Time | None = None
    items: tuple[ScheduledItem, ...] = ()


ScheduleStatus = Literal["not_started", "active", "completed", "released", "canceled"]


class SubscriptionSchedule(BookObject, frozen=True, kw_only=True):
    """What a subscription will change to, and when."""

    kind = "subscription_schedule"
    prefix = "sched"

    customer: Ref | None = None
    subscription: Ref | None = None
    """The one it changes, or changed until it was released."""
    status: Annotated[str, Meta(examples=[*get_args(ScheduleStatus)])]
    end_behavior: str | None = None
    """What the subscription does when the last phase ends: release or cancel."""
    current_phase_start: Time | None = None
    current_phase_end: Time | None = None
    phases: tuple[SchedulePhase, ...] = ()
    canceled_at: Time | None = None
    completed_at: Time | None = None
    released_at: Time | None = None

    @property
    def rank(self) -> int:
        order = {"not_started": 0, "active": 1, "completed": 2, "released": 3, "canceled": 4}
        return DELETED if self.deleted else order.get(self.status, 1)


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    external_id: Ref
    description: str | None = None
    quantity: str | None = None
    """A decimal number, as text."""
    unit_amount: str | None = None
    """In minor units, a decimal number as text: unit prices may be below one minor unit."""
    amount: Amount
    """Before discounts and exclusive tax, in minor units."""
    discount: Amount = 0
    """Its share of all discounts."""
    tax: Amount = 0
    tax_inclusive: bool = False
    """Whether `amount` contains all of `tax`."""
    tax_included: Amount = 0
    """What of `tax` is contained in `amount`."""
    proration: bool = False
    period_start: Time | None = None
    period_end: Time | None = None
    price: Ref | None = None
    product: Ref | None = None


InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
_INVOICE_RANK: dict[str, int] = {"draft": 0, "open": 1, "uncollectible": 2, "paid": 3, "void": 4}


class Invoice(BookObject, frozen=True, kw_only=True):
    kind = "invoice"
    prefix = "inv"

    number: str | None = None
    customer: Ref | None = None
    subscription: Ref | None = None
    status: Annotated[str, Meta(examples=[*get_args(InvoiceStatus)])]
    currency: str
    subtotal: Amount
    """The sum of the lines' amounts, before all discounts."""
    discount: Amount = 0
    """All discounts, those of single lines among them."""
    credits: Amount = 0
    """Credits that the customer had bought or was given, taken off before tax."""
    shipping: Amount = 0
    tax: Amount = 0
    """All taxes."""
    tax_included: Amount = 0
    """What of `tax` the amounts before it contain; the rest comes on top."""
    total: Amount
    """`subtotal` - `discount` - `credits` + `shipping` + `tax` - `tax_included`."""
    amount_due: Amount
    """`total`, without what credit notes took off before it was paid, and after the customer's balance was applied."""
    amount_paid: Amount
    amount_remaining: Amount
    credited_before_payment: Amount = 0
    """By credit notes, when it was open: so much less is, or was, to be paid."""
    credited_after_payment: Amount = 0
    """By credit notes, when it had been paid."""
    billing_reason: str | None = None
    description: str | None = None
    footer: str | None = None
    attempt_count: Count = 0
    next_payment_attempt: Time | None = None
    due_at: Time | None = None
    finalized_at: Time | None = None
    paid_at: Time | None = None
    voided_at: Time | None = None
    period_start: Time | None = None
    """What it is for begins: the least start of its lines."""
    period_end: Time | None = None
    """The greatest end of its lines."""
    seller_name: str | None = None
    seller_country: str | None = None
    customer_name: str | None = None
    customer_email: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: tuple[str, ...] = ()
    hosted_url: str | None = None
    lines: tuple[InvoiceLine, ...] = ()
    lines_complete: bool = True
    """False when the provider's event carried only the first lines; the rest is fetched where a key is known."""

    @property
    def rank(self) -> int:
        # A failed payment leaves the status `open`; the number of attempts tells which of two open states is the later.
        rank = _INVOICE_RANK.get(self.status, _INVOICE_RANK["open"])
        return DELETED if self.deleted else rank * 20 + min(self.attempt_count, 19)


PaymentStatus = Literal[
    "requires_payment_method",
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_capture",
    "canceled",
    "succeeded",
]
_PAYMENT_RANK: dict[str, int] = {
    "requires_payment_method": 0,
    "requires_confirmation": 1,
    "requires_action": 2,
    "processing": 3,
    "requires_capture": 5,
    "canceled": 6,
    "succeeded": 7,
}


class Payment(BookObject, frozen=True, kw_only=True):
    """A payment intent: one intention to collect money, over however many tries."""

    kind = "payment"
    prefix = "pay"

    customer: Ref | None = None
    invoice: Ref | None = None
    """Absent from Stripe's API since 2025-03-31.basil, where `InvoicePayment` links the two."""
    status: Annotated[str, Meta(examples=[*get_args(PaymentStatus)])]
    currency: str
    amount: Amount
    amount_received: Amount = 0
    failure_code: str | None = None
    decline_code: str | None = None
    failure_message: str | None = None

    @property
    def rank(self) -> int:
        # A declined intent falls back to requires_payment_method and keeps its error: that is later than a fresh one.
        declined = self.status == "requires_payment_method" and self.failure_code is not None
        return DELETED if self.deleted else 4 if declined else _PAYMENT_RANK.get(self.status, 4)


ChargeStatus = Literal["pending", "failed", "succeeded"]


class Charge(BookObject, frozen=True, kw_only=True):
    """One try to move money."""

    kind = "charge"
    prefix = "ch"

    payment: Ref | None = None
    customer: Ref | None = None
    invoice: Ref | None = None
    status: Annotated[str, Meta(examples=[*get_args(ChargeStatus)])]
    currency: str
    amount: Amount
    amount_captured: Amount = 0
    amount_refunded: Amount = 0
    disputed: bool = False
    failure_code: str | None = None
    decline_code: str | None = None
    failure_message: str | None = None

    @property
    def rank(self) -> int:
        steps = (self.status != "pending", self.amount_captured > 0, self.disputed, self.amount_refunded > 0)
        return (
            DELETED if self.deleted else sum(weight for weight, done in zip((1, 2, 4, 8), steps, strict=True) if done)
        )


class InvoicePayment(BookObject, frozen=True, kw_only=True):
    """Which payment pays which invoice."""

    kind = "invoice_payment"
    prefix = "inpay"

    invoice: Ref
    payment: Ref | None = None
    charge: Ref | None = None
    payment_record: Ref | None = None
    """A payment that was made outside of the provider and reported to it."""
    currency: str
    amount_requested: Amount | None = None
    amount_paid: Amount | None = None
    status: str

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else {"open": 0, "canceled": 1, "paid": 2}.get(self.status, 0)


class Refund(BookObject, frozen=True, kw_only=True):
    kind = "refund"
    prefix = "re"

    payment: Ref | None = None
    charge: Ref | None = None
    currency: str
    amount: Amount
    status: str
    reason: str | None = None
    failure_reason: str | None = None

    @property
    def rank(self) -> int:
        order = {"pending": 0, "requires_action": 1, "succeeded": 2, "failed": 3, "canceled": 4}
        return DELETED if self.deleted else order.get(self.status, 0)


CreditNoteStatus = Literal["issued", "void"]


class CreditNote(BookObject, frozen=True, kw_only=True):
    kind = "credit_note"
    prefix = "cn"

    number: str | None = None
    invoice: Ref
    customer: Ref | None = None
    refund: Ref | None = None
    status: Annotated[str, Meta(examples=[*get_args(CreditNoteStatus)])]
    currency: str
    subtotal: Amount
    tax: Amount = 0
    total: Amount
    reason: str | None = None
    memo: str | None = None
    voided_at: Time | None = None

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else int(self.status == "void")


class Dispute(BookObject, frozen=True, kw_only=True):
    kind = "dispute"
    prefix = "dp"

    charge: Ref | None = None
    payment: Ref | None = None
    currency: str
    amount: Amount
    status: str
    reason: str | None = None
    evidence_due_at: Time | None = None

    @property
    def rank(self) -> int:
        order = {
            "warning_needs_response": 0,
            "warning_under_review": 1,
            "warning_closed": 2,
            "needs_response": 3,
            "under_review": 4,
            "prevented": 5,
            "charge_refunded": 6,
            "won": 7,
            "lost": 8,
        }
        return DELETED if self.deleted else order.get(self.status, 0)


class CheckoutSession(BookObject, frozen=True, kw_only=True):
    kind = "checkout_session"
    prefix = "cs"

    customer: Ref | None = None
    subscription: Ref | None = None
    payment: Ref | None = None
    invoice: Ref | None = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    currency: str | None = None
    amount_total: Amount | None = None
    amount_tax: Amount | None = None
    """What of `amount_total` is tax."""
    client_reference_id: str | None = None
    customer_name: str | None = None
    """As it was given at this checkout, like what follows: a guest is no customer."""
    customer_email: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: tuple[str, ...] | None = None

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else {"open": 0, "expired": 1, "complete": 2}.get(self.status or "", 0)


KINDS: dict[str, type[BookObject]] = {
    value.kind: value
    for value in (
        Customer,
        Product,
        Price,
        Subscription,
        SubscriptionSchedule,
        Invoice,
        Payment,
        Charge,
        InvoicePayment,
        Refund,
        CreditNote,
        Dispute,
        CheckoutSession,
    )
}


def book_id(source_id: str, account: str, value: BookObject) -> str:
    """billhook's id of a provider's object: derived from the provider's, so that events in any order, in any process,
    give an object the same id without asking the database."""
    identity = "\0".join((source_id, account, value.kind, value.external_id))
    return f"{value.prefix}_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


STATUSES: Final[dict[str, tuple[str, ...]]] = {
    Subscription.kind: get_args(SubscriptionStatus),
    SubscriptionSchedule.kind: get_args(ScheduleStatus),
    Invoice.kind: get_args(InvoiceStatus),
    Payment.kind: get_args(PaymentStatus),
    Charge.kind: get_args(ChargeStatus),
    CreditNote.kind: get_args(CreditNoteStatus),
}
"""The statuses that billhook knows, where there is a vocabulary of its own."""


def complete(value: BookObject) -> bool:
    """Whether an event carried the whole object, and not only its first lines or items."""
    return all(getattr(value, f"{name}_complete", True) for name in ("lines", "items"))


def completed(partial: BookObject, answer: BookObject) -> BookObject:
    """The object of an event, with the lines or items that the event left out taken from the provider's answer."""
    if isinstance(partial, Invoice) and isinstance(answer, Invoice) and not partial.lines_complete:
        period = {"period_start": answer.period_start, "period_end": answer.period_end}
        return replace(partial, lines=answer.lines, lines_complete=answer.lines_complete, **period)
    if isinstance(partial, Subscription) and isinstance(answer, Subscription) and not partial.items_complete:
        return replace(partial, items=answer.items, items_complete=answer.items_complete)
    return partial


class Change(msgspec.Struct, frozen=True):
    """One object as it stood at `at`, on its way into the book."""

    object: BookObject
    at: Time
    asked_at: Time | None = None
    """When the provider was asked for the object. An answer settles a tie of two events of the same second, and of two
    answers the later one counts: an object may change again in the second in which it was first asked for."""
    before: str | None = None
    """The digest of the state that it took the place of, where the event says what it changed."""
    first: bool = False
    """The event tells that the object was made, so whatever else the same second had came later."""

    @property
    def digest(self) -> str:
        return digest_of(self.object)

    @property
    def version(self) -> Version:
        if self.asked_at is None or self.object.deleted:
            rank = FIRST if self.first and not self.object.deleted else self.object.rank
            return (self.at, rank, self.digest)
        later = int((self.asked_at - self.at).total_seconds() * 100)  # steps of 10 ms: they fit for eight months
        return (self.at, min(ASKED + max(later, 0), DELETED - 1), self.digest)


def digest_of(value: BookObject) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:32]


Version = tuple[datetime, int, str]
"""When, how far along, and (only to make the order total) a digest of the content."""


class Fact(msgspec.Struct, frozen=True):
    """Something that happened, for merchants to hear of, under its public name (`billhook.events`)."""

    type: str
    object: BookObject
    at: Time


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """An object that an event only names: its provider has to be asked for it."""

    kind: str
    external_id: Ref
    at: Time
    fact: str | None = None
    """What to tell of it."""
    lone: bool = False
    """Told only where no payment stands behind it."""


class Translation(msgspec.Struct, frozen=True):
    """What one provider event means. With nothing in it, the event is kept and marked `ignored`."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    related: Related | None = None
    livemode: bool | None = None
    """Whether real money moved; None where the provider does not say."""


def tied(known: Version, change: Change) -> bool:
    """Two different states of one object with one timestamp: only the provider can say which is the later.

    A deletion never ties with anything: nothing comes after it, and the provider may not know the object any more.
    """
    at, rank, digest = known
    final = rank == DELETED or change.object.deleted
    return change.at == at and change.digest != digest and change.asked_at is None and not final
