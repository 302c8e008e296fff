"""Replays: many deliveries put back at once, or made for an endpoint that is new, as a job. What came in is replayed at
`/v1/events/replays`, and followed here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.actions.limits import check_room
from billhook.actions.ringing import ring
from billhook.rules.endpoint_settings import MOST_EVENT_TYPES
from billhook.store import replays
from billhook.store.database import Tx
from billhook.store.endpoints import get_endpoint
from billhook.store.merchants import Caller
from billhook.store.replays import Replay
from services.desk.dependencies import (
    Body,
    CallerIn,
    EnvIn,
    Id,
    NewestFirst,
    OwnerIn,
    Page,
    Time,
    known_merchant,
    page_of,
)
from services.desk.refusals import Refusal, not_found
from services.desk.routes.endpoints import EventType

router = APIRouter(prefix="/v1/replays", tags=["replays"])

State = Literal["delivered", "dead", "held"]


class NewReplay(Body):
    kind: Literal["replay", "backfill"] = Field(
        description="replay: deliveries once more. backfill: what an endpoint never had, being new or having asked for"
        " less."
    )
    endpoint_id: Id | None = Field(
        None, description="Only what goes to this one; a backfill needs it. Left out: to all that are not disabled."
    )
    event_types: list[EventType] | None = Field(
        None, min_length=1, max_length=MOST_EVENT_TYPES, description="Names, `invoice.*`, or `*`. Left out: all."
    )
    states: list[State] | None = Field(
        None, min_length=1, max_length=10, description="Of a replay's deliveries. Left out: dead and held."
    )
    since: Time | None = Field(None, description="What was created then or later. Left out: 30 days before.")
    until: Time | None = Field(None, description="And earlier than then. Left out: now.")


class ReplayShown(BaseModel):
    id: str
    merchant_id: str
    kind: str = Field(description="replay or backfill: what billhook sends. events: what it received.")
    state: str = Field(
        description="running, done, canceled (by somebody, or as its endpoint was disabled or deleted) or dead."
    )
    progress: float = Field(description="How much of its range of time it has seen, 0 to 1.")
    matched: int = Field(description="Deliveries or events that it has put back or made so far.")
    note: str | None = Field(description="What it waits for, or why it failed.")
    endpoint_id: str | None
    source_id: str | None = Field(description="Of a job of events: only those of this source.")
    event_types: list[str] | None
    states: list[str] | None
    since: datetime
    until: datetime
    created_by: str
    created_at: datetime
    finished_at: datetime | None


def show_replay(replay: Replay) -> ReplayShown:
    return ReplayShown(**replay.shown())


def _find(tx: Tx, replay_id: str, caller: Caller) -> Replay:
    replay = replays.get_replay(tx, replay_id, merchant_id=caller.merchant_id)
    if replay is None:
        raise not_found("replay")
    return replay


@router.post("", status_code=201)
def start_replay(env: EnvIn, caller: CallerIn, owner: OwnerIn, new: NewReplay) -> ReplayShown:
    """Send again what billhook sent, as a job. It runs beside what is sent for the first time, and never ahead of what
    receivers take."""
    with env.database.begin() as tx:
        merchant_id = known_merchant(tx, owner)
        endpoint = None
        if new.endpoint_id is not None:
            endpoint = get_endpoint(tx, new.endpoint_id, merchant_id=merchant_id)
            if endpoint is None:
                raise not_found("endpoint")
        check_room(env, tx, merchant_id, "replays", env.clock())
        asked = new.model_dump(exclude={"endpoint_id"})
        replay = replays.create_replay(tx, merchant_id, endpoint=endpoint, by=caller.key_id, now=env.clock(), **asked)
    ring(env, {replays.replays.name: [replay.id]})
    return show_replay(replay)


@router.get("")
def list_replays(env: EnvIn, caller: CallerIn, query: Annotated[NewestFirst, Query()]) -> Page[ReplayShown]:
    """The newest first; those of events among them."""
    with env.database.read() as tx:
        found = replays.list_replays(
            tx, merchant_id=query.visible_to(caller), before=query.before, limit=query.limit + 1
        )
    return page_of(found, query.limit, show_replay, lambda replay: replay.id)


@router.get("/{replay_id}")
def get_replay(env: EnvIn, caller: CallerIn, replay_id: Id) -> ReplayShown:
    with env.database.read() as tx:
        return show_replay(_find(tx, replay_id, caller))


@router.post("/{replay_id}/cancel")
def cancel_replay(env: EnvIn, caller: CallerIn, replay_id: Id) -> ReplayShown:
    """Put nothing more back. What was put back before, at most 500 deliveries or 2000 events, is still done."""
    with env.database.begin() as tx:
        _find(tx, replay_id, caller)
        canceled = replays.cancel(tx, replay_id, env.clock())
        replay = _find(tx, replay_id, caller)
        if not canceled:
            raise Refusal(409, "already_over", f"This replay is over: it is {replay.phase}.")
    return show_replay(replay)
