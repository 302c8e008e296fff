"""Own invoices: drafted, finalized, paid, voided, written off, deleted, sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, Field

from billhook.actions import invoices
from billhook.actions.ledger import Step
from billhook.actions.limits import check_room
from billhook.actions.ringing import ring
from billhook.providers import PROVIDERS
from billhook.rules.document import DocumentKind
from billhook.rules.terms import Terms
from billhook.rules.totals import Totals
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.merchants import Caller, get_merchant
from billhook.store.own_invoices import OWN
from billhook.store.sources import get_source
from services.desk import bodies
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, OwnerIn, Text, Time
from services.desk.headers import REPLAYED
from services.desk.lengthy import Lengthy
from services.desk.refusals import Refusal, not_found
from services.desk.routes.documents import find_invoice
from services.desk.routes.invoices import InvoiceShown, whole_invoice

router = APIRouter(prefix="/v1/invoices", tags=["invoices"])
long = APIRouter(prefix=router.prefix, tags=router.tags, route_class=Lengthy)

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Yours for this request. The same again under the same key is answered with what it made.",
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    ),
]


def made_before(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The entry in the OpenAPI document for the answer to a key that was used before."""
    header = {REPLAYED: {"schema": {"type": "string", "enum": ["true"]}}}
    return {200: {"model": model, "description": "It was made before, under this key.", "headers": header}}


def answer_replayed(response: Response, replayed: bool) -> None:
    if replayed:
        response.status_code = 200
        response.headers[REPLAYED] = "true"


class NewInvoice(Terms, frozen=True, kw_only=True, omit_defaults=True):
    """What to charge, and whether to issue it at once."""

    finalize: bool = False


class Paid(Body):
    paid_at: Time | None = Field(None, description="Left out: now.")
    reference: Text | None = Field(None, description="What your bank or payment provider calls the payment.")
    method: Text | None = Field(None, description="How it was paid, in the words that the receipt is to say.")


class Sending(Body):
    kind: DocumentKind | None = Field(
        default=None, description="Left out: the receipt once it is paid, the copy that says so once it is void."
    )
    to: list[Text] | None = Field(
        default=None,
        description="Addresses. Left out: the buyer's; others only with the operator's key, or where he allows it.",
        min_length=1,
        max_length=10,
    )


class Sent(BaseModel):
    document_id: str
    to: list[str]
    waiting: bool = Field(description="The file is still to be made; the mails follow it.")


def may_write_to_anyone(env: Env, caller: Caller) -> bool:
    return caller.merchant_id is None or env.settings.mail_to_anyone


def find_own(tx: Tx, invoice_id: str, caller: Caller) -> Any:
    """The invoice, if it is billhook's to change."""
    row = find_invoice(tx, invoice_id, caller)
    if row["source_id"] != OWN:
        raise _mirrored(tx, row["source_id"])
    return row


def _mirrored(tx: Tx, source_id: str) -> Refusal:
    source = get_source(tx, source_id)
    provider = None if source is None else PROVIDERS.get(source.provider)
    whose = (provider and provider.title) or ("another system" if source is None else source.name)
    return Refusal(
        409, "invoice_mirrored", f"This invoice is {whose}'s: change it there, and billhook will hear of it."
    )


def _do(env: Env, caller: Caller, invoice_id: str, verb: Callable[[Tx, datetime], Step]) -> InvoiceShown:
    """One verb in one transaction, and the invoice as it is then."""
    with env.database.begin() as tx:
        find_own(tx, invoice_id, caller)
        step = verb(tx, env.clock())
        invoice = whole_invoice(tx, invoice_id)
    ring(env, step.rings)
    return invoice


@long.post(
    "",
    status_code=201,
    responses=made_before(InvoiceShown),
    openapi_extra=bodies.asks(NewInvoice),
)
def create_invoice(
    env: EnvIn,
    owner: OwnerIn,
    new: Annotated[NewInvoice, Depends(bodies.read(NewInvoice))],
    response: Response,
    key: Key = None,
) -> InvoiceShown:
    """Make a draft; with `finalize` it is issued at once."""
    checked = invoices.check(new)
    with env.database.read() as tx:
        merchant = get_merchant(tx, owner)
    if merchant is None:
        raise not_found("merchant")
    prepared = invoices.prepare(merchant, checked.terms, env.clock(), checked.charged) if new.finalize else None
    with env.database.begin() as tx:
        check_room(env, tx, merchant.id, "drafts", env.clock())
        step = invoices.draft(tx, merchant, checked, key, now=env.clock())
        rings = [step.rings]
        if new.finalize and step.invoice.state == "draft":
            rings.append(invoices.finalize(tx, step.invoice.id, prepared=prepared, now=env.clock()).rings)
        invoice = whole_invoice(tx, step.invoice.id)
    for due in rings:
        ring(env, due)
    answer_replayed(response, step.replayed)
    return invoice


@long.post(
    "/preview",
    response_class=Response,
    responses={200: bodies.answers(Totals)},
    openapi_extra=bodies.asks(Terms),
)
def preview(terms: Annotated[Terms, Depends(bodies.read(Terms))]) -> Response:
    """What these terms come to. Nothing is stored; what could not be is refused, as in a draft."""
    return bodies.answer(invoices.check(terms).charged)


@long.put("/{invoice_id}", openapi_extra=bodies.asks(Terms))
def change_draft(
    env: EnvIn, caller: CallerIn, invoice_id: Id, terms: Annotated[Terms, Depends(bodies.read(Terms))]
) -> InvoiceShown:
    """Set other terms for a draft, all of them."""
    checked = invoices.check(terms)
    return _do(env, caller, invoice_id, lambda tx, now: invoices.change_draft(tx, invoice_id, checked, now=now))


@router.delete("/{invoice_id}", status_code=204)
def delete_draft(env: EnvIn, caller: CallerIn, invoice_id: Id) -> None:
    """Delete a draft. What has a number is voided instead."""
    with env.database.read() as tx:
        find_own(tx, invoice_id, caller)
    ready = invoices.prepared_draft(env.database, invoice_id, env.clock())
    _do(env, caller, invoice_id, lambda tx, now: invoices.delete_draft(tx, invoice_id, prepared=ready, now=now))


@router.post("/{invoice_id}/finalize")
def finalize(env: EnvIn, caller: CallerIn, invoice_id: Id) -> InvoiceShown:
    """Issue a draft: it gets its number, and from then on only its state changes."""
    with env.database.read() as tx:
        find_own(tx, invoice_id, caller)
    prepared = invoices.prepared_draft(env.database, invoice_id, env.clock())
    return _do(env, caller, invoice_id, lambda tx, now: invoices.finalize(tx, invoice_id, prepared=prepared, now=now))


@router.post("/{invoice_id}/pay")
def pay(env: EnvIn, caller: CallerIn, invoice_id: Id, asked: Paid | None = None) -> InvoiceShown:
    """Say that all that was open has been paid, outside of billhook. A receipt is made."""
    given = {} if asked is None else asked.model_dump()
    return _do(env, caller, invoice_id, lambda tx, now: invoices.pay(tx, invoice_id, **given, now=now))


@router.post("/{invoice_id}/void")
def void(env: EnvIn, caller: CallerIn, invoice_id: Id) -> InvoiceShown:
    """Declare an unpaid invoice void: it should not have been issued. It keeps its number, and a document says so."""
    return _do(env, caller, invoice_id, lambda tx, now: invoices.void(tx, invoice_id, now=now))


@router.post("/{invoice_id}/write-off")
def write_off(env: EnvIn, caller: CallerIn, invoice_id: Id) -> InvoiceShown:
    """Give up on the money: the invoice is uncollectible. It can still be paid, or be declared void."""
    return _do(env, caller, invoice_id, lambda tx, now: invoices.write_off(tx, invoice_id, now=now))


@router.post("/{invoice_id}/send", status_code=202)
def send(env: EnvIn, caller: CallerIn, invoice_id: Id, asked: Sending | None = None) -> Sent:
    """Mail a document of it, of a mirrored invoice too. Ask `/v1/mails` what became of the mails."""
    asked = asked or Sending()
    with env.database.read() as tx:
        find_invoice(tx, invoice_id, caller)
        known = invoices.heads(tx, invoice_id)
    with env.database.begin() as tx:
        find_invoice(tx, invoice_id, caller)
        sending = invoices.send(
            tx,
            invoice_id,
            asked.kind,
            asked.to,
            public=env.settings.public,
            anyone=may_write_to_anyone(env, caller),
            now=env.clock(),
            known=known,
        )
    ring(env, sending.rings)
    return Sent(document_id=sending.document_id, to=sending.to, waiting=sending.waiting)


router.routes.extend(long.routes)
