"""Rows of own invoices and credit notes, for tests of the tables alone."""

from __future__ import annotations

from typing import Any

from store.databases import NOW

from billhook.rules.book.invoice import CreditNote, Invoice
from billhook.rules.book.objects import book_id
from billhook.rules.terms import CreditTerms, LineTerms, Party, Terms
from billhook.store.own_credit_notes import OwnCreditNote
from billhook.store.own_invoices import OWN, OwnInvoice
from billhook.store.schema import new_id

TERMS = Terms(
    currency="eur",
    buyer=Party(name="Ada", email="ada@example.com"),
    lines=(LineTerms(description="Plan", unit_amount="1000"),),
    customer="cus_1",
)


def new_invoice(external_id: str) -> Invoice:
    """A draft, as the book knows invoices."""
    return Invoice(
        external_id=external_id,
        status="draft",
        currency="eur",
        subtotal=0,
        total=0,
        amount_due=0,
        amount_paid=0,
        amount_remaining=0,
    )


def own_invoice(merchant_id: str = "mrc_a", external_id: str | None = None, **fields: Any) -> OwnInvoice:
    external_id = external_id or new_id("own")
    defaults = {"state": "draft", "terms": TERMS, "customer": "cus_1", "currency": "eur", "total": 1000}
    return OwnInvoice(
        id=book_id(OWN, "", new_invoice(external_id)),
        merchant_id=merchant_id,
        external_id=external_id,
        **{**defaults, "created_at": NOW, "updated_at": NOW, **fields},
    )


def own_credit_note(invoice: OwnInvoice, *, number: str, series: str, sequence: int) -> OwnCreditNote:
    external_id = new_id("own")
    identity = CreditNote(
        external_id=external_id, invoice=invoice.external_id, status="issued", currency="eur", subtotal=0, total=0
    )
    return OwnCreditNote(
        id=book_id(OWN, "", identity),
        merchant_id=invoice.merchant_id,
        external_id=external_id,
        invoice_id=invoice.id,
        terms=CreditTerms(),
        request_sha256=None,
        credited=[(0, 1000)],
        currency="eur",
        total=1000,
        number=number,
        series=series,
        sequence=sequence,
        snapshot=b"{}",
        created_at=NOW,
    )
