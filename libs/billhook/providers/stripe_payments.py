"""Stripe's payment intents, charges, refunds and disputes, as far as billhook reads them."""

from __future__ import annotations

import msgspec

from billhook.providers.stripe_objects import Currency, Epoch, Expandable, StripeObject, at, id_of
from billhook.rules.book.objects import Amount, BookObject, Ref
from billhook.rules.book.payment import Charge as BookCharge
from billhook.rules.book.payment import Dispute as BookDispute
from billhook.rules.book.payment import Payment
from billhook.rules.book.payment import Refund as BookRefund


class PaymentError(msgspec.Struct):
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class PaymentIntent(StripeObject, kw_only=True):
    customer: Expandable = None
    customer_account: Ref | None = None
    invoice: Expandable = None
    status: str
    currency: Currency
    amount: Amount
    amount_received: Amount = 0
    last_payment_error: PaymentError | None = None

    def to_book(self) -> BookObject:
        error = self.last_payment_error or PaymentError()
        return Payment(
            **self.shared(),
            customer=id_of(self.customer) or self.customer_account,
            invoice=id_of(self.invoice),
            status=self.status,
            currency=self.currency,
            amount=self.amount,
            amount_received=self.amount_received,
            failure_code=error.code,
            decline_code=error.decline_code,
            failure_message=error.message,
        )


class Refund(StripeObject, kw_only=True):
    payment_intent: Expandable = None
    charge: Expandable = None
    currency: Currency
    amount: Amount
    status: str | None = None
    reason: str | None = None
    failure_reason: str | None = None

    def to_book(self) -> BookRefund:
        return BookRefund(
            **self.shared(),
            payment=id_of(self.payment_intent),
            charge=id_of(self.charge),
            currency=self.currency,
            amount=self.amount,
            # Stripe's schema lets the status be null: then nothing is known of the money yet.
            status=self.status or "pending",
            reason=self.reason,
            failure_reason=self.failure_reason,
        )


class Refunds(msgspec.Struct):
    data: list[Refund] = []


class Outcome(msgspec.Struct):
    reason: str | None = None


class Charge(StripeObject, kw_only=True):
    payment_intent: Expandable = None
    customer: Expandable = None
    invoice: Expandable = None
    status: str
    currency: Currency
    amount: Amount
    captured: bool = False
    amount_captured: Amount | None = None
    """Absent before 2020, where a capture said only that it was made."""
    amount_refunded: Amount = 0
    disputed: bool = False
    failure_code: str | None = None
    failure_message: str | None = None
    outcome: Outcome | None = None
    refunds: Refunds | None = None
    """Absent since API version 2022-11-15, unless somebody asked for it."""

    def to_book(self) -> BookObject:
        captured = self.amount if self.captured else 0
        return BookCharge(
            **self.shared(),
            payment=id_of(self.payment_intent),
            customer=id_of(self.customer),
            invoice=id_of(self.invoice),
            status=self.status,
            currency=self.currency,
            amount=self.amount,
            amount_captured=captured if self.amount_captured is None else self.amount_captured,
            amount_refunded=self.amount_refunded,
            disputed=self.disputed,
            failure_code=self.failure_code,
            decline_code=self.outcome.reason if self.outcome and self.failure_code else None,
            failure_message=self.failure_message,
        )

    def carried(self) -> tuple[BookObject, ...]:
        return tuple(refund.to_book() for refund in self.refunds.data) if self.refunds else ()


class EvidenceDetails(msgspec.Struct):
    due_by: Epoch | None = None


class Dispute(StripeObject, kw_only=True):
    charge: Expandable = None
    payment_intent: Expandable = None
    currency: Currency
    amount: Amount
    status: str
    reason: str | None = None
    evidence_details: EvidenceDetails | None = None

    def to_book(self) -> BookObject:
        return BookDispute(
            **self.shared(),
            charge=id_of(self.charge),
            payment=id_of(self.payment_intent),
            currency=self.currency,
            amount=self.amount,
            status=self.status,
            reason=self.reason,
            evidence_due_at=at(self.evidence_details.due_by) if self.evidence_details else None,
        )
