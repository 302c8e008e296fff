"""What stays in order at an endpoint that asks for it: one rule, for claiming deliveries and for ending them.

The endpoint's `ordering` gives each delivery a key (`deliveries.subject`: a customer, or a subscription). Within a key
a delivery waits for every earlier one that is still in line, and goes past all others:

    an earlier one that is …                                        a new one   a replayed one
    due: on its way, or in the waits of its schedule                waits       waits
    held, and a replay that is running has still to reach it        waits       waits
    held, and nobody has asked for it                               goes        goes
    delivered, dead, canceled or expired                            goes        goes
    replayed after it was delivered or dead, or backfilled          goes        waits

A held delivery has not been sent yet, so it keeps its place. A replayed one has had its turn and may fail for hours
once more, so nothing new waits for it. (`tests/store/test_ordering.py` tests this table.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.rules.delivery import HELD
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries
from billhook.store.replays import REPLAY_KIND, replays
from billhook.store.work import DUE, Row

OrderingKey = tuple[str, str]
"""An endpoint and a subject: within it deliveries stay in order."""

ASK_AGAIN = timedelta(seconds=1)
"""A turn is rung for when the one before is over; this is for the case that the ring is lost, and for what is held."""

SOON = timedelta(seconds=0.05)
"""When to ask again whether what is just being settled is over: a transaction's time."""


@dataclass(frozen=True, slots=True)
class InLine:
    """A delivery that others wait for."""

    delivery_id: str
    due_at: datetime | None
    """None while it is held."""
    lane: str
    in_hand: bool
    """A courier has it, or had it a moment ago."""


@dataclass(frozen=True, slots=True)
class Line:
    """Who is first in a key: of all, and of those that new ones wait for."""

    first: InLine
    first_new: InLine | None

    def ahead_of(self, row: Row) -> InLine | None:
        """The delivery that a due one has to wait for; None when it is its turn."""
        ahead = self.first if row["replayed"] else self.first_new
        return None if ahead is None or ahead.delivery_id >= row["id"] else ahead


def in_turn(tx: Tx, rows: Sequence[Row], now: datetime) -> tuple[list[Row], list[tuple[Row, datetime]]]:
    """Of due deliveries those whose turn it is, and those that wait, each with the moment to ask again."""
    found = lines(tx, {key_of(row) for row in rows if row["subject"] is not None})
    ready: list[Row] = []
    behind: list[tuple[Row, InLine]] = []
    for row in rows:
        line = found.get(key_of(row)) if row["subject"] is not None else None
        ahead = None if line is None else line.ahead_of(row)
        if ahead is None:
            ready.append(row)
        else:
            behind.append((row, ahead))
    ending = _ending(tx, {ahead.delivery_id for _, ahead in behind if ahead.in_hand})
    return ready, [
        (row, now + SOON if ahead.delivery_id in ending else max(ahead.due_at or now, now + ASK_AGAIN))
        for row, ahead in behind
    ]


def _ending(tx: Tx, in_hand: set[str]) -> set[str]:
    """Which of these are over, or just being settled: whoever does that has looked already for those that wait, and may
    not have seen what is due since. The others stay as they are until this transaction ends, and it will be seen."""
    if not in_hand:
        return set()
    c = deliveries.c
    held = sa.select(c.id).where(c.id.in_(in_hand), c.state == DUE, c.token.is_not(None))
    return in_hand - set(tx.execute(held.with_for_update(read=True, skip_locked=True)).scalars())


def key_of(row: Row) -> OrderingKey:
    return row["endpoint_id"], row["subject"]


def lines(tx: Tx, keys: Collection[OrderingKey], *, excluding: Collection[str] = ()) -> dict[OrderingKey, Line]:
    """The line of each key that has one; `excluding` are deliveries that are about to be over."""
    if not keys:
        return {}
    c = deliveries.c
    key = sa.tuple_(c.endpoint_id, c.subject).in_(list(keys))
    new = sa.func.min(sa.case((c.replayed, sa.null()), else_=c.id))
    due = (
        sa.select(c.endpoint_id, c.subject, sa.func.min(c.id), new)
        .where(c.state == DUE, c.subject.is_not(None), key, c.id.not_in(excluding))
        .group_by(c.endpoint_id, c.subject)
    )
    firsts: dict[OrderingKey, list[str | None]] = {(row[0], row[1]): [row[2], row[3]] for row in tx.execute(due)}
    for held in tx.execute(_held_in_line(key)):
        both = firsts.get((held[0], held[1]), [None, None])
        firsts[(held[0], held[1])] = [held[2] if id_ is None else min(held[2], id_) for id_ in both]
    ids = {delivery_id for both in firsts.values() for delivery_id in both if delivery_id is not None}
    shown = sa.select(c.id, c.due_at, c.lane, c.state, c.token.is_not(None)).where(c.id.in_(ids))
    known = {
        row[0]: InLine(row[0], row[1] if row[3] == DUE else None, row[2], row[4] or row[3] not in (DUE, HELD))
        for row in tx.execute(shown)
    }
    return {
        key: Line(known[first], None if new_id is None else known[new_id])
        for key, (first, new_id) in firsts.items()
        if first is not None
    }


def _held_in_line(key: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The first delivery of each key that is held and that a replay on its way has still to put back. A replay of some
    event types counts as one of all types: it soon passes those that it leaves out."""
    c, job = deliveries.c, replays.c
    reaches = sa.and_(
        job.state == DUE,
        job.kind == REPLAY_KIND,
        sa.cast(job.states, sa.Text).like(f'%"{HELD}"%'),
        job.merchant_id == c.merchant_id,
        sa.or_(job.endpoint_id.is_(None), job.endpoint_id == c.endpoint_id),
        c.id > job.cursor,
        c.created_at <= job.until,
    )
    held = sa.select(c.endpoint_id, c.subject, sa.func.min(c.id)).join_from(deliveries, replays, reaches)
    return held.where(c.state == HELD, key).group_by(c.endpoint_id, c.subject)


def release(tx: Tx, over: Mapping[str, OrderingKey], now: datetime) -> list[InLine]:
    """Let those that waited for the deliveries `over` (id → key) fall due at once; returns them."""
    nexts: dict[str, InLine] = {}
    for line in lines(tx, set(over.values()), excluding=over).values():
        for one in (line.first, line.first_new):
            if one is not None and one.due_at is not None:
                nexts[one.delivery_id] = one
    if nexts:
        # Only one that was never tried has waited for its turn; any other waits for its next retry.
        waiting = sa.update(deliveries).where(
            deliveries.c.id.in_([*nexts]), deliveries.c.attempts == 0, deliveries.c.token.is_(None)
        )
        tx.execute(waiting.values(due_at=now))
    return list(nexts.values())
