"""All kinds of objects that the book holds."""

from __future__ import annotations

from typing import Final, get_args

from billhook.rules.book.catalog import Price, Product
from billhook.rules.book.checkout import CheckoutSession
from billhook.rules.book.customer import Customer
from billhook.rules.book.invoice import CreditNote, CreditNoteStatus, Invoice, InvoicePayment, InvoiceStatus
from billhook.rules.book.objects import BookObject
from billhook.rules.book.payment import Charge, ChargeStatus, Dispute, Payment, PaymentStatus, Refund
from billhook.rules.book.subscription import ScheduleStatus, Subscription, SubscriptionSchedule, SubscriptionStatus

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


STATUSES: Final[dict[str, tuple[str, ...]]] = {
    Subscription.kind: get_args(SubscriptionStatus),
    SubscriptionSchedule.kind: get_args(ScheduleStatus),
    Invoice.kind: get_args(InvoiceStatus),
    Payment.kind: get_args(PaymentStatus),
    Charge.kind: get_args(ChargeStatus),
    CreditNote.kind: get_args(CreditNoteStatus),
}
"""The statuses that billhook knows, where there is a vocabulary of its own."""
