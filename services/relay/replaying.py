"""Replaying: a job of many deliveries, or of many events, goes on a window at a time, beside what is new.

perform   look at the window behind the job's cursor
effects   put back what matched and move the cursor, in the transaction that lets the job fall due again

A job never runs ahead of the consumers: how much it has put back that was not tried yet is bounded, and no more than
that is still done after it is canceled. Between two steps the job is a row like any other;
every relay may take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from billhook.queue.handler import Rings
from billhook.rules.delivery import CANCELED, FRESH, REPLAY
from billhook.rules.retry import MAX_ATTEMPTS, Defer, Done, Outcome
from billhook.runtime.clock import Clock
from billhook.store import queues, work
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries
from billhook.store.endpoints import Endpoint, endpoints_of, endpoints_of_merchants
from billhook.store.inbox import inbox
from billhook.store.replay_windows import (
    Window,
    add_missing,
    lock_deliveries,
    lock_events,
    look,
    traffic,
    untouched,
)
from billhook.store.replays import BACKFILL, DONE, EVENTS, Replay, advance, replays
from billhook.store.work import Row

MOST_UNTOUCHED = 500
"""Deliveries of one job's endpoint (or merchant) that wait for their first try in the lane of replays. Couriers send
some 1,500 a second, so that they do not run dry between two steps."""

MOST_EVENTS = 2000
"""Events of one merchant that wait to be processed again: what bookkeepers do in half a second."""

EVENTS_BESIDE_TRAFFIC = 20
"""While events come in, a job has no more than these waiting. What is new waits for the batch that is in hand, some
20 ms for as many: with the pause below that is one event in twenty-five. With 30 every 0.25 s it was one in eight."""

TRAFFIC = timedelta(seconds=1)

FRESH_BACKLOG = 1000
TRICKLE = 20
"""While so many first attempts are due, a job has no more than a trickle waiting. It does not stand still: the backlog
may be that of one slow endpoint, and couriers give its lane no room as long as they are busy themselves."""

PAUSE = timedelta(seconds=0.25)
"""How long a job waits for consumers to catch up."""

PAUSE_BESIDE_TRAFFIC = timedelta(seconds=0.5)
"""The same while events come in."""

SETTLED = timedelta(seconds=5)
"""Rows become visible when their transaction ends, and their ids are older than that. A job passes an id when every
transaction that could still bring one before it is over."""

LOOK_SECONDS = 0.5
"""How often its consumer looks for jobs that wait for consumers."""


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """One claimed replay."""

    id: str
    merchant_id: str
    attempts: int
    replay: Replay


Result = tuple[ReplayJob, Outcome, Window | None]


class Replaying:
    """The handler of the replays."""

    table: sa.Table = replays
    batch = 1  # the jobs take turns
    lease = timedelta(seconds=10)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[ReplayJob]:
        return [ReplayJob(row["id"], row["merchant_id"], row["attempts"], Replay(**row)) for row in rows]

    def perform(self, jobs: Sequence[ReplayJob]) -> Sequence[Result]:
        return [self._step(job) for job in jobs]

    def _step(self, job: ReplayJob) -> Result:
        replay, now = job.replay, self._clock()
        end = min(replay.until, now - SETTLED)
        with self._database.read() as tx:
            reachable = _reachable(tx, replay)
            if replay.endpoint_id is not None and replay.endpoint_id not in reachable:
                return job, Done(CANCELED), None  # deleted or disabled since the job was made
            beside = replay.kind == EVENTS and traffic(tx, now - TRAFFIC)
            pause = PAUSE_BESIDE_TRAFFIC if beside else PAUSE
            room = _room(tx, replay, now, beside_traffic=beside)
            if room <= 0:
                return job, _wait(now, pause), None
            window = look(tx, replay, reachable, end=end, room=room)
        if window.cut:
            return job, _wait(now, pause), window
        if not window.last:
            return job, Defer(now, ""), window
        if end < replay.until:
            return job, Defer(replay.until + SETTLED, "waits until nothing older can appear"), window
        return job, Done(DONE), window

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        rings: dict[str, list[str]] = {}
        for job, _, window in results:
            if window is None:
                continue
            ids = _put_back(tx, job.replay, window.rows, now)
            advance(tx, job.id, window.cursor, len(ids))
            bell = inbox.name if job.replay.kind == EVENTS else queues.lane_name(REPLAY)
            rings.setdefault(bell, []).extend(ids)
        return rings


def _reachable(tx: Tx, replay: Replay) -> dict[str, Endpoint]:
    """The merchant's endpoints that can be sent to. Deliveries held for a disabled one stay held."""
    return {
        endpoint.id: endpoint
        for endpoint in endpoints_of_merchants(tx, [replay.merchant_id])
        if endpoint.disabled_at is None
    }


def _room(tx: Tx, replay: Replay, now: datetime, *, beside_traffic: bool) -> int:
    if replay.kind == EVENTS:
        return (EVENTS_BESIDE_TRAFFIC if beside_traffic else MOST_EVENTS) - untouched(tx, replay)
    fresh = work.due_ids(tx, deliveries, now=now, limit=FRESH_BACKLOG + 1, only=deliveries.c.lane == FRESH)
    return (TRICKLE if len(fresh) > FRESH_BACKLOG else MOST_UNTOUCHED) - untouched(tx, replay)


def _wait(now: datetime, pause: timedelta) -> Defer:
    return Defer(now + pause, "waits until what it put back has been tried")


def _put_back(tx: Tx, replay: Replay, rows: Sequence[sa.RowMapping], now: datetime) -> list[str]:
    """Put back the rows that the step found. A row that has changed since then is left alone."""
    if not rows:
        return []
    if replay.kind == EVENTS:
        events = lock_events(tx, [row["id"] for row in rows], replay.states or ())
        return queues.replay(tx, inbox.name, events, by=replay.created_by, now=now)[inbox.name]
    if replay.kind == BACKFILL:
        [endpoint] = endpoints_of(tx, [str(replay.endpoint_id)], lock=True).values()
        return add_missing(tx, endpoint, rows, now)
    ids = lock_deliveries(tx, [row["id"] for row in rows], replay.states or ())
    return queues.replay(tx, deliveries.name, ids, by=replay.created_by, now=now)[queues.lane_name(REPLAY)]
