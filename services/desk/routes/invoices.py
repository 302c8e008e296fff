"""Invoices, mirrored and own ones: to find them and to read them. What is done with own ones is in `own_invoices`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import Field

from billhook.documents.page import document_html
from billhook.documents.view import shown
from billhook.rules.book.invoice import InvoiceStatus
from billhook.rules.document import DocumentKind
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import read_snapshot
from billhook.store.own_invoices import OWN, get_own_invoice
from services.desk.dependencies import CallerIn, EnvIn, Id, OldestFirst, Optional, Page, Text, page_of, row_id
from services.desk.routes.book import EntryShown, entry_fields
from services.desk.routes.documents import DocumentShown, documents_of, find_invoice, invoice_subject, logo_uri, newest

router = APIRouter(prefix="/v1/invoices", tags=["invoices"])

# The page has its styles and pictures inside itself and nothing else: no script, no form, and no frame around it.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


class InvoiceQuery(OldestFirst):
    customer: Text | Optional = Field(None, description="The provider's id of the customer.")
    subscription: Text | Optional = Field(None, description="The provider's id of the subscription.")
    status: InvoiceStatus | Optional = None


class InvoiceShown(EntryShown):
    """An invoice with its lines and its documents."""

    documents: list[DocumentShown]
    terms: dict[str, Any] | None = Field(
        description="What an own invoice was asked to charge. A draft is changed by sending them back."
    )
    amount_credited: int | None = Field(description="Of an own invoice: what credit notes took back.")


def whole_invoice(tx: Tx, invoice_id: str) -> InvoiceShown:
    """The caller has checked that it is the merchant's."""
    row = book.get(tx, "invoice", invoice_id)
    assert row is not None
    own = get_own_invoice(tx, invoice_id) if row["source_id"] == OWN else None
    return InvoiceShown(
        **entry_fields("invoice", row),
        documents=documents_of(tx, invoice_subject(row)),
        terms=None if own is None else msgspec.to_builtins(own.terms),
        amount_credited=None if own is None else own.amount_credited,
    )


@router.get("")
def list_invoices(env: EnvIn, caller: CallerIn, query: Annotated[InvoiceQuery, Query()]) -> Page[EntryShown]:
    """In the order of their ids, without their lines."""
    with env.database.read() as tx:
        found = book.list_objects(
            tx,
            "invoice",
            merchant_id=query.visible_to(caller),
            after=query.after,
            limit=query.limit + 1,
            customer=query.customer,
            subscription=query.subscription,
            status=query.status,
        )
    return page_of(found, query.limit, lambda row: EntryShown(**entry_fields("invoice", row)), row_id)


@router.get("/{invoice_id}")
def get_invoice(env: EnvIn, caller: CallerIn, invoice_id: Id) -> InvoiceShown:
    with env.database.read() as tx:
        find_invoice(tx, invoice_id, caller)
        return whole_invoice(tx, invoice_id)


@router.get("/{invoice_id}/page", response_class=HTMLResponse)
def get_page(env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind = "invoice") -> HTMLResponse:
    """What the PDF shows, as a page in billhook's look, also while the PDF is still to be made."""
    with env.database.read() as tx:
        document = newest(tx, invoice_subject(find_invoice(tx, invoice_id, caller)), kind)
    snapshot = read_snapshot(document["snapshot"])
    return HTMLResponse(
        document_html(shown(snapshot), logo=logo_uri(env, snapshot.seller.logo)),
        headers={"Content-Security-Policy": _PAGE_POLICY},
    )
