"""Documents: which ones an invoice calls for, and exactly what each one shows.

A document is made from a snapshot: a frozen value that holds all it shows and nothing else. What happens to the
invoice later does not touch it, and equal snapshots are one document wherever they are made.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from billhook.rules.book import Invoice
from billhook.rules.money import parse_locale

DocumentKind = Literal["invoice", "receipt"]

TEMPLATE_VERSION: Final = 1
"""Goes up with every change to the invoice template that may change the looks of a document."""


class InvoiceSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that one document shows. As JSON it is what is stored until the document is made."""

    kind: DocumentKind
    seller_name: str
    seller_country: str | None = None
    """ISO 3166-1 alpha-2."""
    locale: str = "en"
    """How dates and amounts are written, such as `en`, `de-AT` or `pt_BR`."""
    template: int = TEMPLATE_VERSION
    invoice: Invoice


def documents_due(invoice: Invoice) -> tuple[DocumentKind, ...]:
    """The documents a state of an invoice calls for: an invoice once it is final, and a receipt once it is paid."""
    if invoice.deleted or invoice.status in ("draft", "void"):
        return ()
    return ("invoice", "receipt") if invoice.status == "paid" else ("invoice",)


def snapshot_of(invoice: Invoice, *, kind: DocumentKind, seller_name: str, locale: str = "en") -> InvoiceSnapshot:
    """What a document of this kind shows of this invoice.

    An `invoice` document says what was to be paid when it was issued: it is the same whether the event that asked for
    it said open, paid or written off, so events may come in any order. A `receipt` says what was paid, and when.
    The seller's name on the invoice goes before `seller_name`, the merchant's. Raises ValueError for an unknown locale.
    """
    parse_locale(locale)
    shown = msgspec.structs.replace(invoice, metadata={}, attempt_count=0, next_payment_attempt=None, voided_at=None)
    if kind == "invoice":
        shown = msgspec.structs.replace(
            shown, status="open", amount_paid=0, amount_remaining=shown.amount_due, paid_at=None
        )
    return InvoiceSnapshot(
        kind=kind,
        seller_name=invoice.seller_name or seller_name,
        seller_country=invoice.seller_country,
        locale=locale,
        invoice=shown,
    )
