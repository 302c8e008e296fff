"""Merchants, operators, and what operators did."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from billhook.store import book, inbox
from billhook.store.figures import open_letters
from billhook.store.merchant_views import add_merchant_view
from billhook.store.merchants import get_merchant
from billhook.store.merchants import list_merchants as stored
from billhook.store.operator_actions import list_actions
from billhook.store.operators import list_operators
from billhook.store.sources import list_sources
from services.desk.console.lists import PAGE, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

VIEW = timedelta(minutes=30)

PLACES = {
    "evt": "/events/",
    "dlv": "/deliveries/",
    "ep": "/endpoints/",
    "inv": "/invoices/",
    "dlq": "/dead-letters/",
    "fnd": "/findings/",
    "mrc": "/merchants/",
}
"""Where the console shows what an id names, by its prefix."""


@router.get("/find")
def find(request: Request, env: EnvIn, session: SessionIn) -> Response:
    """To the page of an id, ours or a provider's, or of an invoice's number."""
    wanted = filters_of(request).text("q") or ""
    place = PLACES.get(wanted.partition("_")[0])
    if place is not None and len(wanted.partition("_")[2]) == 32:
        return RedirectResponse(place + wanted, 303)
    with env.database.read() as tx:
        sources = [source.id for source in list_sources(tx, limit=500)]
        events = inbox.events_by_external_id(tx, wanted, sources)
        invoices = book.invoices_called(tx, wanted, [*sources, "own"], limit=20)
    if len(events) + len(invoices) == 1:
        return RedirectResponse(f"/events/{events[0]}" if events else f"/invoices/{invoices[0]['id']}", 303)
    return page(request, "found.html", wanted=wanted, events=events, invoices=invoices)


@router.get("/merchants")
def list_merchants(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = stored(tx, after=filters.id("before") or "", limit=PAGE + 1)
    shown = found[:PAGE]
    more = filters.behind(shown[-1].id if len(found) > PAGE else None)
    template = "merchants_rows.html" if is_more(request) else "merchants.html"
    return page(request, template, merchants=shown, more=more)


@router.get("/merchants/{merchant_id}")
def show_merchant(request: Request, env: EnvIn, session: SessionIn, merchant_id: Id) -> Response:
    with env.database.read() as tx:
        merchant = get_merchant(tx, merchant_id)
        if merchant is None:
            raise not_found("merchant")
        letters = open_letters(tx, merchant_id=merchant_id)
        sources = list_sources(tx, merchant_id, limit=100)
    return page(request, "merchant.html", merchant=merchant, letters=letters, sources=sources)


@router.post("/merchants/{merchant_id}/view")
def open_view(acting: OperateIn, merchant_id: Id) -> Response:
    """To the pages that the merchant sees, to look at and not to act in their name."""
    env = acting.env
    with env.database.begin() as tx:
        if get_merchant(tx, merchant_id) is None:
            raise not_found("merchant")
        now = env.clock()
        _, token = add_merchant_view(
            tx, merchant_id, may_change=False, embed_origins=(), expires_at=now + VIEW, by=acting.by, now=now
        )
        acting.note(tx, "merchant_view.open", merchant_id, merchant_id)
    return RedirectResponse(f"/m/{token}", 303)


@router.get("/audit")
def audit(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = list_actions(tx, subject=filters.text("subject"), before=filters.id("before"), limit=PAGE + 1)
        operators = list_operators(tx)
    shown = found[:PAGE]
    more = filters.behind(shown[-1]["id"] if len(found) > PAGE else None)
    template = "audit_rows.html" if is_more(request) else "audit.html"
    return page(request, template, actions=shown, more=more, filters=filters, operators=operators)
