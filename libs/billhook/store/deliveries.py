"""Deliveries: one message to one endpoint, and every attempt at it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.endpoints import endpoints
from billhook.store.messages import messages
from billhook.store.schema import Instant, merchant_column, metadata, new_id
from billhook.store.work import Row, due_index, work_columns

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("message_id", sa.Text, sa.ForeignKey("messages.id"), nullable=False),
    sa.Column("endpoint_id", sa.Text, sa.ForeignKey("endpoints.id"), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    *work_columns(),
    due_index("deliveries"),
    sa.UniqueConstraint("message_id", "endpoint_id"),
    sa.Index("ix_deliveries_merchant_id", "merchant_id", "id"),
    sa.Index("ix_deliveries_endpoint_id", "endpoint_id", "id"),
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
    sa.Index("ix_delivery_attempts_delivery_id", "delivery_id", "number"),
)


@dataclass(frozen=True, slots=True)
class Attempt:
    merchant_id: str
    delivery_id: str
    number: int
    started_at: datetime
    duration_ms: int
    outcome: str
    status_code: int | None
    error: str | None
    response: bytes


def add_deliveries(tx: Tx, wanted: Sequence[tuple[str, str, str]], now: datetime) -> list[str]:
    """Add a delivery for each (merchant, message, endpoint); returns their ids."""
    rows = [
        {
            "id": new_id("dlv"),
            "merchant_id": merchant_id,
            "message_id": message_id,
            "endpoint_id": endpoint_id,
            "created_at": now,
            "due_at": now,
        }
        for merchant_id, message_id, endpoint_id in wanted
    ]
    if rows:
        tx.execute(deliveries.insert(), rows)
    return [str(row["id"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Letter:
    """What is needed to send one delivery."""

    delivery_id: str
    merchant_id: str
    message_id: str
    endpoint_id: str
    number: int
    """Which attempt this is, from 1."""
    type: str
    body: bytes
    url: str
    secret: bytes
    disabled: bool


def letters(tx: Tx, claimed: Sequence[Row]) -> list[Letter]:
    """The claimed deliveries with their messages and endpoints, the endpoint as it is at this moment."""
    number = {row["id"]: row["attempts"] for row in claimed}
    query = (
        sa.select(
            deliveries.c.id,
            deliveries.c.merchant_id,
            deliveries.c.message_id,
            deliveries.c.endpoint_id,
            messages.c.type,
            messages.c.body,
            endpoints.c.url,
            endpoints.c.secret,
            endpoints.c.disabled_at,
        )
        .join(messages, messages.c.id == deliveries.c.message_id)
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(deliveries.c.id.in_(list(number)))
    )
    return [
        Letter(r[0], r[1], r[2], r[3], number[r[0]], r[4], bytes(r[5]), r[6], bytes(r[7]), r[8] is not None)
        for r in tx.execute(query)
    ]


def add_attempts(tx: Tx, attempts: Sequence[Attempt]) -> None:
    if attempts:
        tx.execute(
            delivery_attempts.insert(),
            [{"id": new_id("att"), **{field: getattr(a, field) for field in Attempt.__slots__}} for a in attempts],
        )


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
