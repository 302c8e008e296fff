"""Mirrored invoices: which documents a provider's invoice calls for, and what they show of it."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Final, Literal

import msgspec

from billhook.rules.book.customer import Address
from billhook.rules.book.invoice import CustomField, Invoice, InvoiceLine
from billhook.rules.document import TEMPLATE, Allowance, DocumentKind, Line, Paper, Seller, Snapshot, TaxTotal
from billhook.rules.money import parse_locale
from billhook.rules.terms import Party, ShipTo

# What `Party` holds. Providers may say more, and a snapshot that cannot be read again would never become a document.
_LONGEST_LABEL: Final = 255
_LONGEST_EMAIL: Final = 320
_MOST_TAX_IDS: Final = 5
_MOST_CUSTOM_FIELDS: Final = 10
"""More than any provider has, and no more than the head of a page holds."""


def documents_due(invoice: Invoice) -> tuple[DocumentKind, ...]:
    """The documents a state of an invoice calls for: an invoice once it is final, a receipt once money came for it, and
    the invoice marked as void once it is. A status that is not known here calls for none.
    """
    if invoice.deleted or invoice.status == "draft":
        return ()
    if invoice.status == "void":
        return ("void",) if invoice.number else ()  # void from a draft on: nobody ever saw it
    if invoice.status == "paid":
        return ("invoice", "receipt") if invoice.amount_paid > 0 else ("invoice",)
    return ("invoice",) if invoice.status in ("open", "uncollectible") else ()


def snapshot_of(
    invoice: Invoice,
    *,
    kind: DocumentKind,
    seller: Seller,
    locale: str = "en",
    zone: str = "UTC",
    template: str | None = None,
    paper: Paper | None = None,
    livemode: bool = True,
) -> Snapshot:
    """What a document of this kind shows of this invoice.

    An `invoice` document says what was to be paid when it was issued: it is the same whether the event that asked for
    it said open, paid or written off, so events may come in any order. A `receipt` says what was paid, and when.
    The seller's name and tax ids on the invoice go before `seller`'s, the merchant's. Raises ValueError for an unknown
    locale.
    """
    parse_locale(locale)
    status: Literal["open", "paid", "void"] = "paid" if kind == "receipt" else "void" if kind == "void" else "open"
    remaining = {"paid": invoice.amount_remaining, "void": 0, "open": invoice.amount_due}[status]
    period_start, period_end = period_of(invoice)
    return Snapshot(
        kind=kind,
        template=template or TEMPLATE,
        locale=locale,
        zone=zone,
        paper=paper,
        livemode=livemode,
        currency=invoice.currency,
        number=invoice.number,
        status=status,
        seller=_seller(invoice, seller),
        buyer=_buyer(invoice),
        ship_to=ship_to(invoice.shipping_name, invoice.shipping_address),
        issued_at=invoice.finalized_at or invoice.created,
        due_at=invoice.due_at,
        paid_at=invoice.paid_at if status == "paid" else None,
        voided_at=invoice.voided_at if status == "void" else None,
        period_start=period_start,
        period_end=period_end,
        custom_fields=_custom_fields(invoice),
        lines=tuple(map(_line, invoice.lines)),
        lines_complete=invoice.lines_complete,
        tax_inclusive=bool(invoice.tax) and invoice.tax == _included(invoice),
        allowances=(Allowance(amount=invoice.discount),) if invoice.discount else (),
        taxes=_taxes(invoice),
        subtotal=sum(line.amount for line in invoice.lines) if _has_all_lines(invoice) else invoice.subtotal,
        discount=invoice.discount,
        credits=invoice.credits,
        shipping=invoice.shipping,
        tax=invoice.tax,
        total=invoice.total,
        amount_due=invoice.amount_due,
        amount_paid=invoice.amount_paid if status == "paid" else 0,
        amount_remaining=remaining,
        credited=invoice.credited_before_payment,
        description=invoice.description,
        footer=invoice.footer,
        pay_url=invoice.hosted_url if status == "open" else None,
    )


def period_of(invoice: Invoice) -> tuple[datetime | None, datetime | None]:
    """What an invoice is for: from the least start of its lines to their greatest end. Without lines that say so it is
    what the invoice itself says, and where not all lines are known, nothing."""
    if not invoice.lines_complete:
        return None, None
    starts = [line.period_start for line in invoice.lines if line.period_start]
    ends = [line.period_end for line in invoice.lines if line.period_end]
    if not starts and not ends:
        return invoice.period_start, invoice.period_end
    return min(starts, default=None), max(ends, default=None)


def _has_all_lines(invoice: Invoice) -> bool:
    return bool(invoice.lines) and invoice.lines_complete


def _taxes(invoice: Invoice) -> tuple[TaxTotal, ...]:
    """The tax on top and the tax included, both without a rate: providers do not send one."""
    included = _included(invoice)
    parts = (TaxTotal(tax=invoice.tax - included), TaxTotal(tax=included, included=True))
    return tuple(part for part in parts if part.tax)


def _included(invoice: Invoice) -> int:
    """What of the tax the other amounts contain. Where that is not said, the total says whether tax was put on top."""
    without = invoice.subtotal - invoice.discount - invoice.credits + invoice.shipping
    return invoice.tax_included or (invoice.tax if invoice.total == without else 0)


def _line(line: InvoiceLine) -> Line:
    return Line(
        description=line.description,
        quantity=line.quantity,
        unit_amount=line.unit_amount,
        amount=line.amount,
        # Providers give a line's share of all discounts, those on the whole among them, and the totals say them once.
        allowance=line.discount,
        tax=line.tax,
        tax_included=line.tax_included or (line.tax if line.tax_inclusive else 0),
        proration=line.proration,
        period_start=line.period_start,
        period_end=line.period_end,
    )


def _custom_fields(invoice: Invoice) -> tuple[CustomField, ...]:
    said = (field for field in invoice.custom_fields if field.name.strip() and field.value.strip())
    cut = (CustomField(name=field.name[:_LONGEST_LABEL], value=field.value[:_LONGEST_LABEL]) for field in said)
    return tuple(islice(cut, _MOST_CUSTOM_FIELDS))


def _seller(invoice: Invoice, seller: Seller) -> Seller:
    name = (invoice.seller_name or seller.name)[:_LONGEST_LABEL]
    address = seller.address or (Address(country=invoice.seller_country) if invoice.seller_country else None)
    tax_ids = _tax_ids(invoice.seller_tax_ids) or seller.tax_ids
    return msgspec.structs.replace(seller, name=name, address=address, tax_ids=tax_ids)


def _buyer(invoice: Invoice) -> Party | None:
    name = invoice.customer_name or invoice.customer_email or invoice.customer
    if name is None:
        return None
    email = invoice.customer_email or ""
    return Party(
        name=name[:_LONGEST_LABEL],
        email=email if 0 < len(email) <= _LONGEST_EMAIL else None,
        address=invoice.customer_address,
        tax_ids=_tax_ids(invoice.customer_tax_ids),
    )


def _tax_ids(said: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text[:_LONGEST_LABEL] for text in said if text)[:_MOST_TAX_IDS]


def ship_to(name: str | None, address: Address | None) -> ShipTo | None:
    """None where no place is said. Providers say of each part of an address that it is not there."""
    if address is None or not any(msgspec.structs.astuple(address)):
        return None
    return ShipTo(name=(name or "").strip()[:_LONGEST_LABEL] or None, address=address)
