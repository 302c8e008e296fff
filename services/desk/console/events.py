"""Events: what came in, found by id, type, source, state and time; and the whole story of one."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from billhook.actions.ringing import ring
from billhook.decoding import decode
from billhook.runtime.env import Env
from billhook.store import inbox, queues
from billhook.store.database import Tx
from billhook.store.dead_letters import open_letter
from billhook.store.figures import search
from billhook.store.merchants import get_merchant
from billhook.store.operator_actions import list_actions
from billhook.store.schema import id_at
from billhook.store.sources import get_source, list_sources, sources_of
from services.desk.console.fields import body_shown
from services.desk.console.lists import PAGE, Filters, filters_of, is_more
from services.desk.console.rendering import HEADERS, page
from services.desk.console.session import EnvIn, OperateIn, SessionIn
from services.desk.console.story import story_of
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

STATES: Final = ("due", "processed", "ignored", "dead")

MOST_SOURCES: Final = 500


@router.get("/events")
def list_events(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        wanted = filters.text("id")
        if wanted is not None:
            found = _by_id(tx, wanted, filters.text("account") or "")
            if len(found) == 1:
                return RedirectResponse(f"/events/{found[0]}", 303)
            window = search(tx, inbox.inbox, inbox.SHOWN, [inbox.inbox.c.id.in_(found)], before=None, limit=PAGE)
        else:
            window = _search(tx, filters)
        names = sources_of(tx, {row["source_id"] for row in window.rows})
        sources = [] if is_more(request) else list_sources(tx, limit=MOST_SOURCES)
    template = "events_rows.html" if is_more(request) else "events.html"
    return page(
        request,
        template,
        window=window,
        more=filters.behind(window.next),
        filters=filters,
        names=names,
        sources=sources,
        states=STATES,
    )


def _by_id(tx: Tx, wanted: str, account: str) -> list[str]:
    """Ours, or the provider's."""
    if inbox.get_event(tx, wanted) is not None:
        return [wanted]
    sources = [source.id for source in list_sources(tx, limit=MOST_SOURCES)]
    return inbox.events_by_external_id(tx, wanted, sources, account)


def _search(tx: Tx, filters: Filters) -> Any:
    c = inbox.inbox.c
    equal = (
        (c.type, filters.text("type")),
        (c.source_id, filters.id("source")),
        (c.state, filters.one_of("state", STATES)),
    )
    conditions: list[sa.ColumnElement[bool]] = [column == wanted for column, wanted in equal if wanted is not None]
    merchant = filters.id("merchant")
    since, until, before = filters.time("since"), filters.time("until"), filters.id("before")
    return search(
        tx,
        inbox.inbox,
        inbox.SHOWN,
        conditions,
        before=before or (None if until is None else id_at("evt", until)),
        after=None if since is None else id_at("evt", since),
        limit=PAGE,
        only=[] if merchant is None else [c.merchant_id == merchant],
    )


@router.get("/events/{event_id}")
def show_event(request: Request, env: EnvIn, session: SessionIn, event_id: Id) -> Response:
    with env.database.read() as tx:
        event = _find(tx, event_id)
        source = get_source(tx, event["source_id"])
        assert source is not None, "a source is never deleted"
        story = story_of(tx, event, source)
        merchant = get_merchant(tx, event["merchant_id"])
        letter = open_letter(tx, "inbox", event_id)
        conflicts = inbox.list_conflicts(tx, event_id, limit=5)
        actions = list_actions(tx, subject=event_id, limit=20)
    return page(
        request,
        "event.html",
        event=event,
        source=source,
        merchant=merchant,
        headers=decode(bytes(event["headers"]), dict[str, str]),
        body=body_shown(bytes(event["body"])),
        story=story,
        letter=letter,
        conflicts=[(conflict, body_shown(bytes(conflict["body"]))) for conflict in conflicts],
        actions=actions,
        now=env.clock(),
    )


@router.get("/events/{event_id}/body")
def get_body(request: Request, env: EnvIn, session: SessionIn, event_id: Id) -> Response:
    """The signed bytes, all of them, to be kept and never to be looked at in a browser."""
    with env.database.read() as tx:
        event = _find(tx, event_id)
    disposition = {"Content-Disposition": f'attachment; filename="{event_id}.bin"'}
    policy = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return Response(
        bytes(event["body"]), media_type="application/octet-stream", headers={**HEADERS, **policy, **disposition}
    )


@router.post("/events/{event_id}/replay")
def replay(acting: OperateIn, event_id: Id) -> Response:
    """Process it again. What it did already is not done twice."""
    env: Env = acting.env
    with env.database.begin() as tx:
        event = _find(tx, event_id)
        rings = queues.replay(tx, "inbox", [event_id], by=acting.by, now=env.clock())
        acting.note(tx, "event.replay", event_id, event["merchant_id"])
    ring(env, rings)
    said = "It is processed again." if rings["inbox"] else "It was due already, and is done anyway."
    return acting.back(f"/events/{event_id}", said)


def _find(tx: Tx, event_id: str) -> Any:
    event = inbox.get_event(tx, event_id)
    if event is None:
        raise not_found("event")
    return event
