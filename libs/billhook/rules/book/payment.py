"""Money on its way: payments, the charges that try to make them, refunds and disputes."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

from billhook.rules.book.objects import DELETED, Amount, BookObject, Ref, Time

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
