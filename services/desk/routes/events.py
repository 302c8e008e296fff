"""Events: what came in, as it came, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.actions.sources import ring
from billhook.decoding import decode
from billhook.store import inbox, queues
from services.desk.dependencies import (
    Bytes,
    CallerIn,
    EnvIn,
    Id,
    NewestFirst,
    Optional,
    Page,
    Text,
    bytes_shown,
    page_of,
    row_id,
)
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/events", tags=["events"])

State = Literal["due", "processed", "ignored", "dead"]


class EventQuery(NewestFirst):
    state: State | Optional = None
    type: Text | Optional = Field(None, description="The provider's name of it, e.g. `invoice.paid`.")


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


class EventWhole(EventShown):
    headers: dict[str, str] = Field(description="Those that the signature needs.")
    body: Bytes = Field(description="The signed bytes.")
    conflicts: list[Conflict] = Field(description="Other bytes that came under the same id.")


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
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _show, row_id)


@router.get("/{event_id}")
def get_event(env: EnvIn, caller: CallerIn, event_id: Id) -> EventWhole:
    with env.database.read() as tx:
        row = inbox.get_event(tx, event_id, merchant_id=caller.merchant_id)
        if row is None:
            raise not_found("event")
        conflicts = inbox.list_conflicts(tx, event_id, merchant_id=row["merchant_id"])
    return EventWhole(
        **_show(row).model_dump(),
        headers=decode(row["headers"], dict[str, str]),
        body=bytes_shown(bytes(row["body"])),
        conflicts=[_conflict(conflict) for conflict in conflicts],
    )


@router.post("/{event_id}/replay")
def replay(env: EnvIn, caller: CallerIn, event_id: Id) -> Replay:
    """Process an event again. What it did already is not done twice."""
    with env.database.begin() as tx:
        if inbox.get_event(tx, event_id, merchant_id=caller.merchant_id) is None:
            raise not_found("event")
        rings = queues.replay(tx, "inbox", [event_id], by=caller.key_id, now=env.clock())
    ring(env, rings)
    return Replay(id=event_id, replayed=bool(rings["inbox"]))
