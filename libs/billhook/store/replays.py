"""Replays: much work put back at once, as a job that goes on where it was.

    replay      what billhook sent a merchant, or should have, is sent once more
    backfill    what an endpoint was never sent
    events      what billhook received is processed once more

A job is a row of work. It walks from `since` to `until` (see `replay_windows`) and keeps its place in `cursor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.errors import Refused
from billhook.rules.delivery import CANCELED, DELIVERED, HELD
from billhook.rules.endpoint_settings import checked
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint
from billhook.store.schema import Instant, id_at, instant_of, merchant_column, metadata, new_id
from billhook.store.work import DEAD, DUE, due_index, work_columns

replays = sa.Table(
    "replays",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("kind", sa.Text, nullable=False),  # replay: deliveries again; backfill: what one never had; events: inbox
    sa.Column("endpoint_id", sa.Text),
    sa.Column("source_id", sa.Text),  # of events
    sa.Column("event_types", sa.JSON),  # patterns; none: all
    sa.Column("states", sa.JSON),  # of deliveries, or of events
    sa.Column("since", Instant, nullable=False),
    sa.Column("until", Instant, nullable=False),
    sa.Column("cursor", sa.Text, nullable=False),  # the last id that was looked at
    sa.Column("matched", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    *work_columns(),
    due_index("replays"),
    sa.Index("ix_replays_merchant_id", "merchant_id", "id"),
)

REPLAY_KIND = "replay"
BACKFILL = "backfill"
EVENTS = "events"
DONE = "done"

STATES = (DELIVERED, DEAD, HELD)
"""What a replay can put back; what is due is on its way already."""

USUAL_STATES = (DEAD, HELD)

EVENT_STATES = ("processed", "ignored", DEAD)
"""Of events, what can be processed again; what is due will be processed anyway."""

USUAL_RANGE = timedelta(days=30)

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Replay:
    id: str
    merchant_id: str
    kind: str
    endpoint_id: str | None
    source_id: str | None = None
    event_types: list[str] | None
    states: list[str] | None
    since: datetime
    until: datetime
    cursor: str
    matched: int
    created_by: str
    created_at: datetime
    state: str
    due_at: datetime
    attempts: int
    token: str | None
    last_error: str | None
    finished_at: datetime | None

    @property
    def phase(self) -> str:
        """running, done, canceled or dead."""
        return "running" if self.state == DUE else self.state

    @property
    def prefix(self) -> str:
        """Of the ids that it walks along."""
        return _prefix(self.kind)

    @property
    def progress(self) -> float:
        """How much of the time between `since` and `until` is behind the cursor, 0…1."""
        if self.state == DONE:
            return 1.0
        passed = (instant_of(self.cursor) - self.since) / (self.until - self.since)
        return min(max(passed, 0.0), 1.0)

    def shown(self) -> dict[str, Any]:
        """As people see it."""
        return {
            "id": self.id,
            "merchant_id": self.merchant_id,
            "kind": self.kind,
            "state": self.phase,
            "progress": round(self.progress, 4),
            "matched": self.matched,
            "note": self.last_error or None,
            "endpoint_id": self.endpoint_id,
            "source_id": self.source_id,
            "event_types": self.event_types,
            "states": self.states,
            "since": self.since,
            "until": self.until,
            "created_by": self.created_by,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
        }


def create_replay(
    tx: Tx,
    merchant_id: str,
    *,
    kind: str,
    endpoint: Endpoint | None = None,
    event_types: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str,
    now: datetime,
) -> Replay:
    """A job that sends again; `endpoint` is one of the merchant's. Raises `Refused` for what cannot work."""
    _check(kind, endpoint, states)
    replay = _new(
        merchant_id,
        kind,
        since,
        until,
        by,
        now,
        endpoint_id=None if endpoint is None else endpoint.id,
        event_types=None if event_types is None else checked({"event_types": event_types})["event_types"],
        states=None if kind == BACKFILL else list(dict.fromkeys(states or USUAL_STATES)),
    )
    add_replay(tx, replay)
    return replay


def event_replay(
    merchant_id: str,
    *,
    source_id: str | None = None,
    event_types: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str,
    now: datetime,
) -> Replay:
    """A job that processes events of the inbox again, not begun yet; the source is one of the merchant's. Raises
    `Refused` for what cannot work."""
    for state in states or ():
        if state not in EVENT_STATES:
            raise Refused("state_unknown", f"There is no state {state!r} to replay: use {', '.join(EVENT_STATES)}.")
    return _new(
        merchant_id,
        EVENTS,
        since,
        until,
        by,
        now,
        source_id=source_id,
        event_types=None if event_types is None else list(dict.fromkeys(event_types)),
        states=list(dict.fromkeys(states or EVENT_STATES)),
    )


def add_replay(tx: Tx, replay: Replay) -> None:
    """Let a job begin."""
    tx.execute(replays.insert().values(**vars(replay)))


def _new(
    merchant_id: str,
    kind: str,
    since: datetime | None,
    until: datetime | None,
    by: str,
    now: datetime,
    **asked: Any,
) -> Replay:
    end = min(until or now, now).astimezone(UTC)
    start = max(since or end - USUAL_RANGE, _EARLIEST)
    if start >= end:
        raise Refused("range_empty", "`since` must be earlier than `until`, and not in the future.")
    start = start.astimezone(UTC)
    return Replay(
        id=new_id("rpl"),
        merchant_id=merchant_id,
        kind=kind,
        since=start,
        until=end,
        cursor=id_at(_prefix(kind), start),
        matched=0,
        created_by=by,
        created_at=now,
        state=DUE,
        due_at=now,
        attempts=0,
        token=None,
        last_error=None,
        finished_at=None,
        **{"endpoint_id": None, **asked},
    )


def _check(kind: str, endpoint: Endpoint | None, states: Sequence[str] | None) -> None:
    if kind == BACKFILL and endpoint is None:
        raise Refused("endpoint_missing", "A backfill needs an endpoint: the one to send to what it never had.")
    if kind == BACKFILL and states:
        raise Refused("states_given", "A backfill takes no states: what it makes deliveries of has none yet.")
    for state in states or ():
        if state not in STATES:
            raise Refused("state_unknown", f"There is no state {state!r} to replay: use {', '.join(STATES)}.")
    if endpoint is not None and endpoint.disabled_at is not None:
        raise Refused("endpoint_disabled", f"The endpoint {endpoint.id} is disabled: enable it first.")


def get_replay(tx: Tx, replay_id: str, *, merchant_id: str | None = None) -> Replay | None:
    query = sa.select(replays).where(replays.c.id == replay_id)
    if merchant_id is not None:
        query = query.where(replays.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Replay(**row) if row else None


def list_replays(tx: Tx, *, merchant_id: str | None = None, before: str | None = None, limit: int = 50) -> list[Replay]:
    """Newest first."""
    query = sa.select(replays).order_by(replays.c.id.desc())
    if merchant_id is not None:
        query = query.where(replays.c.merchant_id == merchant_id)
    if before is not None:
        query = query.where(replays.c.id < before)
    return [Replay(**row) for row in tx.execute(query.limit(limit)).mappings()]


def cancel(tx: Tx, replay_id: str, now: datetime) -> bool:
    """Stop a job where it is, False if it is over. A step in hand finds that it holds the job no longer, and puts
    nothing back; what was put back before is delivered."""
    stopped = tx.execute(
        sa.update(replays)
        .where(replays.c.id == replay_id, replays.c.state == DUE)
        .values(state=CANCELED, token=None, last_error=None, finished_at=now)
    )
    return stopped.rowcount == 1


def advance(tx: Tx, replay_id: str, cursor: str, count: int) -> None:
    """Go on behind `cursor`, `count` having been put back. A step that succeeds resets the count of attempts: thousands
    of steps may have more failures among them than one piece of work is allowed."""
    tx.execute(
        sa.update(replays)
        .where(replays.c.id == replay_id)
        .values(cursor=cursor, matched=replays.c.matched + count, attempts=1)
    )


def _prefix(kind: str) -> str:
    return {BACKFILL: "msg", EVENTS: "evt"}.get(kind, "dlv")
