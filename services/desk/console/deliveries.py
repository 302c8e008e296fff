"""Deliveries: every webhook, every attempt at it, and sending it again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.ringing import ring
from billhook.errors import Refused
from billhook.store import deliveries as store
from billhook.store import queues
from billhook.store.database import Tx
from billhook.store.dead_letters import open_letter
from billhook.store.endpoints import endpoints_of
from billhook.store.figures import Window, search
from billhook.store.messages import get_message, types_of
from billhook.store.operator_actions import list_actions
from services.desk.console.fields import body_shown
from services.desk.console.lists import PAGE, Filters, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

STATES: Final = ("due", "delivered", "held", "canceled", "expired", "dead")
MOST_ATTEMPTS: Final = 100


def find_deliveries(tx: Tx, filters: Filters, merchant_id: str | None) -> Window:
    """A page of them; an endpoint or a merchant is what an index goes by."""
    c = store.deliveries.c
    state, endpoint = filters.one_of("state", STATES), filters.id("endpoint")
    narrow = ((c.merchant_id, merchant_id), (c.endpoint_id, endpoint))
    only: list[sa.ColumnElement[bool]] = [column == wanted for column, wanted in narrow if wanted is not None]
    conditions = [] if state is None else [c.state == state]
    return search(tx, store.deliveries, list(c), conditions, before=filters.id("before"), limit=PAGE, only=only)


@router.get("/deliveries")
def list_deliveries(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        window = find_deliveries(tx, filters, filters.id("merchant"))
        endpoints = endpoints_of(tx, {row["endpoint_id"] for row in window.rows})
        types = types_of(tx, {row["message_id"] for row in window.rows})
    return page(
        request,
        "deliveries_rows.html" if is_more(request) else "deliveries.html",
        window=window,
        more=filters.behind(window.next),
        filters=filters,
        endpoints=endpoints,
        types=types,
        states=STATES,
        here="/deliveries",
    )


@router.get("/deliveries/{delivery_id}")
def show_delivery(request: Request, env: EnvIn, session: SessionIn, delivery_id: Id) -> Response:
    with env.database.read() as tx:
        shown = delivery_shown(tx, delivery_id, None)
        letter = open_letter(tx, "deliveries", delivery_id)
        actions = list_actions(tx, subject=delivery_id, limit=20)
    return page(request, "delivery.html", **shown, letter=letter, actions=actions, now=env.clock())


def find_delivery(tx: Tx, delivery_id: str, merchant_id: str | None) -> sa.RowMapping:
    row = store.get_delivery(tx, delivery_id, merchant_id=merchant_id)
    if row is None:
        raise not_found("delivery")
    return row


def delivery_shown(tx: Tx, delivery_id: str, merchant_id: str | None) -> dict[str, Any]:
    """What a page says of one: of this merchant's, or with None of anybody's."""
    row = find_delivery(tx, delivery_id, merchant_id)
    message = get_message(tx, row["message_id"], merchant_id=row["merchant_id"])
    assert message is not None
    attempts = store.list_attempts(tx, [delivery_id], merchant_id=row["merchant_id"], latest=MOST_ATTEMPTS)
    return {
        "delivery": row,
        "message": message,
        "body": body_shown(bytes(message["body"])),
        "endpoint": endpoints_of(tx, [row["endpoint_id"]])[row["endpoint_id"]],
        "attempts": [(one, body_shown(bytes(one["response"]))) for one in attempts],
        "left_out": attempts[0]["number"] - 1 if attempts else 0,
    }


@router.post("/deliveries/{delivery_id}/replay")
def replay(acting: OperateIn, delivery_id: Id) -> Response:
    env = acting.env
    with env.database.begin() as tx:
        row = find_delivery(tx, delivery_id, None)
        rings = send_again(tx, row, by=acting.by, now=env.clock())
        acting.note(tx, "delivery.replay", delivery_id, row["merchant_id"])
    ring(env, rings)
    return acting.back(f"/deliveries/{delivery_id}", "It is sent again.")


def send_again(tx: Tx, row: sa.RowMapping, *, by: str, now: datetime) -> dict[str, list[str]]:
    """Send a delivery once more, whatever became of it. Raises `Refused` where nothing is sent to its endpoint."""
    endpoint = endpoints_of(tx, [row["endpoint_id"]])[row["endpoint_id"]]
    if endpoint.deleted_at is not None:
        raise Refused("endpoint_deleted", "Its endpoint was deleted: nothing is sent to it.")
    if endpoint.disabled_at is not None:
        raise Refused("endpoint_disabled", "Its endpoint is disabled: enable it first.")
    return queues.replay(tx, "deliveries", [row["id"]], by=by, now=now)
