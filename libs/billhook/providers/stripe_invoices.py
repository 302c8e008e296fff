"""Stripe's invoices, invoice payments and credit notes, as far as billhook reads them, in both of their shapes.

| | before 2025-03-31.basil | since |
|---|---|---|
| invoice → subscription | `subscription` | `parent.subscription_details.subscription` |
| invoice's taxes | `total_tax_amounts`, `tax` | `total_taxes` |
| line → price | `price`, `plan` | `pricing.price_details` |
| line's taxes | `tax_amounts` | `taxes` |
| line's proration | `proration` | `parent.*_details.proration` |
| credit note → refund | `refund` | `refunds` |
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from billhook.providers.stripe_objects import (
    BoughtPrice,
    Currency,
    Epoch,
    Expandable,
    Expanded,
    Shipping,
    StripeObject,
    TaxId,
    at,
    id_of,
)
from billhook.rules.book.customer import Address
from billhook.rules.book.invoice import CreditNote as BookCreditNote
from billhook.rules.book.invoice import CustomField as BookCustomField
from billhook.rules.book.invoice import Invoice as BookInvoice
from billhook.rules.book.invoice import InvoiceLine as BookInvoiceLine
from billhook.rules.book.invoice import InvoicePayment as BookInvoicePayment
from billhook.rules.book.objects import Amount, BookObject, Count, Ref

Part = Annotated[int, Meta(ge=-(2**47), le=2**47)]
"""An amount that is summed up: as many of these as a body can hold still add up to less than 64 bits."""


class Tax(msgspec.Struct):
    amount: Part
    inclusive: bool = False
    tax_behavior: str | None = None

    @property
    def included(self) -> bool:
        return self.inclusive or self.tax_behavior == "inclusive"


class Discount(msgspec.Struct):
    amount: Part


class Period(msgspec.Struct):
    start: Epoch | None = None
    end: Epoch | None = None


class PriceDetails(msgspec.Struct):
    price: Expandable = None
    product: Expandable = None


class Pricing(msgspec.Struct):
    price_details: PriceDetails | None = None
    unit_amount_decimal: str | None = None


class LineOrigin(msgspec.Struct):
    proration: bool = False


class LineParent(msgspec.Struct):
    invoice_item_details: LineOrigin | None = None
    subscription_item_details: LineOrigin | None = None


class InvoiceLine(msgspec.Struct, kw_only=True):
    id: Ref
    description: str | None = None
    quantity: Count | None = None
    quantity_decimal: str | None = None
    amount: Part
    discount_amounts: list[Discount] | None = None
    taxes: list[Tax] | None = None
    tax_amounts: list[Tax] | None = None
    proration: bool = False
    period: Period | None = None
    parent: LineParent | None = None
    pricing: Pricing | None = None
    price: BoughtPrice | None = None
    plan: BoughtPrice | None = None

    def bought(self) -> tuple[str | None, str | None, str | None]:
        """Price, product and unit amount."""
        if self.pricing:
            details = self.pricing.price_details or PriceDetails()
            return id_of(details.price), id_of(details.product), self.pricing.unit_amount_decimal
        price = self.price or self.plan
        if price is None:
            return None, None, None
        amounts = (price.unit_amount_decimal, price.unit_amount, price.amount_decimal, price.amount)
        known = [str(amount) for amount in amounts if amount is not None]
        return price.id, id_of(price.product), known[0] if known else None

    def prorated(self) -> bool:
        parent = self.parent or LineParent()
        origin = parent.invoice_item_details or parent.subscription_item_details
        return origin.proration if origin else self.proration

    def to_book(self) -> BookInvoiceLine:
        price, product, unit_amount = self.bought()
        taxes = self.taxes or self.tax_amounts or []
        quantity = self.quantity_decimal or (None if self.quantity is None else str(self.quantity))
        return BookInvoiceLine(
            external_id=self.id,
            description=self.description,
            quantity=quantity,
            unit_amount=unit_amount,
            amount=self.amount,
            discount=sum(discount.amount for discount in self.discount_amounts or ()),
            tax=sum(tax.amount for tax in taxes),
            tax_inclusive=bool(taxes) and all(tax.included for tax in taxes),
            tax_included=sum(tax.amount for tax in taxes if tax.included),
            proration=self.prorated(),
            period_start=at(self.period.start) if self.period else None,
            period_end=at(self.period.end) if self.period else None,
            price=price,
            product=product,
        )


class InvoiceLines(msgspec.Struct):
    data: list[InvoiceLine] = []
    has_more: bool = False


class PretaxCredit(msgspec.Struct):
    amount: Part
    type: str | None = None
    """`discount`, which `total_discount_amounts` has too, or `credit_balance_transaction`."""


class ShippingCost(msgspec.Struct):
    amount_subtotal: Part = 0
    amount_total: Part = 0
    """With the tax on it."""


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """What an invoice comes to, in the words of `BookInvoice`."""

    subtotal: int
    discount: int
    credits: int
    shipping: int
    tax: int
    tax_included: int
    total: int


class CustomField(msgspec.Struct):
    name: str | None = None
    value: str | None = None


class Transitions(msgspec.Struct):
    finalized_at: Epoch | None = None
    paid_at: Epoch | None = None
    voided_at: Epoch | None = None


class SubscriptionDetails(msgspec.Struct):
    subscription: Expandable = None


class InvoiceParent(msgspec.Struct):
    subscription_details: SubscriptionDetails | None = None


class Invoice(StripeObject, kw_only=True):
    number: str | None = None
    customer: Expandable = None
    customer_account: Ref | None = None
    parent: InvoiceParent | None = None
    subscription: Expandable = None
    status: str
    """`deleted` is what older API versions call a draft that is no more."""
    currency: Currency
    total: Part
    total_taxes: list[Tax] | None = None
    total_tax_amounts: list[Tax] | None = None
    tax: Part | None = None
    total_discount_amounts: list[Discount] | None = None
    total_pretax_credit_amounts: list[PretaxCredit] | None = None
    shipping_cost: ShippingCost | None = None
    pre_payment_credit_notes_amount: Amount = 0
    post_payment_credit_notes_amount: Amount = 0
    paid_out_of_band: bool = False
    amount_due: Amount
    amount_paid: Amount
    amount_remaining: Amount
    billing_reason: str | None = None
    description: str | None = None
    footer: str | None = None
    attempt_count: Count = 0
    next_payment_attempt: Epoch | None = None
    due_date: Epoch | None = None
    status_transitions: Transitions | None = None
    account_name: str | None = None
    account_country: str | None = None
    customer_name: str | None = None
    customer_email: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: list[TaxId] | None = None
    account_tax_ids: list[Ref | TaxId] | None = None
    shipping_details: Shipping | None = None
    """Where this invoice ships to; `customer_shipping` where that is not said."""
    customer_shipping: Shipping | None = None
    hosted_invoice_url: str | None = None
    custom_fields: list[CustomField] | None = None
    lines: InvoiceLines

    def __post_init__(self) -> None:
        self.deleted = self.deleted or self.status == "deleted"

    def subscription_id(self) -> str | None:
        if self.parent and self.parent.subscription_details:
            return id_of(self.parent.subscription_details.subscription)
        return id_of(self.subscription)

    def taxed(self) -> list[Tax]:
        for taxes in (self.total_taxes, self.total_tax_amounts):
            if taxes is not None:
                return taxes
        return [Tax(self.tax)] if self.tax else []

    def sums(self) -> Sums:
        """Stripe's `subtotal` has the discounts on single lines in it already, `total_discount_amounts` holds all of
        them, and shipping is in neither: what is put side by side here is the lines before all discounts."""
        taxes = self.taxed()
        tax = sum(tax.amount for tax in taxes)
        included = sum(tax.amount for tax in taxes if tax.included)
        discount = sum(discount.amount for discount in self.total_discount_amounts or ())
        credits = sum(
            credit.amount
            for credit in self.total_pretax_credit_amounts or ()
            if credit.type == "credit_balance_transaction"
        )
        cost = self.shipping_cost or ShippingCost()
        shipping = cost.amount_subtotal
        subtotal = self.total - (tax - included) - shipping + discount + credits
        if self.lines.data and not self.lines.has_more:
            lines = sum(line.amount for line in self.lines.data)
            if lines == subtotal + shipping - cost.amount_total:
                shipping = cost.amount_total  # the taxes of the invoice are those of its lines only
            subtotal = lines
        return Sums(
            subtotal=subtotal,
            discount=discount,
            credits=credits,
            shipping=shipping,
            tax=tax,
            tax_included=included,
            total=self.total,
        )

    def period(self) -> tuple[datetime | None, datetime | None]:
        """What the lines are for. Stripe's own `period_start` and `period_end` are when items could be attached: of a
        renewal that is the month before."""
        periods = [line.period for line in self.lines.data if line.period]
        starts = [period.start for period in periods if period.start is not None]
        ends = [period.end for period in periods if period.end is not None]
        if self.lines.has_more:
            return None, None
        return at(min(starts, default=None)), at(max(ends, default=None))

    def received(self) -> int:
        """What came in. Before 2025-03-31.basil, nothing that came outside of Stripe was counted."""
        elsewhere = self.paid_out_of_band and self.status == "paid" and not self.amount_paid
        return self.amount_due if elsewhere else self.amount_paid

    def to_book(self) -> BookObject:
        transitions = self.status_transitions or Transitions()
        shipping = self.shipping_details or self.customer_shipping or Shipping()
        own_tax_ids = (known.value for known in self.account_tax_ids or () if isinstance(known, TaxId))
        period_start, period_end = self.period()
        return BookInvoice(
            **self.shared(),
            number=self.number,
            customer=id_of(self.customer) or self.customer_account,
            subscription=self.subscription_id(),
            status="draft" if self.status == "deleted" else self.status,
            currency=self.currency,
            **msgspec.structs.asdict(self.sums()),
            amount_due=self.amount_due,
            amount_paid=self.received(),
            amount_remaining=self.amount_remaining,
            credited_before_payment=self.pre_payment_credit_notes_amount,
            credited_after_payment=self.post_payment_credit_notes_amount,
            billing_reason=self.billing_reason,
            description=self.description,
            footer=self.footer,
            attempt_count=self.attempt_count,
            next_payment_attempt=at(self.next_payment_attempt),
            due_at=at(self.due_date),
            finalized_at=at(transitions.finalized_at),
            paid_at=at(transitions.paid_at),
            voided_at=at(transitions.voided_at),
            period_start=period_start,
            period_end=period_end,
            seller_name=self.account_name,
            seller_country=self.account_country,
            seller_tax_ids=tuple(filter(None, own_tax_ids)),
            customer_name=self.customer_name,
            customer_email=self.customer_email,
            customer_address=self.customer_address,
            customer_tax_ids=tuple(known.value for known in self.customer_tax_ids or () if known.value),
            shipping_name=shipping.name,
            shipping_address=shipping.address,
            hosted_url=self.hosted_invoice_url,
            lines=tuple(line.to_book() for line in self.lines.data),
            lines_complete=not self.lines.has_more,
            custom_fields=tuple(
                BookCustomField(name=field.name or "", value=field.value or "") for field in self.custom_fields or ()
            ),
        )


class PaidBy(msgspec.Struct):
    payment_intent: Expandable = None
    charge: Expandable = None
    payment_record: Expandable = None


class InvoicePayment(StripeObject, kw_only=True):
    invoice: Ref | Expanded
    payment: PaidBy | None = None
    currency: Currency
    amount_requested: Amount | None = None
    amount_paid: Amount | None = None
    status: str

    def to_book(self) -> BookObject:
        paid_by = self.payment or PaidBy()
        return BookInvoicePayment(
            **self.shared(),
            invoice=id_of(self.invoice),
            payment=id_of(paid_by.payment_intent),
            charge=id_of(paid_by.charge),
            payment_record=id_of(paid_by.payment_record),
            currency=self.currency,
            amount_requested=self.amount_requested,
            amount_paid=self.amount_paid,
            status=self.status,
        )


class CreditedRefund(msgspec.Struct):
    refund: Expandable = None


class CreditNote(StripeObject, kw_only=True):
    number: str | None = None
    invoice: Ref | Expanded
    customer: Expandable = None
    customer_account: Ref | None = None
    refund: Expandable = None
    refunds: list[CreditedRefund] | None = None
    status: str
    currency: Currency
    subtotal: Amount
    total: Amount
    total_taxes: list[Tax] | None = None
    tax_amounts: list[Tax] | None = None
    reason: str | None = None
    memo: str | None = None
    voided_at: Epoch | None = None

    def to_book(self) -> BookObject:
        refunds = [credited.refund for credited in self.refunds or ()] or [self.refund]
        return BookCreditNote(
            **self.shared(),
            number=self.number,
            invoice=id_of(self.invoice),
            customer=id_of(self.customer) or self.customer_account,
            refund=id_of(refunds[0]),
            status=self.status,
            currency=self.currency,
            subtotal=self.subtotal,
            tax=sum(tax.amount for tax in self.total_taxes or self.tax_amounts or ()),
            total=self.total,
            reason=self.reason,
            memo=self.memo,
            voided_at=at(self.voided_at),
        )
