"""Terms: what an invoice of billhook's own is asked to charge, before anything is added up (`rules.totals` does that).

Numbers that may have decimals (quantities, unit prices, percentages) are plain decimal text, as on the wire: no float
ever touches money. Amounts are integers in the currency's minor unit.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from billhook.rules.book.customer import Address
from billhook.rules.book.objects import Ref, Time

DECIMALS: Final = r"-?[0-9]{1,15}(\.[0-9]{1,12})?"
PERCENT: Final = r"[0-9]{1,3}(\.[0-9]{1,6})?"

Decimals = Annotated[str, Meta(pattern=f"^{DECIMALS}$")]
"""A plain decimal number: no exponent, no NaN."""
Percent = Annotated[str, Meta(pattern=f"^{PERCENT}$")]
Label = Annotated[str, Meta(min_length=1, max_length=255)]
Prose = Annotated[str, Meta(max_length=5000)]
MOST: Final = 10**15
MinorUnits = Annotated[int, Meta(ge=0, le=MOST)]
"""A thousand times what any invoice is for, and far below what a 64-bit column holds."""

Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]], Meta(max_length=50)
]
"""As much as Stripe keeps."""

TaxCategory = Literal["standard", "zero", "exempt", "reverse_charge", "intra_community", "export", "outside_scope"]
"""EN 16931's categories of VAT (UNTDID 5305): S, Z, E, AE, K, G and O."""

VAT: Final = "VAT"

MAX_LINES: Final = 10_000
MAX_TEXT: Final = 2_000_000
"""Bytes of what all lines say: ten seconds of drawing, of the thirty that a document may take. What is longer would be
issued, and never drawn."""
MAX_DISCOUNTS: Final = 20


class TaxRate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rate of tax. Equal values are one rate, and are added up together; "19" and "19.0" are equal."""

    name: Label = VAT
    """Documents say the default in their own language: USt., TVA."""
    percent: Percent = "0"
    category: TaxCategory = "standard"
    reason: Label | None = None
    """Why no tax is charged: an exemption has to be explained on the invoice. "Reverse charge" where that is why."""


class Discount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either a percentage or an amount."""

    percent: Percent | None = None
    amount: MinorUnits | None = None
    label: Label | None = None


class LineTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    description: Annotated[str, Meta(min_length=1, max_length=1000)]
    quantity: Decimals = "1"
    """Zero or more: what goes the other way, such as a credit within an invoice, has a unit price below zero."""
    unit_amount: Decimals
    """In minor units, and below one where the price is: "0.05" in eur is five hundredths of a cent."""
    unit: Annotated[str, Meta(pattern="^[A-Z0-9]{2,3}$")] = "C62"
    """UN/ECE recommendation 20: C62 is a piece, HUR an hour, MON a month."""
    discounts: Annotated[tuple[Discount, ...], Meta(max_length=MAX_DISCOUNTS)] = ()
    tax: TaxRate | None = None
    period_start: Time | None = None
    period_end: Time | None = None
    proration: bool = False


class Party(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who sells or who buys."""

    name: Label
    email: Annotated[str, Meta(max_length=320)] | None = None
    address: Address | None = None
    tax_ids: Annotated[tuple[Label, ...], Meta(max_length=5)] = ()
    """As they are written: "DE123456789"."""
    electronic_address: Annotated[str, Meta(pattern="^[0-9A-Z]{2,4}:[!-~]{1,200}$")] | None = None
    """Where e-invoices reach it, behind the scheme of the CEF's list (EAS): "0204:991-33333TEST-33". Its e-mail address
    where there is none."""


class ShipTo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where it is delivered to, where that is not the buyer's address."""

    name: Label | None = None
    """The buyer's, where nothing is said."""
    address: Address


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that an own invoice is made of."""

    currency: Annotated[str, Meta(pattern="^[a-z]{3}$")]
    buyer: Party
    ship_to: ShipTo | None = None
    lines: Annotated[tuple[LineTerms, ...], Meta(max_length=MAX_LINES)]
    discounts: Annotated[tuple[Discount, ...], Meta(max_length=MAX_DISCOUNTS)] = ()
    """On the whole: they come off after the lines' own discounts, and are spread over the lines before tax."""
    tax_inclusive: bool = False
    """Unit prices contain the tax."""
    tax_contained: MinorUnits = 0
    """The tax in prices that contain it, where its amount is known and its rates are not. Not beside rates."""
    customer: Ref | None = None
    """Whom it is for, in the merchant's words; invoices of one customer are found by it, and may be numbered by it."""
    subscription: Ref | None = None
    locale: Annotated[str, Meta(max_length=35)] | None = None
    """Of the documents; the merchant's, where nothing is said."""
    due_days: Annotated[int, Meta(ge=0, le=3650)] = 14
    """Days from the finalization to the day it is due."""
    period_start: Time | None = None
    period_end: Time | None = None
    buyer_reference: Label | None = None
    """What the buyer wants to find it by. Of a German public body: the Leitweg-ID."""
    description: Prose | None = None
    footer: Prose | None = None
    pay_url: Annotated[str, Meta(max_length=2000)] | None = None
    """Where it can be paid: shown as a link and as a QR code while something is open."""
    metadata: Metadata = {}


class CreditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Takes back a part of one line, or all that is left of it."""

    line: Annotated[int, Meta(ge=0, lt=MAX_LINES)]
    """Its place on the invoice, from 0."""
    amount: MinorUnits | None = None
    """What the customer gets back for it, tax and all; None is all that is left."""


class CreditTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a credit note takes back: these lines, or without any, all that is left of the invoice."""

    lines: Annotated[tuple[CreditLine, ...], Meta(max_length=MAX_LINES)] = ()
    reason: Literal["duplicate", "fraudulent", "order_change", "product_unsatisfactory", "other"] = "other"
    memo: Prose | None = None
    refund: Label | None = None
    """A reference to the refund of the money, where there was one."""
