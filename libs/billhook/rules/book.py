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
from typing import ClassVar, Literal

import msgspec


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

    external_id: str
    """The provider's id of the object."""
    created: datetime | None = None
    """When the provider made the object."""
    deleted: bool = False
    metadata: dict[str, str] = {}

    @property
    def rank(self) -> int:
        return 100 if self.deleted else 0


class Customer(BookObject, frozen=True, kw_only=True):
    kind = "customer"
    prefix = "cus"

    name: str | None = None
    email: str | None = None
    phone: str | None = None
    currency: str | None = None
    address: Address | None = None
    tax_exempt: str | None = None


class Product(BookObject, frozen=True, kw_only=True):
    kind = "product"
    prefix = "prod"

    name: str
    description: str | None = None
    active: bool = True


class Price(BookObject, frozen=True, kw_only=True):
    kind = "price"
    prefix = "price"

    product: str | None = None
    currency: str
    unit_amount: int | None = None
    """None where the price is tiered or below one minor unit; see `unit_amount_decimal`."""
    unit_amount_decimal: str | None = None
    interval: str | None = None
    """day, week, month or year; None for a one-time price."""
    interval_count: int | None = None
    usage_type: str | None = None
    active: bool = True
    nickname: str | None = None


class SubscriptionItem(msgspec.Struct, frozen=True, kw_only=True):
    external_id: str
    price: str | None = None
    product: str | None = None
    quantity: int | None = None


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

    customer: str | None = None
    status: SubscriptionStatus
    currency: str | None = None
    current_period_start: datetime | None = None
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    canceled_at: datetime | None = None
    ended_at: datetime | None = None
    trial_end: datetime | None = None
    latest_invoice: str | None = None
    default_payment_method: str | None = None
    items: tuple[SubscriptionItem, ...] = ()

    @property
    def rank(self) -> int:
        return 100 if self.deleted else _SUBSCRIPTION_RANK[self.status]


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    external_id: str
    description: str | None = None
    quantity: str | None = None
    """A decimal number, as text."""
    unit_amount: str | None = None
    """In minor units, a decimal number as text: unit prices may be below one minor unit."""
    amount: int
    """Before discounts and exclusive tax, in minor units."""
    discount: int = 0
    tax: int = 0
    tax_inclusive: bool = False
    proration: bool = False
    period_start: datetime | None = None
    period_end: datetime | None = None
    price: str | None = None
    product: str | None = None


InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
_INVOICE_RANK: dict[str, int] = {"draft": 0, "open": 1, "uncollectible": 2, "paid": 3, "void": 4}


class Invoice(BookObject, frozen=True, kw_only=True):
    kind = "invoice"
    prefix = "inv"

    number: str | None = None
    customer: str | None = None
    subscription: str | None = None
    status: InvoiceStatus
    currency: str
    subtotal: int
    discount: int = 0
    tax: int = 0
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    billing_reason: str | None = None
    description: str | None = None
    footer: str | None = None
    attempt_count: int = 0
    next_payment_attempt: datetime | None = None
    due_at: datetime | None = None
    finalized_at: datetime | None = None
    paid_at: datetime | None = None
    voided_at: datetime | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
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
        # A failed payment leaves the status `open`; counting its tries keeps the later of two open states on top.
        return 100 if self.deleted else _INVOICE_RANK[self.status] * 20 + min(self.attempt_count, 19)


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

    customer: str | None = None
    invoice: str | None = None
    """Absent from Stripe's API since 2025-03-31.basil, where `InvoicePayment` links the two."""
    status: Literal[
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "canceled",
        "succeeded",
    ]
    currency: str
    amount: int
    amount_received: int = 0
    failure_code: str | None = None
    decline_code: str | None = None
    failure_message: str | None = None

    @property
    def rank(self) -> int:
        # A declined intent falls back to requires_payment_method and keeps its error: that is later than a fresh one.
        declined = self.status == "requires_payment_method" and self.failure_code is not None
        return 100 if self.deleted else 4 if declined else _PAYMENT_RANK[self.status]


class Charge(BookObject, frozen=True, kw_only=True):
    """One try to move money."""

    kind = "charge"
    prefix = "ch"

    payment: str | None = None
    customer: str | None = None
    invoice: str | None = None
    status: Literal["pending", "failed", "succeeded"]
    currency: str
    amount: int
    amount_captured: int = 0
    amount_refunded: int = 0
    disputed: bool = False
    failure_code: str | None = None
    decline_code: str | None = None
    failure_message: str | None = None

    @property
    def rank(self) -> int:
        steps = (self.status != "pending", self.amount_captured > 0, self.disputed, self.amount_refunded > 0)
        return 100 if self.deleted else sum(weight for weight, done in zip((1, 2, 4, 8), steps, strict=True) if done)


class InvoicePayment(BookObject, frozen=True, kw_only=True):
    """Which payment pays which invoice."""

    kind = "invoice_payment"
    prefix = "inpay"

    invoice: str
    payment: str | None = None
    charge: str | None = None
    currency: str
    amount_requested: int | None = None
    amount_paid: int | None = None
    status: str

    @property
    def rank(self) -> int:
        return 100 if self.deleted else {"open": 0, "canceled": 1, "paid": 2}.get(self.status, 0)


class Refund(BookObject, frozen=True, kw_only=True):
    kind = "refund"
    prefix = "re"

    payment: str | None = None
    charge: str | None = None
    currency: str
    amount: int
    status: str
    reason: str | None = None
    failure_reason: str | None = None

    @property
    def rank(self) -> int:
        order = {"pending": 0, "requires_action": 1, "succeeded": 2, "failed": 3, "canceled": 4}
        return 100 if self.deleted else order.get(self.status, 0)


class CreditNote(BookObject, frozen=True, kw_only=True):
    kind = "credit_note"
    prefix = "cn"

    number: str | None = None
    invoice: str
    customer: str | None = None
    refund: str | None = None
    status: Literal["issued", "void"]
    currency: str
    subtotal: int
    tax: int = 0
    total: int
    reason: str | None = None
    memo: str | None = None
    voided_at: datetime | None = None

    @property
    def rank(self) -> int:
        return 100 if self.deleted else int(self.status == "void")


class Dispute(BookObject, frozen=True, kw_only=True):
    kind = "dispute"
    prefix = "dp"

    charge: str | None = None
    payment: str | None = None
    currency: str
    amount: int
    status: str
    reason: str | None = None
    evidence_due_at: datetime | None = None

    @property
    def rank(self) -> int:
        order = {
            "warning_needs_response": 0,
            "warning_under_review": 1,
            "warning_closed": 2,
            "needs_response": 3,
            "under_review": 4,
            "prevented": 5,
            "won": 6,
            "lost": 7,
        }
        return 100 if self.deleted else order.get(self.status, 0)


class CheckoutSession(BookObject, frozen=True, kw_only=True):
    kind = "checkout_session"
    prefix = "cs"

    customer: str | None = None
    subscription: str | None = None
    payment: str | None = None
    invoice: str | None = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    currency: str | None = None
    amount_total: int | None = None
    client_reference_id: str | None = None

    @property
    def rank(self) -> int:
        return 100 if self.deleted else {"open": 0, "expired": 1, "complete": 2}.get(self.status or "", 0)


KINDS: dict[str, type[BookObject]] = {
    value.kind: value
    for value in (
        Customer,
        Product,
        Price,
        Subscription,
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


class Change(msgspec.Struct, frozen=True):
    """One object as it stood at `at`, on its way into the book."""

    object: BookObject
    at: datetime
    fetched: bool = False
    """The provider was asked for the object: this settles a tie of two events of the same second."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self.object, order="deterministic")).hexdigest()[:32]

    @property
    def version(self) -> Version:
        return (self.at, 1000 if self.fetched else self.object.rank, self.digest)


Version = tuple[datetime, int, str]
"""When, how far along, and (only to make the order total) a digest of the content."""


class Fact(msgspec.Struct, frozen=True):
    """Something that happened, for merchants to hear of, under its public name (`billhook.events`)."""

    type: str
    object: BookObject
    at: datetime


class Translation(msgspec.Struct, frozen=True):
    """What one provider event means. Nothing in it: the event is kept and `ignored`."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()


def latest(changes: list[Change]) -> list[Change]:
    """For each object only its latest state, in a stable order (locks are then taken in one order everywhere)."""
    newest: dict[tuple[str, str], Change] = {}
    for change in changes:
        key = (change.object.kind, change.object.external_id)
        if key not in newest or newest[key].version < change.version:
            newest[key] = change
    return [newest[key] for key in sorted(newest)]


def tied(known: Version, change: Change) -> bool:
    """Two different states of one object with one timestamp: only the provider can say which is the later."""
    at, _, digest = known
    return change.at == at and change.digest != digest and not change.fetched
