"""All queues: each is a table whose rows are work, under the table's name. One list, for the relay and for repairs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.rules.delivery import FRESH, LANES, LONGEST_WAIT_SECONDS, REPLAY, RETRY
from billhook.store import dead_letters, work
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, once_more
from billhook.store.documents import documents
from billhook.store.dunning_cases import dunning_cases
from billhook.store.endpoints import endpoints
from billhook.store.inbox import inbox
from billhook.store.mails import mails
from billhook.store.payment_attempts import payment_attempts
from billhook.store.provider_limits import GIVEN_AHEAD
from billhook.store.reconciliation import reconciliation_runs
from billhook.store.replays import replays

_ALL = (
    inbox,
    documents,
    deliveries,
    mails,
    replays,
    dunning_cases,
    payment_attempts,
    reconciliation_runs,
)

QUEUES: dict[str, sa.Table] = {table.name: table for table in _ALL}


@dataclass(frozen=True)
class WorkQueue:
    """What one bell rings for: a queue, or a part of one that has consumers of its own."""

    table: sa.Table
    only: work.Only | None = None
    target_seconds: float = 60.0
    """How soon after it is due its work is to be taken."""
    mistimed: Callable[[datetime], work.Only] = lambda at: sa.false()
    """Which of the rows that nobody holds and that are due after `at`, a moment later than now, no clock that was right
    can have put off so far. None of them, where rules put work off for weeks."""


def _soon(table: sa.Table, longest_wait: timedelta) -> Callable[[datetime], work.Only]:
    """Of a queue whose work is due when it is made, and put off by `longest_wait` at most after that."""
    made_at = table.c.received_at if "received_at" in table.c else table.c.created_at
    return lambda at: sa.or_(table.c.due_at > at + longest_wait, sa.and_(table.c.attempts == 0, made_at > at))


_MISTIMED = {
    **{table.name: _soon(table, timedelta(days=1)) for table in (inbox, documents, mails, reconciliation_runs)},
    # A bank may take a week, but nobody is given a turn so far ahead.
    payment_attempts.name: lambda at: payment_attempts.c.slot_at > at + GIVEN_AHEAD,
}

_LONGEST_WAITS = {
    # What is deferred before it was tried comes again within five minutes.
    FRESH: timedelta(minutes=10),
    RETRY: timedelta(seconds=1.2 * LONGEST_WAIT_SECONDS),
    REPLAY: timedelta(minutes=10),
}


def lane_name(lane: str) -> str:
    """The bell of a lane of the deliveries."""
    return deliveries.name if lane == FRESH else f"{deliveries.name}.{lane}"


_TARGETS = {
    inbox.name: 5.0,
    documents.name: 300.0,
    dunning_cases.name: 900.0,
    payment_attempts.name: 900.0,
    reconciliation_runs.name: 900.0,
}
_LANE_TARGETS = {FRESH: 10.0, RETRY: 60.0, REPLAY: 3600.0}

BELLS: dict[str, WorkQueue] = {
    **{
        name: WorkQueue(
            table,
            target_seconds=_TARGETS.get(name, WorkQueue.target_seconds),
            mistimed=_MISTIMED.get(name, WorkQueue.mistimed),
        )
        for name, table in QUEUES.items()
        if table is not deliveries
    },
    **{
        lane_name(lane): WorkQueue(
            deliveries,
            deliveries.c.lane == lane,
            target_seconds=_LANE_TARGETS[lane],
            mistimed=_soon(deliveries, _LONGEST_WAITS[lane]),
        )
        for lane in LANES
    },
}


def replay(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> dict[str, list[str]]:
    """Do finished or dead work again, with a new budget of attempts. Returns the ids to ring for, by bell.

    Replaying processed work changes nothing: its effects are there, and they are written at most once.
    """
    again = once_more() if queue == deliveries.name else {}
    revived = work.revive(tx, QUEUES[queue], ids, now, **again)
    dead_letters.resolve(tx, queue, revived, "replayed", by, now)
    return {lane_name(REPLAY) if again else queue: revived}


def _stopped() -> sa.Select[Any]:
    """Open dead letters of deliveries whose endpoint is disabled or deleted, with those endpoints: nothing is sent
    there, so replaying them would only close them."""
    letters = dead_letters.dead_letters
    to = sa.and_(endpoints.c.id == deliveries.c.endpoint_id, deliveries.c.id == letters.c.work_id)
    query = sa.select().select_from(letters).join(deliveries, deliveries.c.id == letters.c.work_id).join(endpoints, to)
    return query.where(
        letters.c.queue == deliveries.name,
        letters.c.resolved_at.is_(None),
        sa.or_(endpoints.c.disabled_at.is_not(None), endpoints.c.deleted_at.is_not(None)),
    )


@dataclass(frozen=True)
class Stopped:
    """An endpoint that nothing is sent to, and how many dead letters wait for it."""

    endpoint_id: str
    disabled_reason: str | None
    deleted: bool
    letters: int

    @property
    def reason(self) -> str:
        if self.deleted:
            return f"The endpoint {self.endpoint_id} was deleted: nothing is sent to it. Discard the letter."
        why = f" ({self.disabled_reason})" if self.disabled_reason else ""
        return f"The endpoint {self.endpoint_id} is disabled{why}: enable it first."


def stopped(tx: Tx, *, merchant_id: str | None = None, work_ids: Collection[str] | None = None) -> list[Stopped]:
    """The endpoints that keep open dead letters from being replayed: of a merchant, or of these pieces of work."""
    e = endpoints.c
    query = _stopped().add_columns(e.id, e.disabled_reason, e.deleted_at, sa.func.count())
    if merchant_id is not None:
        query = query.where(deliveries.c.merchant_id == merchant_id)
    if work_ids is not None:
        query = query.where(deliveries.c.id.in_(work_ids))
    rows = tx.execute(query.group_by(e.id, e.disabled_reason, e.deleted_at).order_by(e.id))
    return [Stopped(row[0], row[1], row[2] is not None, row[3]) for row in rows]


def held_up(tx: Tx, work_ids: Collection[str]) -> set[str]:
    """Which of these deliveries cannot be replayed for that."""
    return set(tx.execute(_stopped().add_columns(deliveries.c.id).where(deliveries.c.id.in_(work_ids))).scalars())


def replayable(
    tx: Tx, *, merchant_id: str | None = None, queue: str | None = None, before: str | None = None, limit: int
) -> list[sa.RowMapping]:
    """The open dead letters that can be replayed, newest first."""
    held_up = _stopped().add_columns(dead_letters.dead_letters.c.id)
    only = dead_letters.dead_letters.c.id.not_in(held_up)
    return dead_letters.list_dead(tx, merchant_id=merchant_id, queue=queue, before=before, limit=limit, only=only)


def discard(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> int:
    """Close dead letters without doing the work. The work's row stays dead, and the letter says who did this."""
    return dead_letters.resolve(tx, queue, ids, "discarded", by, now)
