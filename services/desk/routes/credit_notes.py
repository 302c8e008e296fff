"""Credit notes, mirrored and own ones; own ones are made here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from billhook.actions import invoices
from billhook.actions.ringing import ring
from billhook.rules.terms import CreditTerms
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.merchants import Caller
from billhook.store.own_credit_notes import get_own_credit_note
from services.desk import bodies
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, OldestFirst, Page, Text, page_of, row_id
from services.desk.refusals import not_found
from services.desk.routes.book import EntryShown, entry_fields
from services.desk.routes.documents import (
    PDF,
    DocumentShown,
    Link,
    NewTemplate,
    Of,
    Subject,
    documents_of,
    draw_again,
    file_answer,
    find_invoice,
    link_to,
    ready,
)
from services.desk.routes.own_invoices import (
    Key,
    Sent,
    answer_replayed,
    find_own,
    made_before,
    may_write_to_anyone,
)

router = APIRouter(prefix="/v1", tags=["credit notes"])

KIND = "credit_note"


class CreditNoteShown(EntryShown):
    """A credit note with its documents."""

    documents: list[DocumentShown]
    invoice_id: str | None = Field(description="billhook's id of the invoice, of an own credit note.")


class Sending(Body):
    to: list[Text] | None = Field(
        default=None, description="Addresses. Left out: the buyer's.", min_length=1, max_length=10
    )


def _find(tx: Tx, note_id: str, caller: Caller) -> Any:
    row = book.get(tx, KIND, note_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found("credit note")
    return row


def _subject(row: Any) -> Subject:
    path = f"/v1/credit-notes/{row['id']}/documents"
    return Subject(row["id"], row["merchant_id"], path, row["number"] or row["id"], "its provider made it")


def _whole(tx: Tx, row: Any) -> CreditNoteShown:
    own = get_own_credit_note(tx, row["id"])
    return CreditNoteShown(
        **entry_fields(KIND, row),
        documents=documents_of(tx, _subject(row)),
        invoice_id=None if own is None else own.invoice_id,
    )


def _entry(row: Any) -> EntryShown:
    return EntryShown(**entry_fields(KIND, row))


@router.post(
    "/invoices/{invoice_id}/credit-notes",
    status_code=201,
    responses=made_before(CreditNoteShown),
    openapi_extra=bodies.asks(CreditTerms),
)
def create_credit_note(
    env: EnvIn,
    caller: CallerIn,
    invoice_id: Id,
    terms: Annotated[CreditTerms, Depends(bodies.read(CreditTerms))],
    response: Response,
    key: Key = None,
) -> CreditNoteShown:
    """Take back lines of an invoice, parts of them, or all that is left. Money that was paid goes back outside of
    billhook; `refund` may name how."""
    with env.database.read() as tx:
        find_own(tx, invoice_id, caller)
    prepared = invoices.prepared_credit(env.database, invoice_id, terms)
    with env.database.begin() as tx:
        find_own(tx, invoice_id, caller)
        step = invoices.credit(tx, invoice_id, terms, key, now=env.clock(), prepared=prepared)
        assert step.credit_note is not None
        note = _whole(tx, _find(tx, step.credit_note.id, caller))
    ring(env, step.rings)
    answer_replayed(response, step.replayed)
    return note


@router.get("/invoices/{invoice_id}/credit-notes")
def list_of_invoice(
    env: EnvIn, caller: CallerIn, invoice_id: Id, query: Annotated[OldestFirst, Query()]
) -> Page[EntryShown]:
    """Those of one invoice, in the order of their ids."""
    merchant_id = query.visible_to(caller)
    with env.database.read() as tx:
        invoice = find_invoice(tx, invoice_id, caller)
        found = book.list_objects(
            tx,
            KIND,
            merchant_id=merchant_id or invoice["merchant_id"],
            after=query.after,
            limit=query.limit + 1,
            source_id=invoice["source_id"],
            account=invoice["account"],
            invoice=invoice["external_id"],
        )
    return page_of(found, query.limit, _entry, row_id)


@router.get("/credit-notes")
def list_credit_notes(env: EnvIn, caller: CallerIn, query: Annotated[OldestFirst, Query()]) -> Page[EntryShown]:
    """In the order of their ids."""
    with env.database.read() as tx:
        found = book.list_objects(
            tx, KIND, merchant_id=query.visible_to(caller), after=query.after, limit=query.limit + 1
        )
    return page_of(found, query.limit, _entry, row_id)


@router.get("/credit-notes/{credit_note_id}")
def get_credit_note(env: EnvIn, caller: CallerIn, credit_note_id: Id) -> CreditNoteShown:
    with env.database.read() as tx:
        return _whole(tx, _find(tx, credit_note_id, caller))


@router.get("/credit-notes/{credit_note_id}/documents/credit_note.pdf", response_class=Response, responses=PDF)
def get_document(env: EnvIn, caller: CallerIn, credit_note_id: Id, query: Of) -> Response:
    """The file. 404 says why it is not there (yet)."""
    with env.database.read() as tx:
        subject = _subject(_find(tx, credit_note_id, caller))
        document = ready(tx, subject, KIND, query.template)
    return file_answer(env, subject, document)


@router.get("/credit-notes/{credit_note_id}/documents/credit_note/link")
def get_link(env: EnvIn, caller: CallerIn, credit_note_id: Id, query: Of) -> Link:
    """An address to fetch the file from, as of an invoice."""
    with env.database.read() as tx:
        subject = _subject(_find(tx, credit_note_id, caller))
        document = ready(tx, subject, KIND, query.template)
    return link_to(env, subject, document)


@router.post(
    "/credit-notes/{credit_note_id}/documents/credit_note",
    status_code=201,
    responses={200: {"model": DocumentShown, "description": "There is one in this look already."}},
)
def make_document(
    env: EnvIn, caller: CallerIn, credit_note_id: Id, asked: NewTemplate, response: Response
) -> DocumentShown:
    """Draw it again in another look, as an invoice."""
    with env.database.begin() as tx:
        document, due = draw_again(env, tx, _subject(_find(tx, credit_note_id, caller)), KIND, asked.template)
    ring(env, {"documents": due})
    response.status_code = 201 if due else 200
    return document


@router.post("/credit-notes/{credit_note_id}/send", status_code=202)
def send(env: EnvIn, caller: CallerIn, credit_note_id: Id, asked: Sending | None = None) -> Sent:
    """Mail it. Ask `/v1/mails` what became of the mails."""
    with env.database.read() as tx:
        _find(tx, credit_note_id, caller)
        known = invoices.heads(tx, credit_note_id)
    with env.database.begin() as tx:
        _find(tx, credit_note_id, caller)
        sending = invoices.send(
            tx,
            credit_note_id,
            KIND,
            None if asked is None else asked.to,
            public=env.settings.public,
            anyone=may_write_to_anyone(env, caller),
            now=env.clock(),
            known=known,
        )
    ring(env, sending.rings)
    return Sent(document_id=sending.document_id, to=sending.to, waiting=sending.waiting)
