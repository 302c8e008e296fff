"""Invoices: found by number or state, each with its documents in place and what was said of it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from billhook.documents.page import document_html
from billhook.documents.view import shown
from billhook.rules.book.invoice import Invoice
from billhook.runtime.env import Env
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import documents_by_id, list_documents, read_snapshot
from billhook.store.dunning_cases import case_of_invoice
from billhook.store.merchants import get_merchant, merchants_of
from billhook.store.messages import messages_about
from services.desk.console.fields import compared
from services.desk.console.lists import PAGE, Filters, filters_of, is_more
from services.desk.console.rendering import HEADERS, page
from services.desk.console.session import EnvIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import not_found
from services.desk.routes.documents import logo_uri

router = APIRouter()

STATUSES: Final = ("draft", "open", "paid", "void", "uncollectible")
MOST_NEWS: Final = 50


@router.get("/invoices")
def list_invoices(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = find_invoices(tx, filters, filters.id("merchant"))
        merchants = merchants_of(tx, {row["merchant_id"] for row in found.rows})
    template = "invoices_rows.html" if is_more(request) else "invoices.html"
    return page(
        request,
        template,
        invoices=found.rows,
        merchants=merchants,
        more=filters.behind(found.next),
        back_to=found.searched_back_to,
        filters=filters,
        statuses=STATUSES,
        here="/invoices",
    )


def find_invoices(tx: Tx, filters: Filters, merchant_id: str | None) -> book.Newest:
    """A page of them, the newest first."""
    return book.newest_invoices(
        tx,
        merchant_id=merchant_id,
        status=filters.one_of("status", STATUSES),
        number=filters.text("number"),
        before=filters.cursor(),
        limit=PAGE,
    )


@router.get("/invoices/{invoice_id}")
def show_invoice(request: Request, env: EnvIn, session: SessionIn, invoice_id: Id) -> Response:
    with env.database.read() as tx:
        values = invoice_shown(tx, invoice_id, None)
        merchant = get_merchant(tx, values["row"]["merchant_id"])
        case = case_of_invoice(tx, invoice_id)
        news = messages_about(tx, invoice_id, merchant_id=values["row"]["merchant_id"], limit=MOST_NEWS)
    return page(request, "invoice.html", **values, merchant=merchant, case=case, news=news)


def invoice_shown(tx: Tx, invoice_id: str, merchant_id: str | None) -> dict[str, Any]:
    """What a page says of one: of this merchant's, or with None of anybody's."""
    row = book.get(tx, "invoice", invoice_id, merchant_id=merchant_id)
    if row is None:
        raise not_found("invoice")
    invoice = book.value_of("invoice", row)
    assert isinstance(invoice, Invoice)
    return {
        "row": row,
        "invoice": invoice,
        "fields": compared(None, invoice),
        "documents": list_documents(tx, invoice_id, merchant_id=row["merchant_id"]),
    }


@router.get("/documents/{document_id}/page")
def get_sheet(env: EnvIn, session: SessionIn, document_id: Id) -> Response:
    """What the document says, as a page: also while its PDF is still to be made, and where no PDF can be shown."""
    with env.database.read() as tx:
        found = documents_by_id(tx, [document_id])
    if not found:
        raise not_found("document")
    return sheet_of(env, found[0], "'self'")


def sheet_of(env: Env, document: Any, frames: str) -> Response:
    snapshot = read_snapshot(document["snapshot"])
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
        f" sandbox; frame-ancestors {frames}"
    )
    html = document_html(shown(snapshot), logo=logo_uri(env, snapshot.seller.logo))
    return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": policy})
