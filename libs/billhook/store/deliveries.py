"""Deliveries: one message to one endpoint, and every attempt at it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.rules.delivery import CANCELED, FRESH, HELD, REPLAY, RETRY, subject_of
from billhook.store.bulk import among, insert_many
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint, Subscriber, endpoints, subscribers
from billhook.store.messages import Message, messages
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index
from billhook.store.work import DUE, Row, due_index, work_columns

_HELD_BY_A_COURIER = sa.text("token IS NOT NULL")
_IN_ORDER = sa.text(f"state = '{DUE}' AND subject IS NOT NULL")
_HELD = sa.text(f"state = '{HELD}'")

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("message_id", sa.Text, sa.ForeignKey("messages.id"), nullable=False),
    sa.Column("endpoint_id", sa.Text, sa.ForeignKey("endpoints.id"), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    *work_columns(),
    sa.Column("lane", sa.Text, nullable=False, server_default=FRESH),
    sa.Column("subject", sa.Text),  # what it stays in order with at its endpoint
    # Sent again after it was delivered or dead, or backfilled: nothing new waits for it (`ordering`).
    sa.Column("replayed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("attempts_before", sa.Integer, nullable=False, server_default="0"),  # numbered before its last replay
    due_index("deliveries", "lane"),
    sa.UniqueConstraint("message_id", "endpoint_id"),
    sa.Index("ix_deliveries_merchant_id", "merchant_id", "id"),
    sa.Index("ix_deliveries_endpoint_id", "endpoint_id", "id"),
    # For the deliveries under way to an endpoint in all processes: the index holds only those.
    partial_index("ix_deliveries_under_way", "endpoint_id", where=_HELD_BY_A_COURIER),
    partial_index("ix_deliveries_in_order", "endpoint_id", "subject", "id", where=_IN_ORDER),
    partial_index("ix_deliveries_held", "endpoint_id", "subject", "id", where=_HELD),
)

delivery_attempts = sa.Table(
    "delivery_attempts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("delivery_id", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),  # 2xx, 3xx, 4xx, 5xx, timeout, connect, …
    sa.Column("status_code", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("response", sa.LargeBinary, nullable=False),  # the first bytes of the body
    sa.Column("response_headers", sa.JSON),  # [[name, value], …]
    sa.Column("url", sa.Text),
    sa.Column("request_headers", sa.JSON),  # [[name, value], …], a merchant's own without their values
    sa.Index("ix_delivery_attempts_delivery_id", "delivery_id", "number"),
)


class Attempt(msgspec.Struct, frozen=True):
    merchant_id: str
    delivery_id: str
    number: int
    started_at: datetime
    duration_ms: int
    outcome: str
    status_code: int | None
    error: str | None
    response: bytes
    response_headers: tuple[tuple[str, str], ...] = ()
    url: str | None = None
    request_headers: tuple[tuple[str, str], ...] = ()


CUT: Final = "cut"
"""The outcome of an attempt of which nothing is known but that it began."""


class NewDelivery(msgspec.Struct, frozen=True, gc=False):
    merchant_id: str
    message_id: str
    endpoint_id: str
    subject: str | None = None
    held: bool = False
    lane: str = FRESH
    replayed: bool = False


def delivery_rows(wanted: Sequence[NewDelivery], now: datetime) -> list[dict[str, Any]]:
    """The rows of deliveries to be added."""
    return [
        {
            "id": new_id("dlv"),
            "merchant_id": new.merchant_id,
            "message_id": new.message_id,
            "endpoint_id": new.endpoint_id,
            "created_at": now,
            "due_at": now,
            "subject": new.subject,
            "lane": new.lane,
            "replayed": new.replayed,
            "state": HELD if new.held else DUE,
            "finished_at": now if new.held else None,
        }
        for new in wanted
    ]


def add_deliveries(tx: Tx, wanted: Sequence[NewDelivery], now: datetime) -> list[str]:
    """Add them; returns the ids of those that are due."""
    rows = delivery_rows(wanted, now)
    insert_many(tx, deliveries, rows)
    return [str(row["id"]) for row in rows if row["state"] == DUE]


def address(tx: Tx, new: Sequence[Message], now: datetime, *, excluding: Collection[str] = ()) -> list[str]:
    """Add a delivery of each message for each endpoint that wants it; returns the ids to ring for."""
    return add_deliveries(tx, deliveries_for(tx, new, excluding=excluding), now)


def deliveries_for(tx: Tx, new: Sequence[Message], *, excluding: Collection[str] = ()) -> list[NewDelivery]:
    """A delivery of each message for each endpoint that wants it, except those in `excluding`."""
    if not new:
        return []
    subscribed = subscribers(tx, {message.merchant_id for message in new})
    return [
        delivery_for(message, endpoint)
        for message in new
        for endpoint in subscribed.get(message.merchant_id, ())
        if endpoint.id not in excluding and endpoint.hears(message.type)
    ]


def delivery_for(message: Message, endpoint: Endpoint | Subscriber, lane: str = FRESH) -> NewDelivery:
    return NewDelivery(
        message.merchant_id,
        message.id,
        endpoint.id,
        subject_of(endpoint.ordering, message.customer, message.subscription),
        held=endpoint.disabled_at is not None,
        lane=lane,
    )


def with_others(tx: Tx, endpoint_ids: Collection[str], mine: Collection[str], now: datetime) -> dict[str, int]:
    """How many deliveries to these endpoints other couriers have in hand: all that is held under tokens which are not
    `mine`."""
    query = (
        sa.select(deliveries.c.endpoint_id, sa.func.count())
        .where(
            deliveries.c.token.is_not(None),
            deliveries.c.endpoint_id.in_(endpoint_ids),
            deliveries.c.due_at > now,
            ~among(tx, deliveries.c.token, mine),
        )
        .group_by(deliveries.c.endpoint_id)
    )
    return {row[0]: row[1] for row in tx.execute(query)}


def pull_forward(tx: Tx, endpoint_id: str, now: datetime, limit: int) -> int:
    """Make deliveries due that were deferred while an endpoint was down, the oldest first: those that were never tried
    and that no courier holds. Failed ones keep their schedule. Returns how many they were."""
    waiting = (
        sa.select(deliveries.c.id)
        .where(
            deliveries.c.endpoint_id == endpoint_id,
            deliveries.c.state == DUE,
            deliveries.c.due_at > now,
            deliveries.c.attempts == 0,
            deliveries.c.token.is_(None),
        )
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    ids = list(tx.execute(waiting.with_for_update(skip_locked=True)).scalars())
    if ids:
        tx.execute(sa.update(deliveries).where(among(tx, deliveries.c.id, ids)).values(due_at=now))
    return len(ids)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that is due and cannot go out now."""

    id: str
    endpoint_id: str
    attempts: int
    off: bool
    """Its endpoint is disabled or deleted."""


def due_for(tx: Tx, lane: str, endpoint_ids: Collection[str], now: datetime, limit: int) -> list[Waiting]:
    """What is due in a lane for these endpoints and nobody holds, locked, the longest due first."""
    c, e = deliveries.c, endpoints.c
    off = sa.or_(e.disabled_at.is_not(None), e.deleted_at.is_not(None))
    query = (
        sa.select(c.id, c.endpoint_id, c.attempts, off)
        .join_from(deliveries, endpoints, e.id == c.endpoint_id)
        .where(
            c.state == DUE, c.lane == lane, c.due_at <= now, c.token.is_(None), among(tx, c.endpoint_id, endpoint_ids)
        )
        .order_by(c.due_at, c.id)
        .limit(limit)
    )
    rows = tx.execute(query.with_for_update(skip_locked=True, of=deliveries))
    return [Waiting(row[0], row[1], row[2], bool(row[3])) for row in rows]


def to_retry_lane(tx: Tx, ids: Collection[str]) -> None:
    """Move failed deliveries out of the way of first attempts; replayed ones stay in their lane."""
    if ids:
        tx.execute(
            sa.update(deliveries).where(among(tx, deliveries.c.id, ids), deliveries.c.lane == FRESH).values(lane=RETRY)
        )


CANCELED_AT_ONCE = 2000
"""In one statement: a fraction of a second."""


def cancel_waiting(tx: Tx, endpoint_id: str, now: datetime) -> bool:
    """End what is due or held for an endpoint, as much as one statement may; whether there may be more. What is under
    way ends by itself."""
    c = deliveries.c
    waiting = sa.select(c.id).where(c.endpoint_id == endpoint_id, c.state.in_((DUE, HELD)), c.token.is_(None))
    # A row that a courier is claiming at this moment is skipped, and found to be canceled later; waiting for its lock
    # could deadlock.
    some = waiting.limit(CANCELED_AT_ONCE).with_for_update(skip_locked=True)
    ended = sa.update(deliveries).where(c.id.in_(some)).values(state=CANCELED, last_error=None, finished_at=now)
    return tx.execute(ended).rowcount == CANCELED_AT_ONCE


HELD_LIMIT = 10_000
"""Where counting stops: it is for a person to read."""


def held_for(tx: Tx, endpoint_id: str) -> int:
    """How many deliveries are held for an endpoint, up to `HELD_LIMIT`."""
    held = sa.select(sa.literal(1)).where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == HELD)
    return int(tx.execute(sa.select(sa.func.count()).select_from(held.limit(HELD_LIMIT).subquery())).scalar_one())


class OutboundMessage(msgspec.Struct, frozen=True):
    """What is needed to send one delivery."""

    delivery_id: str
    merchant_id: str
    message_id: str
    endpoint: Endpoint
    attempts: int
    """Claims since it was due for the first time, or was replayed: what its schedule counts."""
    number: int
    """Which attempt this is, from 1, through all replays."""
    type: str
    body: bytes
    pruned: bool
    subject: str | None
    lane: str
    event_id: str
    """Of the event it came from, or its own where it came from none."""
    traceparent: str | None = None


def outbound_messages(tx: Tx, claimed: Sequence[Row]) -> list[OutboundMessage]:
    """The claimed deliveries, which carry their `endpoint`, with their messages."""
    if not claimed:
        return []
    c = messages.c
    query = sa.select(c.id, c.type, c.body, c.pruned_at, c.inbox_id, c.traceparent)
    query = query.where(among(tx, c.id, {row["message_id"] for row in claimed}))
    said = {row[0]: row for row in tx.execute(query)}
    found = []
    for row in claimed:
        _, event_type, body, pruned_at, event_id, traceparent = said[row["message_id"]]
        found.append(
            OutboundMessage(
                row["id"],
                row["merchant_id"],
                row["message_id"],
                row["endpoint"],
                row["attempts"],
                row["attempts_before"] + row["attempts"],
                event_type,
                bytes(body),
                pruned_at is not None,
                row["subject"],
                row["lane"],
                event_id,
                traceparent,
            )
        )
    return found


def cut_attempts(claimed: Sequence[Row]) -> list[Attempt]:
    """An attempt for each claimed delivery that still has the token of another claim: that worker died, or could not
    write how its attempt ended."""
    return [
        Attempt(
            row["merchant_id"],
            row["id"],
            row["attempts_before"] + row["attempts"] - 1,
            row["due_at"],
            0,
            CUT,
            None,
            "the process that sent it ended before it could write the answer: whether it arrived is not known",
            b"",
        )
        for row in claimed
        if row["token"] is not None
    ]


def once_more() -> dict[str, Any]:
    """What a replay writes into a delivery's row: its new lane, and that it has had its turn unless it was only held.
    Its attempts are numbered on from the last one."""
    numbered = sa.select(sa.func.max(delivery_attempts.c.number)).where(
        delivery_attempts.c.delivery_id == deliveries.c.id
    )
    return {
        "lane": REPLAY,
        "replayed": sa.case((deliveries.c.state == HELD, deliveries.c.replayed), else_=sa.true()),
        "attempts_before": sa.func.coalesce(numbered.scalar_subquery(), deliveries.c.attempts_before),
    }


def add_attempts(tx: Tx, attempts: Sequence[Attempt]) -> None:
    insert_many(tx, delivery_attempts, [{"id": new_id("att"), **msgspec.structs.asdict(one)} for one in attempts])


def get_delivery(tx: Tx, delivery_id: str, *, merchant_id: str | None) -> sa.RowMapping | None:
    query = sa.select(deliveries).where(deliveries.c.id == delivery_id)
    if merchant_id is not None:
        query = query.where(deliveries.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


def count_deliveries(tx: Tx, message_ids: Collection[str]) -> dict[str, int]:
    """To how many endpoints each message goes; none where it goes to none."""
    if not message_ids:
        return {}
    c = deliveries.c
    counted = sa.select(c.message_id, sa.func.count()).where(among(tx, c.message_id, message_ids))
    return {row[0]: row[1] for row in tx.execute(counted.group_by(c.message_id))}


def list_deliveries(
    tx: Tx,
    *,
    merchant_id: str | None,
    endpoint_id: str | None = None,
    message_id: str | None = None,
    state: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[sa.RowMapping]:
    """Newest first."""
    query = sa.select(deliveries).order_by(deliveries.c.id.desc())
    filters = (
        (deliveries.c.merchant_id, merchant_id),
        (deliveries.c.endpoint_id, endpoint_id),
        (deliveries.c.message_id, message_id),
        (deliveries.c.state, state),
    )
    for column, wanted in filters:
        if wanted is not None:
            query = query.where(column == wanted)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    return list(tx.execute(query.limit(limit)).mappings())


def newest_attempts(
    tx: Tx, delivery_id: str, *, merchant_id: str, before: int | None = None, limit: int
) -> list[sa.RowMapping]:
    """The newest first; with `before` those that were made before the one of this number."""
    c = delivery_attempts.c
    query = sa.select(delivery_attempts).where(c.delivery_id == delivery_id, c.merchant_id == merchant_id)
    if before is not None:
        query = query.where(c.number < before)
    return list(tx.execute(query.order_by(c.number.desc()).limit(limit)).mappings())


def list_attempts(
    tx: Tx, delivery_ids: Collection[str], *, merchant_id: str, latest: int | None = None
) -> list[sa.RowMapping]:
    """The attempts at these deliveries, or the `latest` of each: each replay brings more of them."""
    c = delivery_attempts.c
    mine = (c.delivery_id.in_(delivery_ids), c.merchant_id == merchant_id)
    query = sa.select(delivery_attempts).where(*mine)
    if latest is not None:
        ends = sa.select(c.delivery_id, sa.func.max(c.number).label("last")).where(*mine).group_by(c.delivery_id)
        end = ends.subquery()
        query = query.join(end, sa.and_(end.c.delivery_id == c.delivery_id, c.number > end.c.last - latest))
    return list(tx.execute(query.order_by(c.id)).mappings())
