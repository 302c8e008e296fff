"""Endpoints: where merchants want their messages, how that goes, and stopping and starting it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.endpoints import enable_endpoint, endpoint_shown, ping
from billhook.actions.ringing import ring
from billhook.errors import Refused
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.deliveries import HELD_LIMIT, held_for, list_attempts, list_deliveries
from billhook.store.endpoints import Endpoint, get_endpoint, set_disabled
from billhook.store.endpoints import list_endpoints as stored
from billhook.store.merchants import merchants_of
from billhook.store.messages import types_of
from billhook.store.operator_actions import list_actions
from services.desk.console.fields import LATEST_TRIES
from services.desk.console.lists import PAGE, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

LATEST = 25


@router.get("/endpoints")
def list_endpoints(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = stored(tx, filters.id("merchant"), after=filters.id("before") or "", limit=PAGE + 1)
        merchants = merchants_of(tx, {endpoint.merchant_id for endpoint in found})
    shown = found[:PAGE]
    more = filters.behind(shown[-1].id if len(found) > PAGE else None)
    template = "endpoints_rows.html" if is_more(request) else "endpoints.html"
    return page(request, template, endpoints=shown, merchants=merchants, more=more, filters=filters)


@router.get("/endpoints/{endpoint_id}")
def show_endpoint(request: Request, env: EnvIn, session: SessionIn, endpoint_id: Id) -> Response:
    with env.database.read() as tx:
        endpoint = find_endpoint(tx, endpoint_id, None)
        shown = shown_of(env, tx, endpoint)
        merchants = merchants_of(tx, {endpoint.merchant_id})
        actions = list_actions(tx, subject=endpoint_id, limit=20)
    return page(
        request, "endpoint.html", **shown, merchant=merchants[endpoint.merchant_id], actions=actions, now=env.clock()
    )


def find_endpoint(tx: Tx, endpoint_id: str, merchant_id: str | None) -> Endpoint:
    endpoint = get_endpoint(tx, endpoint_id, merchant_id=merchant_id)
    if endpoint is None:
        raise not_found("endpoint")
    return endpoint


def shown_of(env: Env, tx: Tx, endpoint: Endpoint) -> dict[str, Any]:
    """What a page says of one, with its latest deliveries."""
    sent = list_deliveries(tx, merchant_id=endpoint.merchant_id, endpoint_id=endpoint.id, limit=LATEST)
    ids = [row["id"] for row in sent]
    attempts = list_attempts(tx, ids, merchant_id=endpoint.merchant_id, latest=LATEST_TRIES)
    return {
        "endpoint": endpoint_shown(env, endpoint, env.clock()),
        "held": held_for(tx, endpoint.id),
        "most": HELD_LIMIT,
        "deliveries": [(row, [one for one in attempts if one["delivery_id"] == row["id"]]) for row in sent],
        "types": types_of(tx, {row["message_id"] for row in sent}),
    }


@router.post("/endpoints/{endpoint_id}/disable")
def disable(acting: OperateIn, endpoint_id: Id) -> Response:
    env, reason = acting.env, acting.reason()
    with env.database.begin() as tx:
        endpoint = find_endpoint(tx, endpoint_id, None)
        set_disabled(tx, endpoint_id, env.clock(), f"disabled by {acting.by}: {reason}")
        acting.note(tx, "endpoint.disable", endpoint_id, endpoint.merchant_id, reason=reason)
    return acting.back(f"/endpoints/{endpoint_id}", "Nothing is sent to it any more; what comes meanwhile is held.")


@router.post("/endpoints/{endpoint_id}/enable")
def enable(acting: OperateIn, endpoint_id: Id) -> Response:
    env, replay_held = acting.env, bool(acting.form.one("replay_held"))
    with env.database.begin() as tx:
        endpoint = find_endpoint(tx, endpoint_id, None)
        job = enable_endpoint(tx, endpoint_id, replay_held=replay_held, by=acting.by, now=env.clock())
        acting.note(tx, "endpoint.enable", endpoint_id, endpoint.merchant_id, replay_held=replay_held)
    if job is not None:
        ring(env, {"replays": [job]})
    said = "It is sent to again, and what was held follows." if job else "It is sent to again."
    return acting.back(f"/endpoints/{endpoint_id}", said)


@router.post("/endpoints/{endpoint_id}/test")
def test(acting: OperateIn, endpoint_id: Id) -> Response:
    env = acting.env
    with env.database.begin() as tx:
        endpoint = find_endpoint(tx, endpoint_id, None)
        due = ping_one(tx, endpoint, env)
        acting.note(tx, "endpoint.test", endpoint_id, endpoint.merchant_id)
    ring(env, {"deliveries": due})
    return acting.back(f"/deliveries/{due[0]}", "A ping is on its way.")


def ping_one(tx: Tx, endpoint: Endpoint, env: Env) -> list[str]:
    if endpoint.disabled_at is not None:
        raise Refused("endpoint_disabled", "It is disabled, so nothing is sent to it. Enable it first.")
    return ping(tx, endpoint, env.clock())[1]
