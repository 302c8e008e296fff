"""Events: what came in, as it came, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.inbox_replay import begin_replay, preview_job, replay_events
from billhook.actions.limits import check_room
from billhook.actions.ringing import ring
from billhook.decoding import decode
from billhook.runtime.env import Env
from billhook.store import inbox
from billhook.store.database import Tx
from billhook.store.merchants import Caller
from billhook.store.replays import Replay as StoredReplay
from billhook.store.replays import event_replay
from billhook.store.sources import get_source
from services.desk.dependencies import (
    Body,
    Bytes,
    CallerIn,
    EnvIn,
    Id,
    NewestFirst,
    Optional,
    OwnerIn,
    Page,
    Text,
    Time,
    bytes_shown,
    first_that_fit,
    known_merchant,
    page_of,
    row_id,
)
from services.desk.refusals import not_found
from services.desk.routes.replays import ReplayShown, show_replay

router = APIRouter(prefix="/v1/events", tags=["events"])

State = Literal["due", "processed", "ignored", "dead"]
Over = Literal["processed", "ignored", "dead"]

MOST_CONFLICTS = 20
"""That are shown with an event: a sender may send other bytes under its id without an end."""

MOST_TRIED = 1000
"""Events that a request tries: a command has no such limit."""


class EventQuery(NewestFirst):
    state: State | Optional = None
    type: Text | Optional = Field(None, description="The provider's name of it, e.g. `invoice.paid`.")
    source_id: Id | Optional = None


class EventShown(BaseModel):
    id: str
    merchant_id: str
    source_id: str
    account: str
    external_id: str = Field(description="The provider's id of the event.")
    type: str
    sha256: str = Field(description="Of the body, in hex.")
    received_at: datetime
    state: str = Field(description="due, processed, ignored (kept, and of no meaning to billhook) or dead.")
    due_at: datetime
    attempts: int
    last_error: str | None
    finished_at: datetime | None


class Conflict(BaseModel):
    id: str
    sha256: str
    body: Bytes
    received_at: datetime


class ConflictQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="A page ends earlier where what is on it is large.")
    before: Id | Optional = Field(None, description="The `next` of the page before.")


class EventWhole(EventShown):
    headers: dict[str, str] = Field(description="Those that the signature needs.")
    body: Bytes = Field(description="The signed bytes.")
    conflicts: list[Conflict] = Field(description="Other bytes that came under the same id: the newest.")
    more_conflicts: bool = Field(description="There are others: `/v1/events/{id}/conflicts` has all.")


class NewEventReplay(Body):
    source_id: Id | None = Field(None, description="Only events of this source. Left out: of all.")
    event_types: list[Text] | None = Field(
        None, min_length=1, max_length=50, description="The provider's names, `invoice.*`, or `*`. Left out: all."
    )
    states: list[Over] | None = Field(None, min_length=1, max_length=10, description="Left out: all that are over.")
    since: Time | None = Field(None, description="What came then or later. Left out: 30 days before.")
    until: Time | None = Field(None, description="And earlier than then. Left out: now.")


class PreviewShown(BaseModel):
    events: int = Field(description="That would be processed again.")
    by_type: dict[str, int]
    changes_nothing: bool
    objects: int = Field(description="Of the book, that would change.")
    messages: int = Field(description="That merchants would hear, for the first time.")
    deliveries: int
    documents: int
    dunning_cases: int
    ignored: int = Field(description="Events that mean nothing to billhook.")
    to_ask: int = Field(description="Events that only their provider can settle: what they change is not known before.")
    failing: dict[str, str] = Field(description="Events that would fail again, and why: the first of them.")
    more: bool = Field(description=f"There are more events than the {MOST_TRIED} that were tried.")


class Replay(BaseModel):
    id: str
    replayed: bool = Field(description="False: it was due already, and will be done anyway.")


def _show(row: Any) -> EventShown:
    return EventShown(**{**row, "sha256": bytes(row["sha256"]).hex()})


def _conflict(row: Any) -> Conflict:
    return Conflict(
        id=row["id"],
        sha256=bytes(row["sha256"]).hex(),
        body=bytes_shown(bytes(row["body"])),
        received_at=row["received_at"],
    )


@router.get("")
def list_events(env: EnvIn, caller: CallerIn, query: Annotated[EventQuery, Query()]) -> Page[EventShown]:
    """The newest first, without their bodies."""
    with env.database.read() as tx:
        found = inbox.list_events(
            tx,
            merchant_id=query.visible_to(caller),
            state=query.state,
            event_type=query.type,
            source_id=query.source_id,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _show, row_id)


@router.get("/{event_id}")
def get_event(env: EnvIn, caller: CallerIn, event_id: Id) -> EventWhole:
    with env.database.read() as tx:
        row = _find_event(tx, caller, event_id)
        conflicts = inbox.list_conflicts(tx, event_id, merchant_id=row["merchant_id"], limit=MOST_CONFLICTS + 1)
    shown = first_that_fit(conflicts[:MOST_CONFLICTS], _conflict)
    return EventWhole(
        **_show(row).model_dump(),
        headers=decode(row["headers"], dict[str, str]),
        body=bytes_shown(bytes(row["body"])),
        conflicts=shown,
        more_conflicts=len(conflicts) > len(shown),
    )


@router.get("/{event_id}/conflicts")
def list_conflicts(
    env: EnvIn, caller: CallerIn, event_id: Id, query: Annotated[ConflictQuery, Query()]
) -> Page[Conflict]:
    """All other bytes that came under this event's id, the newest first."""
    with env.database.read() as tx:
        owner = _find_event(tx, caller, event_id)["merchant_id"]
        found = inbox.list_conflicts(tx, event_id, merchant_id=owner, before=query.before, limit=query.limit + 1)
    return page_of(found, query.limit, _conflict, row_id)


def _find_event(tx: Tx, caller: Caller, event_id: str) -> Any:
    row = inbox.get_event(tx, event_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found("event")
    return row


@router.post("/replays", status_code=201)
def start_replay(env: EnvIn, caller: CallerIn, owner: OwnerIn, new: NewEventReplay) -> ReplayShown:
    """Process again what billhook received, as a job beside what comes in. What was done already is not done twice.
    Follow and cancel it at `/v1/replays/{id}`."""
    with env.database.begin() as tx:
        job = _job(tx, env, caller, owner, new)
        check_room(env, tx, job.merchant_id, "replays", env.clock())
        rings = begin_replay(tx, job)
    ring(env, rings)
    return show_replay(job)


@router.post("/replays/preview")
def preview_replay(env: EnvIn, caller: CallerIn, owner: OwnerIn, new: NewEventReplay) -> PreviewShown:
    """Say what such a job would change: it is tried, and taken back. Providers are not asked."""
    with env.database.read() as tx:
        job = _job(tx, env, caller, owner, new)
    return PreviewShown(**preview_job(env.database, job, env.clock(), limit=MOST_TRIED).shown())


def _job(tx: Tx, env: Env, caller: Caller, owner: str, new: NewEventReplay) -> StoredReplay:
    merchant_id = known_merchant(tx, owner)
    if new.source_id is not None and get_source(tx, new.source_id, merchant_id=merchant_id) is None:
        raise not_found("source")
    return event_replay(merchant_id, by=caller.key_id, now=env.clock(), **new.model_dump())


@router.post("/{event_id}/replay")
def replay(env: EnvIn, caller: CallerIn, event_id: Id) -> Replay:
    """Process an event again. What it did already is not done twice."""
    with env.database.begin() as tx:
        if inbox.get_event(tx, event_id, merchant_id=caller.merchant_id) is None:
            raise not_found("event")
        rings = replay_events(tx, [event_id], by=caller.key_id, now=env.clock())
    ring(env, rings)
    return Replay(id=event_id, replayed=bool(rings["inbox"]))
