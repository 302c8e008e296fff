"""Documents of invoices and of credit notes: what there is, the files, and where to fetch them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.ringing import ring
from billhook.errors import TryAgain
from billhook.outlets.objects import ObjectDiffers, ObjectMissing, document_name
from billhook.rules.document import TEMPLATE, DocumentKind, Logo
from billhook.runtime.env import Env
from billhook.store import book, templates
from billhook.store.database import Tx
from billhook.store.documents import NewDocument, add_documents, list_documents, read_snapshot
from billhook.store.merchants import Caller
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Text
from services.desk.refusals import Refusal, not_found

router = APIRouter(prefix="/v1", tags=["documents"])

LINK_SECONDS = 15 * 60
"""How long a link to a file works: it needs no key, so it is for now, and not for an address book."""

PDF: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}
}

Template = Annotated[str, Field(pattern=r"^(billhook-[0-9]{1,4}|tpl_[0-9a-f]{32})$")]


class TemplateQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    template: Template | None = Field(None, description="Under this look. Left out: the newest that is ready.")


class NewTemplate(Body):
    template: Text = Field(description=f"`{TEMPLATE}`, billhook's own look, or the id of one of yours: `tpl_…`.")


class DocumentShown(BaseModel):
    id: str
    kind: str
    template: str = Field(description="The look it is drawn in.")
    status: Literal["pending", "rendering", "ready", "failed", "dead"] = Field(
        description="failed: it is tried again; dead: it was given up, and there is a dead letter."
    )
    engine: str | None = Field(description="What drew it.")
    warning: str | None = Field(description="What is not right with the file, such as letters that no font had.")
    path: str | None = Field(description="Where the file is, once it is ready.")
    sha256: str | None
    size: int | None
    created_at: datetime
    finished_at: datetime | None
    attempts: int
    last_error: str | None


class Link(BaseModel):
    url: str = Field(description="Where the file is; a path is one of the desk's, and needs a key as all do.")
    expires_at: datetime | None = Field(description="Until when it works without a key.")


@dataclass(frozen=True)
class Subject:
    """What documents are of."""

    id: str
    merchant_id: str
    path: str
    name: str
    """In the names of files."""
    state: str


def find_invoice(tx: Tx, invoice_id: str, caller: Caller) -> Any:
    row = book.get(tx, "invoice", invoice_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found("invoice")
    return row


def invoice_subject(row: Any) -> Subject:
    path = f"/v1/invoices/{row['id']}/documents"
    name = "" if row["livemode"] else "TEST-"
    name += row["number"] or row["id"]
    return Subject(row["id"], row["merchant_id"], path, name, f"the invoice is {row['status']}")


def documents_of(tx: Tx, subject: Subject) -> list[DocumentShown]:
    return [_shown(subject, row) for row in list_documents(tx, subject.id, merchant_id=subject.merchant_id)]


def _shown(subject: Subject, row: Any) -> DocumentShown:
    status = _status(row)
    path = f"{subject.path}/{row['kind']}.pdf?template={row['template']}"
    return DocumentShown(**row, status=status, path=path if status == "ready" else None)


def _status(row: Any) -> Literal["pending", "rendering", "ready", "failed", "dead"]:
    """The state of the work, as people see it."""
    match row["state"]:
        case "ready" | "dead":
            return row["state"]  # type: ignore[no-any-return]
    if row["token"] is not None:
        return "rendering"
    return "pending" if row["last_error"] is None else "failed"


def newest(tx: Tx, subject: Subject, kind: str, template: str | None = None) -> Any:
    """The newest document of a kind, a ready one before all others."""
    found = [
        row
        for row in list_documents(tx, subject.id, merchant_id=subject.merchant_id)
        if row["kind"] == kind and template in (None, row["template"])
    ]
    if not found:
        raise Refusal(404, "no_document", f"There is no such {_words(kind)} of it: {subject.state}.")
    return max(found, key=lambda row: (row["state"] == "ready", row["created_at"], row["id"]))


def ready(tx: Tx, subject: Subject, kind: str, template: str | None) -> Any:
    """The same, and there is a file of it; 404 says why there is none (yet)."""
    document = newest(tx, subject, kind, template)
    if document["state"] == "dead":
        raise Refusal(404, "document_failed", f"The {_words(kind)} could not be made: {document['last_error']}")
    if document["state"] != "ready":
        so_far = f" The last try failed: {document['last_error']}" if document["last_error"] else ""
        raise Refusal(404, "document_not_ready", f"The {_words(kind)} is still to be made.{so_far}")
    return document


def file_answer(env: Env, subject: Subject, document: Any) -> Response:
    try:
        content = env.objects.get(document["object_key"], document["sha256"])
    except (ObjectDiffers, ObjectMissing) as error:
        kind = _words(document["kind"])
        raise Refusal(500, "document_damaged", f"The {kind} was made, but its file is damaged or gone.") from error
    disposition = f'attachment; filename="{document_name(document["kind"], subject.name)}"'
    return Response(content, media_type="application/pdf", headers={"Content-Disposition": disposition})


def link_to(env: Env, subject: Subject, document: Any) -> Link:
    url = env.objects.presigned(document["object_key"], LINK_SECONDS, document_name(document["kind"], subject.name))
    if url is None:
        return Link(url=f"{subject.path}/{document['kind']}.pdf?template={document['template']}", expires_at=None)
    return Link(url=url, expires_at=env.clock() + timedelta(seconds=LINK_SECONDS))


def draw_again(env: Env, tx: Tx, subject: Subject, kind: str, template: str) -> tuple[DocumentShown, list[str]]:
    """The newest document's content in another look: a document beside it, for what was issued is never rewritten.
    Returns it with what to ring for, which is nothing if there is such a document already."""
    source = newest(tx, subject, kind)
    if template != TEMPLATE:
        found = templates.get_template(tx, template, merchant_id=subject.merchant_id)
        if found is None or found.retired_at is not None:
            raise Refusal(422, "template_unknown", f"`template` must be {TEMPLATE} or one of yours that is in use.")
    again = msgspec.structs.replace(read_snapshot(source["snapshot"]), template=template)
    wanted = NewDocument(
        subject.merchant_id, subject.id, kind, template, msgspec.json.encode(again), e_invoice=source["e_invoice"]
    )
    due = add_documents(tx, [wanted], env.clock())
    return _shown(subject, newest(tx, subject, kind, template)), due


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def logo_uri(env: Env, logo: Logo | None) -> str | None:
    """The picture itself, for a page. A page without its logo is better than no page."""
    if logo is None:
        return None
    try:
        content = env.objects.get(logo.key, logo.sha256)
    except (ObjectDiffers, ObjectMissing, TryAgain):
        return None
    return f"data:{logo.media_type};base64,{base64.b64encode(content).decode()}"


Of = Annotated[TemplateQuery, Query()]


@router.get("/invoices/{invoice_id}/documents/{kind}.pdf", response_class=Response, responses=PDF)
def get_document(env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind, query: Of) -> Response:
    """The file. 404 says why it is not there (yet)."""
    with env.database.read() as tx:
        subject = invoice_subject(find_invoice(tx, invoice_id, caller))
        document = ready(tx, subject, kind, query.template)
    return file_answer(env, subject, document)


@router.get("/invoices/{invoice_id}/documents/{kind}/link")
def get_link(env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind, query: Of) -> Link:
    """An address to fetch the file from, to be handed to a browser: the object store's own, where it can sign one."""
    with env.database.read() as tx:
        subject = invoice_subject(find_invoice(tx, invoice_id, caller))
        document = ready(tx, subject, kind, query.template)
    return link_to(env, subject, document)


@router.post(
    "/invoices/{invoice_id}/documents/{kind}",
    status_code=201,
    responses={200: {"model": DocumentShown, "description": "There is one in this look already."}},
)
def make_document(
    env: EnvIn, caller: CallerIn, invoice_id: Id, kind: DocumentKind, asked: NewTemplate, response: Response
) -> DocumentShown:
    """Draw it again in another look. What it says stays as it was issued, and the documents there are stay too."""
    with env.database.begin() as tx:
        subject = invoice_subject(find_invoice(tx, invoice_id, caller))
        document, due = draw_again(env, tx, subject, kind, asked.template)
    ring(env, {"documents": due})
    response.status_code = 201 if due else 200
    return document
