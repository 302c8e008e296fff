"""Dead letters: work that failed for good, until somebody replays or discards it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints

from billhook.actions.dead_letters import discard_dead_letters, replay_dead_letters
from billhook.actions.ringing import ring
from billhook.errors import Refused
from billhook.store import dead_letters, queues
from billhook.store.database import Tx
from billhook.store.merchants import Caller
from billhook.store.queues import QUEUES
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, NewestFirst, Optional, Page, page_of, row_id
from services.desk.lengthy import Lengthy
from services.desk.refusals import Refusal, not_found

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])
long = APIRouter(prefix=router.prefix, tags=router.tags, route_class=Lengthy)

Queue = Annotated[str, StringConstraints(pattern=f"^({'|'.join(QUEUES)})$")]

BULK_LIMIT = 1000
"""Letters that one request replays: one short transaction."""


class LetterQuery(NewestFirst):
    queue: Queue | Optional = None


class DeadLetterShown(BaseModel):
    id: str
    merchant_id: str
    queue: str
    work_id: str = Field(description="The event, document or delivery that failed.")
    reason: str
    attempts: int
    created_at: datetime
    resolved_at: datetime | None
    resolution: str | None = Field(
        description="replayed, discarded, redelivered (the sender sent it again) or expired (its retention ended)."
    )
    resolved_by: str | None = Field(description="The key that did it.")


class Bulk(Body):
    queue: Queue
    merchant_id: Id | None = Field(None, description="With the operator's key: only this merchant's.")
    limit: int = Field(BULK_LIMIT, ge=1, le=BULK_LIMIT)


class RefusedReplay(BaseModel):
    endpoint_id: str
    letters: int = Field(description="Open ones that wait for it.")
    reason: str


class BulkDone(BaseModel):
    replayed: int
    refused: list[RefusedReplay] = Field(
        description="Deliveries whose endpoint is disabled or deleted: their letters stay open."
    )
    more: bool = Field(description="There are more: ask again.")


def _show(row: Any) -> DeadLetterShown:
    return DeadLetterShown(**row)


def _find(tx: Tx, dead_letter_id: str, caller: Caller) -> Any:
    letter = dead_letters.get_dead(tx, dead_letter_id, merchant_id=caller.merchant_id)
    if letter is None:
        raise not_found("dead letter")
    return letter


def _find_open(tx: Tx, dead_letter_id: str, caller: Caller) -> Any:
    letter = _find(tx, dead_letter_id, caller)
    if letter["resolved_at"] is not None:
        raise Refusal(409, "already_resolved", f"This letter was {letter['resolution']} by {letter['resolved_by']}.")
    return letter


@router.get("")
def list_dead_letters(env: EnvIn, caller: CallerIn, query: Annotated[LetterQuery, Query()]) -> Page[DeadLetterShown]:
    """The open dead letters, the newest first."""
    with env.database.read() as tx:
        found = dead_letters.list_dead(
            tx,
            merchant_id=query.visible_to(caller),
            queue=query.queue,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _show, row_id)


@router.get("/{dead_letter_id}")
def get_dead_letter(env: EnvIn, caller: CallerIn, dead_letter_id: Id) -> DeadLetterShown:
    """A dead letter, open or resolved."""
    with env.database.read() as tx:
        return _show(_find(tx, dead_letter_id, caller))


@router.post("/{dead_letter_id}/replay")
def replay(env: EnvIn, caller: CallerIn, dead_letter_id: Id) -> DeadLetterShown:
    """Do the work again, with a new budget of attempts."""
    with env.database.begin() as tx:
        try:
            rings = replay_dead_letters(tx, [_find_open(tx, dead_letter_id, caller)], by=caller.key_id, now=env.clock())
        except Refused as error:
            raise Refusal(409, error.code, str(error)) from None
        letter = _show(_find(tx, dead_letter_id, caller))
    ring(env, rings)
    return letter


@router.post("/{dead_letter_id}/discard")
def discard(env: EnvIn, caller: CallerIn, dead_letter_id: Id) -> DeadLetterShown:
    """Close the dead letter without doing the work."""
    with env.database.begin() as tx:
        discard_dead_letters(tx, [_find_open(tx, dead_letter_id, caller)], by=caller.key_id, now=env.clock())
        return _show(_find(tx, dead_letter_id, caller))


@long.post("/replay")
def replay_many(env: EnvIn, caller: CallerIn, bulk: Bulk) -> BulkDone:
    """Replay the open dead letters of a queue, the newest first, up to a bound."""
    if caller.merchant_id is not None and bulk.merchant_id not in (None, caller.merchant_id):
        raise not_found("merchant")
    merchant_id = caller.merchant_id or bulk.merchant_id
    with env.database.begin() as tx:
        letters = queues.replayable(tx, merchant_id=merchant_id, queue=bulk.queue, limit=bulk.limit + 1)
        stopped = queues.stopped(tx, merchant_id=merchant_id) if bulk.queue == "deliveries" else []
        rings = replay_dead_letters(tx, letters[: bulk.limit], by=caller.key_id, now=env.clock())
    ring(env, rings)
    return BulkDone(
        replayed=sum(len(ids) for ids in rings.values()),
        refused=[RefusedReplay(endpoint_id=one.endpoint_id, letters=one.letters, reason=one.reason) for one in stopped],
        more=len(letters) > bulk.limit,
    )


router.routes.extend(long.routes)
