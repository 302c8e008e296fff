"""Endpoints: where a merchant wants its messages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("event_types", sa.JSON, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_reason", sa.Text),
    sa.Index("ix_endpoints_merchant_id", "merchant_id", "id"),
)


@dataclass(frozen=True)
class Endpoint:
    id: str
    merchant_id: str
    url: str
    description: str
    event_types: list[str]
    """Names or patterns such as `invoice.*`; see `billhook.rules.delivery.wants`."""
    secret: bytes
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


def create_endpoint(
    tx: Tx, merchant_id: str, url: str, event_types: list[str], secret: bytes, now: datetime, *, description: str = ""
) -> Endpoint:
    endpoint = Endpoint(new_id("ep"), merchant_id, url, description, event_types, secret, now, None, None)
    tx.execute(endpoints.insert().values(**vars(endpoint)))
    return endpoint


def get_endpoint(tx: Tx, endpoint_id: str, *, merchant_id: str | None = None) -> Endpoint | None:
    query = sa.select(endpoints).where(endpoints.c.id == endpoint_id)
    if merchant_id is not None:
        query = query.where(endpoints.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Endpoint(**row) if row else None


def list_endpoints(
    tx: Tx, merchant_id: str | None = None, *, after: str = "", limit: int | None = None
) -> list[Endpoint]:
    query = sa.select(endpoints).where(endpoints.c.id > after).order_by(endpoints.c.id).limit(limit)
    if merchant_id is not None:
        query = query.where(endpoints.c.merchant_id == merchant_id)
    return [Endpoint(**row) for row in tx.execute(query).mappings()]


def listening(tx: Tx, merchant_ids: Collection[str]) -> list[Endpoint]:
    """The enabled endpoints of these merchants."""
    query = sa.select(endpoints).where(endpoints.c.merchant_id.in_(merchant_ids), endpoints.c.disabled_at.is_(None))
    return [Endpoint(**row) for row in tx.execute(query.order_by(endpoints.c.id)).mappings()]


def set_disabled(tx: Tx, endpoint_id: str, at: datetime | None, reason: str | None) -> None:
    """Stop sending to an endpoint, with the reason; None enables it again."""
    tx.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(disabled_at=at, disabled_reason=reason))
