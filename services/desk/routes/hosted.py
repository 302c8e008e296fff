"""Hosted pages: links that show one invoice to whoever holds them, and what they lead to.

The token is all there is to a link, so nothing here may give it away: pages send no referrer and are kept by nobody.
And no answer may differ between a token that was once good and one that never was.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from billhook.documents.hosted_page import Download, gone_html, hosted_html, shown_now
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import FONTS
from billhook.outlets.objects import document_name
from billhook.rules.book.invoice import Invoice
from billhook.store import book, links
from billhook.store.database import Tx
from billhook.store.documents import list_documents, read_snapshot
from billhook.store.own_credit_notes import list_own_credit_notes
from billhook.store.own_invoices import OWN
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Page
from services.desk.refusals import Refusal, not_found
from services.desk.routes.documents import file_answer, find_invoice, invoice_subject, logo_uri

router = APIRouter(prefix="/v1/invoices/{invoice_id}/links", tags=["hosted pages"])
public = APIRouter(prefix="/i", include_in_schema=False)

DAYS = 90
MOST_DAYS = 400
"""A year, and time to file the taxes for it."""

REDIRECT_SECONDS = 5 * 60
"""How long the storage's own address works: a browser follows it at once, and nobody needs it after that."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
}

_FONT_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}

_STATES: Final[dict[str, Literal["ready", "failed"]]] = {"ready": "ready", "dead": "failed"}


class NewLink(Body):
    expires_in_days: int = Field(DAYS, ge=1, le=MOST_DAYS)


class LinkShown(BaseModel):
    id: str
    invoice_id: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class LinkMade(LinkShown):
    url: str = Field(description="The page's address, for whoever is to see the invoice. It is never shown again.")


@router.post("", status_code=201)
def create_link(env: EnvIn, caller: CallerIn, invoice_id: Id, new: NewLink) -> LinkMade:
    """Make a link to a page that shows this invoice, as it stands whenever it is opened, without a key."""
    now = env.clock()
    expires_at = now + timedelta(days=new.expires_in_days)
    with env.database.begin() as tx:
        invoice = find_invoice(tx, invoice_id, caller)
        if not list_documents(tx, invoice_id, merchant_id=invoice["merchant_id"]):
            raise Refusal(409, "no_document", f"There is nothing to show yet: the invoice is {invoice['status']}.")
        link_id, token = links.create_link(tx, invoice["merchant_id"], invoice_id, expires_at, now)
    url = f"{env.settings.public}/i/{token}"
    return LinkMade(id=link_id, invoice_id=invoice_id, created_at=now, expires_at=expires_at, revoked_at=None, url=url)


@router.get("")
def list_links(env: EnvIn, caller: CallerIn, invoice_id: Id) -> Page[LinkShown]:
    """All there were, without their addresses."""
    with env.database.read() as tx:
        find_invoice(tx, invoice_id, caller)
        found = links.list_links(tx, invoice_id)
    return Page(data=[LinkShown.model_validate(link, from_attributes=True) for link in found], next=None)


@router.delete("/{link_id}", status_code=204)
def revoke_link(env: EnvIn, caller: CallerIn, invoice_id: Id, link_id: Id) -> None:
    """The link shows nothing from now on."""
    with env.database.begin() as tx:
        find_invoice(tx, invoice_id, caller)
        if link_id not in {link.id for link in links.list_links(tx, invoice_id)}:
            raise not_found("link")
        links.revoke_link(tx, link_id, env.clock())


@dataclass(frozen=True)
class _Opened:
    """What a good token leads to."""

    row: Any
    """The invoice, as the book has it now."""
    credited: int
    files: dict[str, Any]
    """Its documents by the names of their files; `document` is the one that the page shows."""


def _open(tx: Tx, token: str, now: datetime) -> _Opened | None:
    """None for every reason why there is nothing to show."""
    link = links.find_link(tx, token, now)
    row = book.get(tx, "invoice", link.invoice_id, merchant_id=link.merchant_id) if link else None
    if row is None or row["deleted"]:
        return None
    documents = list_documents(tx, row["id"], merchant_id=row["merchant_id"])
    files = {"document": _newest(documents, "invoice")}
    if row["status"] == "void" and (void := _newest(documents, "void")):
        files = {"document": void}
    elif row["status"] == "paid" and (receipt := _newest(documents, "receipt")):
        files["receipt"] = receipt
    if not files["document"]:
        return None
    return _Opened(row, _credited(tx, row), files | _credit_notes(tx, row))


def _newest(documents: Sequence[Any], kind: str) -> Any:
    found = [row for row in documents if row["kind"] == kind]
    return max(found, key=lambda row: (row["state"] == "ready", row["created_at"], row["id"]), default=None)


def _credit_notes(tx: Tx, row: Any) -> dict[str, Any]:
    """The documents of the invoice's own credit notes, the oldest first."""
    if row["source_id"] != OWN:
        return {}
    notes = list_own_credit_notes(tx, row["id"])
    documents = (_newest(list_documents(tx, note.id, merchant_id=row["merchant_id"]), "credit_note") for note in notes)
    return {f"credit-note-{place}": document for place, document in enumerate(documents, 1) if document is not None}


def _credited(tx: Tx, row: Any) -> int:
    wanted = {"merchant_id": row["merchant_id"], "invoice": row["external_id"], "status": "issued"}
    notes = book.list_objects(tx, "credit_note", limit=1000, **wanted)
    return sum(note["total"] for note in notes if note["source_id"] == row["source_id"])


@public.api_route("/fonts/{name}.woff2", methods=["GET", "HEAD"])
def get_font(name: Literal["IBMPlexSans-Regular", "IBMPlexSans-Bold"]) -> Response:
    return FileResponse(FONTS / f"{name}.woff2", headers=_FONT_HEADERS, media_type="font/woff2")


@public.api_route("/{token}", methods=["GET", "HEAD"])
def get_page(env: EnvIn, request: Request, token: str) -> Response:
    with env.database.read() as tx:
        opened = _open(tx, token, env.clock())
    if opened is None:
        return _gone(request)
    issued = read_snapshot(opened.files["document"]["snapshot"])
    invoice = book.value_of("invoice", opened.row)
    assert isinstance(invoice, Invoice)
    document = shown_now(issued, invoice, opened.credited)
    downloads = [
        Download(
            title=said.name if row["kind"] == "credit_note" else said.title,
            path=f"{token}/{name}.pdf",
            state=_STATES.get(row["state"], "making"),
        )
        for name, row in opened.files.items()
        for said in [shown(read_snapshot(row["snapshot"]))]
    ]
    nonce = secrets.token_urlsafe(16)
    logo = logo_uri(env, issued.seller.logo)
    return _answer(hosted_html(document, downloads, nonce=nonce, logo=logo), nonce)


@public.api_route("/{token}/{file}.pdf", methods=["GET", "HEAD"])
def get_file(env: EnvIn, request: Request, token: str, file: str) -> Response:
    with env.database.read() as tx:
        opened = _open(tx, token, env.clock())
    row = opened.files.get(file) if opened else None
    if opened is None or row is None or row["state"] != "ready":
        return _gone(request)
    subject = invoice_subject(opened.row)
    if row["kind"] == "credit_note":
        subject = replace(subject, name=read_snapshot(row["snapshot"]).number or subject.name)
    url = env.objects.presigned(row["object_key"], REDIRECT_SECONDS, document_name(row["kind"], subject.name))
    if url is not None:
        return RedirectResponse(url, 302, _HEADERS)
    answer = file_answer(env, subject, row)
    answer.headers.update(_HEADERS)
    return answer


def _gone(request: Request) -> Response:
    nonce = secrets.token_urlsafe(16)
    return _answer(gone_html(request.headers.get("accept-language", ""), nonce=nonce), nonce, 404)


def _answer(html: str, nonce: str, status: int = 200) -> Response:
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; font-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, status, {**_HEADERS, "Content-Security-Policy": policy})
