"""Invoices: their state, their documents, and the page."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field

from billhook.outlets.objects import ObjectDiffers, ObjectMissing
from billhook.outlets.page import invoice_html
from billhook.rules.book import InvoiceStatus
from billhook.rules.invoice import DocumentKind, InvoiceSnapshot
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import list_documents
from billhook.store.merchants import Caller
from services.desk.entries import EntryShown, entry_fields
from services.desk.refusals import Refusal, not_found
from services.desk.terms import CallerIn, EnvIn, Id, OldestFirst, Optional, Page, Text, page_of, row_id

router = APIRouter(prefix="/v1/invoices", tags=["invoices"])

# The page has its styles inside itself and nothing else: no script, no image, no form, and no frame around it.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class InvoiceQuery(OldestFirst):
    customer: Text | Optional = Field(None, description="The provider's id of the customer.")
    subscription: Text | Optional = Field(None, description="The provider's id of the subscription.")
    status: InvoiceStatus | Optional = None


class DocumentShown(BaseModel):
    id: str
    kind: str
    state: str = Field(description="due (being made), ready or dead.")
    path: str | None = Field(description="Where the file is, once it is ready.")
    sha256: str | None
    size: int | None
    created_at: datetime
    finished_at: datetime | None
    last_error: str | None


class InvoiceShown(EntryShown):
    """An invoice with its lines and its documents."""

    documents: list[DocumentShown]


def _document(row: Any) -> DocumentShown:
    ready = row["state"] == "ready"
    return DocumentShown(
        id=row["id"],
        kind=row["kind"],
        state=row["state"],
        path=f"/v1/invoices/{row['invoice_id']}/documents/{row['kind']}.pdf" if ready else None,
        sha256=row["sha256"],
        size=row["size"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        last_error=row["last_error"],
    )


def _find(tx: Tx, invoice_id: str, caller: Caller) -> Any:
    row = book.get(tx, "invoice", invoice_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found("invoice")
    return row


def _find_document(tx: Tx, invoice: Any, kind: str) -> Any:
    for document in list_documents(tx, invoice["id"], merchant_id=invoice["merchant_id"]):
        if document["kind"] == kind:
            return document
    raise Refusal(404, "no_document", f"There is no {kind} of it: the invoice is {invoice['status']}.")


@router.get("")
def list_invoices(env: EnvIn, caller: CallerIn, query: Annotated[InvoiceQuery, Query()]) -> Page[EntryShown]:
    """In the order of their ids."""
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
        row = _find(tx, invoice_id, caller)
        documents = list_documents(tx, invoice_id, merchant_id=row["merchant_id"])
    return InvoiceShown(**entry_fields("invoice", row), documents=[_document(document) for document in documents])


@router.get(
    "/{invoice_id}/documents/{kind}.pdf",
    response_class=Response,
    responses={200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_document(env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind) -> Response:
    """The file. 404 says why it is not there (yet)."""
    with env.database.read() as tx:
        invoice = _find(tx, invoice_id, caller)
        document = _find_document(tx, invoice, kind)
    if document["state"] == "dead":
        raise Refusal(404, "document_failed", f"The {kind} could not be made: {document['last_error']}")
    if document["state"] != "ready":
        so_far = f" The last try failed: {document['last_error']}" if document["last_error"] else ""
        raise Refusal(404, "document_not_ready", f"The {kind} is still to be made.{so_far}")
    try:
        content = env.objects.get(document["object_key"], document["sha256"])
    except (ObjectDiffers, ObjectMissing) as error:
        raise Refusal(500, "document_damaged", f"The {kind} was made, but its file is damaged or gone.") from error
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", invoice["number"] or invoice_id)[:100]
    return Response(
        content,
        media_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{kind}-{name}.pdf"'},
    )


@router.get("/{invoice_id}/page", response_class=HTMLResponse)
def get_page(env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind = "invoice") -> HTMLResponse:
    """The same page as in the PDF, also while the PDF is still to be made."""
    with env.database.read() as tx:
        document = _find_document(tx, _find(tx, invoice_id, caller), kind)
    snapshot = msgspec.json.decode(document["snapshot"], type=InvoiceSnapshot)
    return HTMLResponse(invoice_html(snapshot), headers={"Content-Security-Policy": _PAGE_POLICY})
