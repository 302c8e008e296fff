"""Deliveries: one message to one endpoint, and every attempt at it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from billhook.rules.delivery import FRESH, HELD, RETRY, subject_of, wants
from billhook.store.bulk import among, insert_many
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint, listening
from billhook.store.messages import Message, messages
from billhook.store.schema import Instant, merchant_column, metadata, new_id
from billhook.store.work import DUE, Row, due_index, work_columns

_HELD_BY_A_COURIER = sa.text("token IS NOT NULL")
_IN_ORDER = sa.text(f"state = '{DUE}' AND subject IS NOT NULL")

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
    due_index("deliveries", "lane"),
    sa.UniqueConstraint("message_id", "endpoint_id"),
    sa.Index("ix_deliveries_merchant_id", "merchant_id", "id"),
    sa.Index("ix_deliveries_endpoint_id", "endpoint_id", "id"),
    # What is under way to an endpoint in all processes: as small as that.
    sa.Index(
        "ix_deliveries_under_way",
        "endpoint_id",
        sqlite_where=_HELD_BY_A_COURIER,
        postgresql_where=_HELD_BY_A_COURIER,
    ),
    sa.Index(
        "ix_deliveries_in_order", "endpoint_id", "subject", "id", sqlite_where=_IN_ORDER, postgresql_where=_IN_ORDER
    ),
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


@dataclass(frozen=True, slots=True)
class NewDelivery:
    merchant_id: str
    message_id: str
    endpoint_id: str
    subject: str | None = None
    held: bool = False
    lane: str = FRESH


def add_deliveries(tx: Tx, wanted: Sequence[NewDelivery], now: datetime) -> list[str]:
    """Add them; returns the ids of those that are due."""
    rows = [
        {
            "id": new_id("dlv"),
            "merchant_id": new.merchant_id,
            "message_id": new.message_id,
            "endpoint_id": new.endpoint_id,
            "created_at": now,
            "due_at": now,
            "subject": new.subject,
            "lane": new.lane,
            "state": HELD if new.held else DUE,
            "finished_at": now if new.held else None,
        }
        for new in wanted
    ]
    insert_many(tx, deliveries, rows)
    return [str(row["id"]) for row in rows if row["state"] == DUE]


def address(tx: Tx, new: Sequence[Message], now: datetime, *, not_to: Collection[str] = ()) -> list[str]:
    """Add a delivery of each message for each endpoint that wants it; returns the ids to ring for."""
    return add_deliveries(tx, deliveries_for(tx, new, not_to=not_to), now)


def deliveries_for(tx: Tx, new: Sequence[Message], *, not_to: Collection[str] = ()) -> list[NewDelivery]:
    """A delivery of each message for each endpoint that wants it, but for those in `not_to`."""
    if not new:
        return []
    ears = [ear for ear in listening(tx, {message.merchant_id for message in new}) if ear.id not in not_to]
    return [
        delivery_for(message, ear)
        for message in new
        for ear in ears
        if ear.merchant_id == message.merchant_id and wants(ear.event_types, message.type)
    ]


def delivery_for(message: Message, endpoint: Endpoint, lane: str = FRESH) -> NewDelivery:
    return NewDelivery(
        message.merchant_id,
        message.id,
        endpoint.id,
        subject_of(endpoint.ordering, message.customer, message.subscription),
        held=endpoint.disabled_at is not None,
        lane=lane,
    )


def under_way(tx: Tx, endpoint_ids: Collection[str], now: datetime) -> dict[str, int]:
    """How many deliveries to these endpoints any courier has in hand."""
    query = (
        sa.select(deliveries.c.endpoint_id, sa.func.count())
        .where(deliveries.c.token.is_not(None), deliveries.c.endpoint_id.in_(endpoint_ids), deliveries.c.due_at > now)
        .group_by(deliveries.c.endpoint_id)
    )
    return {row[0]: row[1] for row in tx.execute(query)}


Place = tuple[str, str]
"""An endpoint and a subject: within it deliveries stay in order."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first delivery of a place that is not over."""

    delivery_id: str
    due_at: datetime
    lane: str


def heads(tx: Tx, places: Collection[Place], *, but: Collection[str] = ()) -> dict[Place, Head]:
    """The head of each place, where it has one; `but` are deliveries that are about to be over."""
    if not places:
        return {}
    first = (
        sa.select(sa.func.min(deliveries.c.id))
        .where(
            deliveries.c.state == DUE,
            deliveries.c.subject.is_not(None),
            sa.tuple_(deliveries.c.endpoint_id, deliveries.c.subject).in_(list(places)),
            deliveries.c.id.not_in(but),
        )
        .group_by(deliveries.c.endpoint_id, deliveries.c.subject)
    )
    shown = (deliveries.c.endpoint_id, deliveries.c.subject, deliveries.c.id, deliveries.c.due_at, deliveries.c.lane)
    rows = tx.execute(sa.select(*shown).where(deliveries.c.id.in_(first)))
    return {(row[0], row[1]): Head(row[2], row[3], row[4]) for row in rows}


def release(tx: Tx, over: Mapping[str, Place], now: datetime) -> list[Head]:
    """Let those that waited for the deliveries `over` (id → place) fall due at once; returns them."""
    nexts = list(heads(tx, set(over.values()), but=over).values())
    if nexts:
        # Only one that was never tried has waited for its turn: another is in the waits of its schedule.
        waiting = sa.update(deliveries).where(
            deliveries.c.id.in_([head.delivery_id for head in nexts]),
            deliveries.c.attempts == 0,
            deliveries.c.token.is_(None),
        )
        tx.execute(waiting.values(due_at=now))
    return nexts


def to_retry_lane(tx: Tx, ids: Collection[str]) -> None:
    """What failed does not stand in the way of first attempts again; what is replayed stays where it is."""
    if ids:
        tx.execute(
            sa.update(deliveries).where(among(tx, deliveries.c.id, ids), deliveries.c.lane == FRESH).values(lane=RETRY)
        )


HELD_LIMIT = 10_000
"""Where counting stops: it is for a person to read."""


def held_for(tx: Tx, endpoint_id: str) -> int:
    """How many deliveries are held for an endpoint, up to `HELD_LIMIT`."""
    held = sa.select(sa.literal(1)).where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == HELD)
    return int(tx.execute(sa.select(sa.func.count()).select_from(held.limit(HELD_LIMIT).subquery())).scalar_one())


class Letter(msgspec.Struct, frozen=True):
    """What is needed to send one delivery."""

    delivery_id: str
    merchant_id: str
    message_id: str
    endpoint: Endpoint
    number: int
    """Which attempt this is, from 1."""
    type: str
    body: bytes
    pruned: bool
    subject: str | None
    lane: str


def letters(tx: Tx, claimed: Sequence[Row]) -> list[Letter]:
    """The claimed deliveries, which carry their `endpoint`, with their messages."""
    if not claimed:
        return []
    query = sa.select(messages.c.id, messages.c.type, messages.c.body, messages.c.pruned_at)
    query = query.where(among(tx, messages.c.id, {row["message_id"] for row in claimed}))
    said = {row[0]: row for row in tx.execute(query)}
    found = []
    for row in claimed:
        _, event_type, body, pruned_at = said[row["message_id"]]
        found.append(
            Letter(
                row["id"],
                row["merchant_id"],
                row["message_id"],
                row["endpoint"],
                row["attempts"],
                event_type,
                bytes(body),
                pruned_at is not None,
                row["subject"],
                row["lane"],
            )
        )
    return found


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


def list_attempts(tx: Tx, delivery_ids: Collection[str], *, merchant_id: str) -> list[sa.RowMapping]:
    query = sa.select(delivery_attempts).where(
        delivery_attempts.c.delivery_id.in_(delivery_ids), delivery_attempts.c.merchant_id == merchant_id
    )
    return list(tx.execute(query.order_by(delivery_attempts.c.id)).mappings())
