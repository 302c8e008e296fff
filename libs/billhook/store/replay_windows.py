"""The walk of a replay: windows of ids behind its cursor, and what of them is put back.

Ids are in the order of time, so a range of time is a range of an index. A step looks at a bounded window and moves the
cursor in the transaction that puts back what matched: whatever dies, nothing is put back twice and nothing left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.events import OPERATIONAL_EVENTS
from billhook.rules.delivery import REPLAY, subject_of, wants
from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.deliveries import NewDelivery, add_deliveries, deliveries
from billhook.store.endpoints import Endpoint
from billhook.store.inbox import inbox
from billhook.store.messages import messages
from billhook.store.replays import BACKFILL, EVENTS, Replay
from billhook.store.schema import id_at
from billhook.store.work import DUE

WINDOW = 1000
"""Ids that a step looks at, at most: a read of a few milliseconds."""

READ_FOR_EACH = 5
"""Ids that it looks at for each that there is room for: not everything is asked for, and reading on is for nothing."""

SCAN_LIMIT = 2000
"""How far into its lane `untouched` counts. Where more than that is due soon, it counts too little and a job goes on
sooner: better than one merchant waiting for another."""

_ROUND_UP = timedelta(microseconds=999)
"""An id knows its time to the millisecond."""


@dataclass(frozen=True)
class Window:
    """What a step found behind the cursor."""

    rows: Sequence[sa.RowMapping]
    """The deliveries or events to put back, or the messages to make deliveries of."""
    cursor: str
    cut: bool
    """More matched than there was room for: the cursor stands before the next of them."""
    last: bool
    """Nothing is left before the end."""


def look(tx: Tx, replay: Replay, reachable: Mapping[str, Endpoint], *, end: datetime, room: int) -> Window:
    """The next window of a job, up to `end`, with at most `room` rows. `reachable`: endpoints that can be sent to."""
    before = id_at(replay.prefix, end + _ROUND_UP)
    most = min(WINDOW, READ_FOR_EACH * room)
    find = {BACKFILL: _messages_after, EVENTS: _events_after}.get(replay.kind, _deliveries_after)
    found, matching = find(tx, replay, before, reachable, most)
    if len(matching) > room:
        return Window(matching[:room], matching[room - 1]["id"], cut=True, last=False)
    if len(found) == most:
        return Window(matching, found[-1]["id"], cut=False, last=False)
    return Window(matching, max(replay.cursor, before), cut=False, last=True)


def _deliveries_after(
    tx: Tx, replay: Replay, before: str, reachable: Mapping[str, Endpoint], most: int
) -> tuple[Sequence[sa.RowMapping], Sequence[sa.RowMapping]]:
    columns = deliveries.c
    seen = sa.select(columns.id, columns.message_id, columns.endpoint_id, columns.state)
    if replay.endpoint_id is not None:
        found = _read(tx, seen, columns.endpoint_id, replay.endpoint_id, replay.cursor, before, most)
    else:
        found = _read(tx, seen, columns.merchant_id, replay.merchant_id, replay.cursor, before, most)
    wanted = [row for row in found if row["state"] in (replay.states or ()) and row["endpoint_id"] in reachable]
    if not wanted:
        return found, []
    kept = sa.select(messages.c.id, messages.c.type).where(
        messages.c.id.in_({row["message_id"] for row in wanted}), messages.c.pruned_at.is_(None)
    )
    types = {row[0]: row[1] for row in tx.execute(kept)}
    return found, [row for row in wanted if row["message_id"] in types and _asked(replay, types[row["message_id"]])]


def _messages_after(
    tx: Tx, replay: Replay, before: str, reachable: Mapping[str, Endpoint], most: int
) -> tuple[Sequence[sa.RowMapping], Sequence[sa.RowMapping]]:
    columns = messages.c
    seen = sa.select(columns.id, columns.type, columns.customer, columns.subscription, columns.pruned_at)
    found = _read(tx, seen, columns.merchant_id, replay.merchant_id, replay.cursor, before, most)
    endpoint = reachable[str(replay.endpoint_id)]
    wanted = [
        row
        for row in found
        if row["pruned_at"] is None
        # Notices about endpoints are out of date by now, and a ping was for one endpoint only.
        and row["type"] not in OPERATIONAL_EVENTS
        and wants(endpoint.event_types, row["type"])
        and _asked(replay, row["type"])
    ]
    return found, _without_delivery(tx, endpoint.id, wanted)


def _events_after(
    tx: Tx, replay: Replay, before: str, reachable: Mapping[str, Endpoint], most: int
) -> tuple[Sequence[sa.RowMapping], Sequence[sa.RowMapping]]:
    columns = inbox.c
    seen = sa.select(columns.id, columns.source_id, columns.type, columns.state)
    found = _read(tx, seen, columns.merchant_id, replay.merchant_id, replay.cursor, before, most)
    return found, [
        row
        for row in found
        if row["state"] in (replay.states or ())
        and replay.source_id in (None, row["source_id"])
        and _asked(replay, row["type"])
    ]


def _read(
    tx: Tx, seen: sa.Select[Any], whose: sa.Column[str], owner: str, after: str, before: str, most: int
) -> Sequence[sa.RowMapping]:
    """The owner's next rows. A comparison of (owner, id) pairs, which only the index of pairs can answer: with two
    separate conditions a planner may walk the index of all ids and skip the rows of every other owner."""
    pair = (whose, whose.table.c.id)
    place = sa.tuple_(*pair)
    query = seen.where(place > sa.tuple_(owner, after), place < sa.tuple_(owner, before))
    return list(tx.execute(query.order_by(*pair).limit(most)).mappings())


def _asked(replay: Replay, event_type: str) -> bool:
    return replay.event_types is None or wants(replay.event_types, event_type)


def _without_delivery(tx: Tx, endpoint_id: str, rows: Sequence[sa.RowMapping]) -> Sequence[sa.RowMapping]:
    if not rows:
        return []
    query = sa.select(deliveries.c.message_id).where(
        deliveries.c.message_id.in_([row["id"] for row in rows]), deliveries.c.endpoint_id == endpoint_id
    )
    had = set(tx.execute(query).scalars())
    return [row for row in rows if row["id"] not in had]


def lock_deliveries(tx: Tx, ids: Collection[str], states: Collection[str]) -> list[str]:
    """Which of these deliveries are still in one of the states, locked until the transaction ends."""
    query = sa.select(deliveries.c.id).where(deliveries.c.id.in_(ids), deliveries.c.state.in_(states))
    return list(tx.execute(query.order_by(deliveries.c.id).with_for_update()).scalars())


def add_missing(tx: Tx, endpoint: Endpoint, rows: Sequence[sa.RowMapping], now: datetime) -> list[str]:
    """Deliveries of the messages in `rows` to an endpoint that is locked, for those that still have none."""
    wanted = [
        NewDelivery(
            endpoint.merchant_id,
            row["id"],
            endpoint.id,
            subject_of(endpoint.ordering, row["customer"], row["subscription"]),
            lane=REPLAY,
            replayed=True,
        )
        for row in _without_delivery(tx, endpoint.id, rows)
    ]
    return add_deliveries(tx, wanted, now)


def lock_events(tx: Tx, ids: Collection[str], states: Collection[str]) -> list[str]:
    """Which of these events are still in one of the states, locked until the transaction ends."""
    query = sa.select(inbox.c.id).where(among(tx, inbox.c.id, ids), inbox.c.state.in_(states))
    return list(tx.execute(query.order_by(inbox.c.id).with_for_update()).scalars())


def traffic(tx: Tx, since: datetime) -> bool:
    """Whether anything came in since then, from whomever."""
    return tx.execute(sa.select(inbox.c.id).where(inbox.c.id > id_at("evt", since)).limit(1)).first() is not None


def untouched(tx: Tx, replay: Replay) -> int:
    """How much of what was put back for the job's endpoint (or its merchant) has not been tried yet."""
    if replay.kind == EVENTS:
        waiting = (
            sa.select(inbox.c.id)
            .where(
                inbox.c.state == DUE,
                inbox.c.merchant_id == replay.merchant_id,
                inbox.c.attempts == 0,
                inbox.c.id <= replay.cursor,
            )
            .limit(SCAN_LIMIT)
            .subquery()
        )
        return int(tx.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one())
    columns = deliveries.c
    first = (
        sa.select(columns.merchant_id, columns.endpoint_id, columns.attempts)
        .where(columns.state == DUE, columns.lane == REPLAY)
        .order_by(columns.due_at)
        .limit(SCAN_LIMIT)
        .subquery()
    )
    if replay.endpoint_id is not None:
        whose = first.c.endpoint_id == replay.endpoint_id
    else:
        whose = first.c.merchant_id == replay.merchant_id
    query = sa.select(sa.func.count()).select_from(first).where(whose, first.c.attempts == 0)
    return int(tx.execute(query).scalar_one())
