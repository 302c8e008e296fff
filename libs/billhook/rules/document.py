"""Documents: exactly what each one shows.

A document is made from a snapshot: a frozen value that holds all it shows and nothing else. What happens to the invoice
later does not touch it, and equal snapshots are one document wherever they are made. Mirrored invoices and billhook's
own ones end in the same value, so that pages, PDF engines and e-invoices know of only one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from billhook.rules.book.invoice import CustomField
from billhook.rules.book.objects import Amount
from billhook.rules.terms import Party, ShipTo, TaxCategory

Paper = Literal["a4", "us-letter"]
Profile = Literal["en16931", "xrechnung"]
"""By what rules an e-invoice is made: the European standard's, or Germany's for public bodies, which ask for more."""

DocumentKind = Literal["invoice", "receipt", "void", "credit_note"]
"""`void` is the invoice again, saying that it is void; it keeps its number."""

TEMPLATE: Final = "billhook-3"
"""The look that ships with billhook. It goes up with every change that may change how a document looks."""


class Logo(msgspec.Struct, frozen=True, kw_only=True):
    """A picture in the object store."""

    media_type: Literal["image/png", "image/jpeg"]
    key: str
    sha256: str
    width: int
    """In pixels, as `height`."""
    height: int


class Seller(Party, frozen=True, kw_only=True, omit_defaults=True):
    """The merchant, as documents show it."""

    website: str | None = None
    phone: str | None = None
    registration: str | None = None
    """Such as "HRB 12345, Amtsgericht Berlin": what the law wants on letters."""
    bank: tuple[str, ...] = ()
    """Lines on how to pay by transfer: IBAN, BIC…"""
    logo: Logo | None = None
    accent: Annotated[str, Meta(pattern="^#[0-9a-fA-F]{6}$")] | None = None
    """`#rrggbb`."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    description: str | None = None
    quantity: str | None = None
    """A decimal number, as text."""
    unit: str | None = None
    """UN/ECE recommendation 20."""
    unit_amount: str | None = None
    """In minor units, a decimal number as text."""
    amount: Amount
    """Quantity times unit price, before discounts; the tax is in it where prices include it."""
    discount: Amount = 0
    """The line's own discounts together."""
    allowance: Amount = 0
    """Its share of the discounts on the whole."""
    tax: Amount = 0
    """Its share of the tax."""
    tax_included: Amount | None = None
    """What of it `amount` contains; None is all or nothing, as `Snapshot.tax_inclusive` says."""
    tax_percent: str | None = None
    """None where only the provider knows."""
    tax_category: TaxCategory | None = None
    rate: int | None = None
    """Where its rate stands in `Snapshot.taxes`, from 0."""
    proration: bool = False
    period_start: datetime | None = None
    period_end: datetime | None = None

    @property
    def charged(self) -> int:
        """What is left of it after all discounts."""
        return self.amount - self.discount - self.allowance


class Allowance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A discount on the whole."""

    amount: Amount
    label: str | None = None
    percent: str | None = None


class TaxTotal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All tax of one rate."""

    name: str | None = None
    percent: str | None = None
    """None where only the provider knows."""
    category: TaxCategory | None = None
    taxable: Amount | None = None
    """What it is charged on, without the tax itself."""
    tax: Amount
    reason: str | None = None
    included: bool = False
    """The amounts before it contain it, though `Snapshot.tax_inclusive` does not say so of all taxes."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that one document shows. As JSON it is what is stored, for good.

    Always: `subtotal` is the sum of the lines' amounts; `discount` that of all discounts; `tax` that of `taxes`, and of
    the lines' shares; `total` is subtotal - discount - credits + shipping, plus the tax that is not included. Where a
    provider's total is another, `adjustment` is the difference, so that what is shown adds up to what is asked for.
    """

    kind: DocumentKind
    template: str = TEMPLATE
    """The look: billhook's, or the id of one of the merchant's."""
    locale: str = "en"
    """How dates and amounts are written, and (where billhook speaks it) the language: `en`, `de-AT`, `pt_BR`."""
    zone: str = "UTC"
    """In which its moments are days. Those that were made before documents had one say days of UTC, as they did."""
    paper: Paper | None = None
    """Where nothing is said: that of the locale's country."""
    profile: Profile = "en16931"
    """Of its e-invoice."""
    livemode: bool = True
    """False where its source is for tests: nobody may take it for a document of the books."""
    currency: str
    number: str | None = None
    status: Literal["open", "paid", "void", "uncollectible"] = "open"
    seller: Seller
    buyer: Party | None = None
    ship_to: ShipTo | None = None
    issued_at: datetime | None = None
    due_at: datetime | None = None
    paid_at: datetime | None = None
    payment_reference: str | None = None
    payment_method: str | None = None
    voided_at: datetime | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    buyer_reference: str | None = None
    custom_fields: tuple[CustomField, ...] = ()
    lines: tuple[Line, ...] = ()
    lines_complete: bool = True
    """False when the provider told only the first lines."""
    tax_inclusive: bool = False
    allowances: tuple[Allowance, ...] = ()
    taxes: tuple[TaxTotal, ...] = ()
    subtotal: Amount
    discount: Amount = 0
    credits: Amount = 0
    """Credits of the buyer's, taken off before tax."""
    shipping: Amount = 0
    tax: Amount = 0
    total: Amount
    amount_due: Amount = 0
    """What was to be paid when it was issued: the total, and what a balance with the seller added or took."""
    amount_paid: Amount = 0
    amount_remaining: Amount = 0
    credited: Amount = 0
    """By credit notes, before it was paid."""
    credited_after_payment: Amount = 0
    corrects: str | None = None
    """Of a credit note: the number of the invoice."""
    corrects_issued_at: datetime | None = None
    reason: str | None = None
    """Of a credit note, as in `CreditTerms`."""
    refund: str | None = None
    description: str | None = None
    footer: str | None = None
    pay_url: str | None = None

    @property
    def net(self) -> int:
        """The amount that tax on top is added to."""
        return self.subtotal - self.discount - self.credits + self.shipping

    @property
    def adjustment(self) -> int:
        """What the total has that no other figure explains."""
        return self.total - self.net - sum(tax.tax for tax in self.taxes if not self.includes(tax))

    @property
    def balance(self) -> int:
        """What the customer's balance with the seller added to the amount to pay, or took off it."""
        return self.amount_remaining + self.amount_paid - (self.total - self.credited)

    def includes(self, tax: TaxTotal) -> bool:
        return self.tax_inclusive or tax.included

    @property
    def dated(self) -> datetime | None:
        """The date inside the file: the document's own, so that drawing it again gives the same bytes."""
        at = {"receipt": self.paid_at, "void": self.voided_at}.get(self.kind)
        return at or self.issued_at
