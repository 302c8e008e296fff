"""Invoices, the credit notes over them, and which payment pays which of them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from billhook.rules.book.customer import Address
from billhook.rules.book.objects import DELETED, Amount, BookObject, Count, Ref, Time


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


class CustomField(msgspec.Struct, frozen=True, kw_only=True):
    """A line that the merchant puts on the document: an order's number, a project, a cost centre."""

    name: str
    value: str


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
    seller_tax_ids: tuple[str, ...] = ()
    """Where the provider says them, and not only its ids of them."""
    customer_name: str | None = None
    customer_email: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: tuple[str, ...] = ()
    shipping_name: str | None = None
    """To whom it is delivered, as to where."""
    shipping_address: Address | None = None
    hosted_url: str | None = None
    lines: tuple[InvoiceLine, ...] = ()
    lines_complete: bool = True
    """False when the provider's event carried only the first lines; the rest is fetched where a key is known."""
    custom_fields: tuple[CustomField, ...] = ()

    @property
    def rank(self) -> int:
        # A failed payment leaves the status `open`; the number of attempts tells which of two open states is the later.
        rank = _INVOICE_RANK.get(self.status, _INVOICE_RANK["open"])
        return DELETED if self.deleted else rank * 20 + min(self.attempt_count, 19)


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
