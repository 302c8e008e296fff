"""Paddle's transactions and adjustments, as far as billhook reads them.

A transaction is in the book as an invoice, as the payment that is to pay it (both under the transaction's id) and as
one charge a try to pay. Adjustments refund, credit or charge it back:

| action | in the book |
|---|---|
| `refund` | a refund; once Paddle has approved it, a credit note too |
| `credit` | a credit note |
| `chargeback`, `chargeback_warning` | a dispute |
| `*_reverse` | nothing: the adjustment that it reverses becomes `reversed`, and says so itself |
"""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from billhook.providers.paddle_objects import CurrencyCode, Digits, PaddleObject, Span
from billhook.rules.book.invoice import CreditNote, Invoice, InvoiceLine, InvoiceStatus
from billhook.rules.book.objects import BookObject, Count, Ref, Time
from billhook.rules.book.payment import Charge, Dispute, Payment, PaymentStatus, Refund

TransactionStatus = Literal["draft", "ready", "billed", "paid", "completed", "past_due", "canceled"]
_STATUS: Final[dict[TransactionStatus, InvoiceStatus]] = {
    "draft": "draft",
    "ready": "draft",  # it has all it needs, and may still be changed
    "billed": "open",
    "past_due": "open",
    "paid": "paid",
    "completed": "paid",
    "canceled": "void",
}
_FAILED: Final = frozenset({"error", "dropped", "canceled"})
_AUTHORIZED: Final = frozenset({"authorized", "authorized_flagged"})

Frequency = Annotated[int, Meta(ge=0, le=10_000)]


class Totals(msgspec.Struct):
    subtotal: Digits
    tax: Digits
    total: Digits
    discount: Digits = "0"
    grand_total: Digits | None = None
    """The total less credit: what is to be paid. Absent from events of before 2023-06."""
    balance: Digits | None = None
    """What is still to be paid."""


class UnitTotals(msgspec.Struct):
    subtotal: Digits


class BoughtProduct(msgspec.Struct):
    id: Ref | None = None
    name: str | None = None


class Proration(msgspec.Struct):
    billing_period: Span | None = None


class LineItem(msgspec.Struct, kw_only=True):
    id: Ref | None = None
    """None in a preview."""
    price_id: Ref | None = None
    quantity: Count | None = None
    totals: Totals
    unit_totals: UnitTotals | None = None
    product: BoughtProduct | None = None
    proration: Proration | None = None

    def to_book(self, number: int, period: Span) -> InvoiceLine:
        product = self.product or BoughtProduct()
        period = (self.proration and self.proration.billing_period) or period
        return InvoiceLine(
            external_id=self.id or str(number),
            description=product.name,
            quantity=None if self.quantity is None else str(self.quantity),
            unit_amount=self.unit_totals.subtotal if self.unit_totals else None,
            amount=int(self.totals.subtotal),
            discount=int(self.totals.discount),
            tax=int(self.totals.tax),
            proration=self.proration is not None,
            period_start=period.starts_at,
            period_end=period.ends_at,
            price=self.price_id,
            product=product.id,
        )


class Details(msgspec.Struct):
    totals: Totals
    line_items: list[LineItem] = []


class PaymentTry(msgspec.Struct, kw_only=True):
    payment_attempt_id: Ref
    amount: Digits
    status: str
    created_at: Time
    captured_at: Time | None = None
    error_code: str | None = None

    @property
    def happened_at(self) -> datetime:
        return self.captured_at or self.created_at

    @property
    def failed(self) -> bool:
        return self.status in _FAILED

    @property
    def captured(self) -> int:
        return int(self.amount) if self.status == "captured" else 0

    def outcome(self) -> PaymentStatus:
        """The status of an unpaid payment whose last try was this one."""
        if self.failed:
            return "requires_payment_method"
        if self.status == "action_required":
            return "requires_action"
        return "requires_capture" if self.status in _AUTHORIZED else "processing"


class Checkout(msgspec.Struct):
    url: str | None = None


class Terms(msgspec.Struct):
    interval: Literal["day", "week", "month", "year"]
    frequency: Frequency


class BillingDetails(msgspec.Struct):
    payment_terms: Terms | None = None


class Transaction(PaddleObject, kw_only=True):
    status: TransactionStatus
    customer_id: Ref | None = None
    subscription_id: Ref | None = None
    currency_code: CurrencyCode
    origin: str | None = None
    invoice_number: str | None = None
    billed_at: Time | None = None
    revised_at: Time | None = None
    billing_period: Span | None = None
    billing_details: BillingDetails | None = None
    checkout: Checkout | None = None
    details: Details
    payments: tuple[PaymentTry, ...] = ()

    def changed_at(self) -> datetime | None:
        # A try to pay, or a revision of the customer's details, need not move `updated_at`.
        times = [self.updated_at, self.revised_at, *(one.happened_at for one in self.payments)]
        return max((time for time in times if time is not None), default=None)

    def to_book(self) -> tuple[BookObject, ...]:
        tries = self._tries()
        payment = (self._payment(tries),) if tries else ()
        return (self._invoice(tries), *payment, *(self._charge(one) for one in tries))

    def _tries(self) -> list[PaymentTry]:
        """Each once, in the order of time: a list may name one twice."""
        order = sorted(self.payments, key=lambda one: (one.happened_at, one.status))
        return list({one.payment_attempt_id: one for one in order}.values())

    def _due(self) -> int:
        totals = self.details.totals
        return int(totals.total if totals.grand_total is None else totals.grand_total)

    def _currency(self) -> str:
        return self.currency_code.lower()

    def _invoice(self, tries: list[PaymentTry]) -> Invoice:
        totals, period = self.details.totals, self.billing_period or Span()
        due, status = self._due(), _STATUS[self.status]
        paid = sum(one.captured for one in tries)
        left = due - paid if totals.balance is None else int(totals.balance)
        return Invoice(
            **self.shared(),
            number=self.invoice_number,
            customer=self.customer_id,
            subscription=self.subscription_id,
            status=status,
            currency=self._currency(),
            subtotal=int(totals.subtotal),
            discount=int(totals.discount),
            tax=int(totals.tax),
            total=int(totals.total),
            amount_due=due,
            amount_paid=due - left,
            amount_remaining=left,
            billing_reason=self.origin,
            attempt_count=sum(one.failed for one in tries),
            due_at=self._due_at(),
            finalized_at=self.billed_at,
            paid_at=max((one.captured_at for one in tries if one.captured_at), default=self.billed_at)
            if status == "paid"
            else None,
            voided_at=self.updated_at if status == "void" else None,
            period_start=period.starts_at,
            period_end=period.ends_at,
            hosted_url=self.checkout.url if self.checkout else None,
            lines=tuple(line.to_book(n, period) for n, line in enumerate(self.details.line_items, 1)),
        )

    def _due_at(self) -> datetime | None:
        terms = self.billing_details.payment_terms if self.billing_details else None
        return after(self.billed_at, terms) if self.billed_at and terms else None

    def _payment(self, tries: list[PaymentTry]) -> Payment:
        last, received = tries[-1], sum(one.captured for one in tries)
        paid = received > 0 and received >= self._due()
        status: PaymentStatus = "succeeded" if paid else "canceled" if self.status == "canceled" else last.outcome()
        return Payment(
            **self.shared(),
            customer=self.customer_id,
            invoice=self.id,
            status=status,
            currency=self._currency(),
            amount=self._due(),
            amount_received=received,
            failure_code=last.error_code if status == "requires_payment_method" else None,
        )

    def _charge(self, one: PaymentTry) -> Charge:
        status: Literal["pending", "failed", "succeeded"] = "failed" if one.failed else "pending"
        return Charge(
            external_id=one.payment_attempt_id,
            created=one.created_at,
            payment=self.id,
            customer=self.customer_id,
            invoice=self.id,
            status="succeeded" if one.status == "captured" else status,
            currency=self._currency(),
            amount=int(one.amount),
            amount_captured=one.captured,
            failure_code=one.error_code,
        )


def after(start: datetime, terms: Terms) -> datetime:
    """When a payment is due; a month after the 31st is the last day of a shorter month."""
    if terms.interval in ("day", "week"):
        return start + timedelta(days=terms.frequency * (7 if terms.interval == "week" else 1))
    months = start.year * 12 + start.month - 1 + terms.frequency * (12 if terms.interval == "year" else 1)
    year, month = months // 12, months % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, calendar.monthrange(year, month)[1]))


_REFUND_STATUS: Final = {
    "pending_approval": "pending",
    "approved": "succeeded",
    "rejected": "failed",
    "reversed": "canceled",
}


class AdjustmentTotals(msgspec.Struct):
    subtotal: Digits
    tax: Digits
    total: Digits


class Adjustment(PaddleObject, kw_only=True):
    action: str
    transaction_id: Ref
    customer_id: Ref | None = None
    status: Literal["pending_approval", "approved", "rejected", "reversed"]
    currency_code: CurrencyCode
    reason: str | None = None
    totals: AdjustmentTotals

    def to_book(self) -> tuple[BookObject, ...]:
        noted = (self._credit_note(),) if self.status in ("approved", "reversed") else ()
        if self.action == "refund":
            return (self._refund(), *noted)
        if self.action == "credit":
            return noted
        if self.action in ("chargeback", "chargeback_warning"):
            return (self._dispute(),)
        return ()

    def confirmed(self, facts: tuple[str, ...]) -> tuple[str, ...]:
        """An update says that a decision was made: which one is in the status."""
        noted = "credit_note.updated" if self.action == "credit" else "credit_note.created"
        decisions = {
            "pending_approval": ("refund.updated",),
            "approved": ("refund.updated", noted, "dispute.updated"),
            "rejected": ("refund.failed",),
            "reversed": ("refund.updated", "credit_note.voided", "dispute.closed"),
        }
        return facts or decisions[self.status]

    def _currency(self) -> str:
        return self.currency_code.lower()

    def _refund(self) -> Refund:
        return Refund(
            **self.shared(),
            payment=self.transaction_id,
            currency=self._currency(),
            amount=int(self.totals.total),
            status=_REFUND_STATUS[self.status],
            reason=self.reason,
        )

    def _credit_note(self) -> CreditNote:
        return CreditNote(
            **self.shared(),
            invoice=self.transaction_id,
            customer=self.customer_id,
            refund=self.id if self.action == "refund" else None,
            status="void" if self.status == "reversed" else "issued",
            currency=self._currency(),
            subtotal=int(self.totals.subtotal),
            tax=int(self.totals.tax),
            total=int(self.totals.total),
            reason=self.reason,
            voided_at=self.updated_at if self.status == "reversed" else None,
        )

    def _dispute(self) -> Dispute:
        warned, over = self.action == "chargeback_warning", self.status == "reversed"
        # Paddle takes the money back at once, and answers the bank itself: there is nothing for a merchant to answer.
        status = ("warning_closed" if over else "warning_under_review") if warned else ("won" if over else "lost")
        return Dispute(
            **self.shared(),
            payment=self.transaction_id,
            currency=self._currency(),
            amount=int(self.totals.total),
            status=status,
            reason=self.reason,
        )
