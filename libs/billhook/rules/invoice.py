"""Mirrored invoices: which documents a provider's invoice calls for, and what they show of it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from billhook.rules.book import Address, Invoice, InvoiceLine
from billhook.rules.document import TEMPLATE, Allowance, DocumentKind, Line, Seller, Snapshot, TaxTotal
from billhook.rules.money import parse_locale
from billhook.rules.terms import Party

# What `Party` holds. Providers may say more, and a snapshot that cannot be read again would never become a document.
_LONGEST_LABEL: Final = 255
_LONGEST_EMAIL: Final = 320
_MOST_TAX_IDS: Final = 5


def documents_due(invoice: Invoice) -> tuple[DocumentKind, ...]:
    """The documents a state of an invoice calls for: an invoice once it is final, a receipt once it is paid, and the
    invoice marked as void once it is."""
    if invoice.deleted or invoice.status == "draft":
        return ()
    if invoice.status == "void":
        return ("void",) if invoice.number else ()  # void from a draft on: nobody ever saw it
    return ("invoice", "receipt") if invoice.status == "paid" else ("invoice",)


def snapshot_of(
    invoice: Invoice, *, kind: DocumentKind, seller: Seller, locale: str = "en", template: str | None = None
) -> Snapshot:
    """What a document of this kind shows of this invoice.

    An `invoice` document says what was to be paid when it was issued: it is the same whether the event that asked for
    it said open, paid or written off, so events may come in any order. A `receipt` says what was paid, and when.
    The seller's name on the invoice goes before `seller`'s, the merchant's. Raises ValueError for an unknown locale.
    """
    parse_locale(locale)
    status: Literal["open", "paid", "void"] = "paid" if kind == "receipt" else "void" if kind == "void" else "open"
    remaining = {"paid": invoice.amount_remaining, "void": 0, "open": invoice.amount_due}[status]
    return Snapshot(
        kind=kind,
        template=template or TEMPLATE,
        locale=locale,
        currency=invoice.currency,
        number=invoice.number,
        status=status,
        seller=_seller(invoice, seller),
        buyer=_buyer(invoice),
        issued_at=invoice.finalized_at or invoice.created,
        due_at=invoice.due_at,
        paid_at=invoice.paid_at if status == "paid" else None,
        voided_at=invoice.voided_at if status == "void" else None,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        lines=tuple(map(_line, invoice.lines)),
        lines_complete=invoice.lines_complete,
        # The total says whether tax was put on top: providers say it line by line, and not for every line.
        tax_inclusive=bool(invoice.tax) and invoice.total == invoice.subtotal - invoice.discount,
        allowances=(Allowance(amount=invoice.discount),) if invoice.discount else (),
        taxes=(TaxTotal(tax=invoice.tax),) if invoice.tax else (),
        subtotal=invoice.subtotal,
        discount=invoice.discount,
        tax=invoice.tax,
        total=invoice.total,
        amount_due=invoice.amount_due,
        amount_paid=invoice.amount_paid if status == "paid" else 0,
        amount_remaining=remaining,
        description=invoice.description,
        footer=invoice.footer,
        pay_url=invoice.hosted_url if status == "open" else None,
    )


def _line(line: InvoiceLine) -> Line:
    return Line(
        description=line.description,
        quantity=line.quantity,
        unit_amount=line.unit_amount,
        amount=line.amount,
        # Providers give a line's share of all discounts, those on the whole among them, and the totals say them once.
        allowance=line.discount,
        tax=line.tax,
        proration=line.proration,
        period_start=line.period_start,
        period_end=line.period_end,
    )


def _seller(invoice: Invoice, seller: Seller) -> Seller:
    name = (invoice.seller_name or seller.name)[:_LONGEST_LABEL]
    address = seller.address or (Address(country=invoice.seller_country) if invoice.seller_country else None)
    return msgspec.structs.replace(seller, name=name, address=address)


def _buyer(invoice: Invoice) -> Party | None:
    name = invoice.customer_name or invoice.customer_email or invoice.customer
    if name is None:
        return None
    email = invoice.customer_email or ""
    return Party(
        name=name[:_LONGEST_LABEL],
        email=email if 0 < len(email) <= _LONGEST_EMAIL else None,
        address=invoice.customer_address,
        tax_ids=tuple(text[:_LONGEST_LABEL] for text in invoice.customer_tax_ids if text)[:_MOST_TAX_IDS],
    )
