"""Merchants' own templates. One never changes: another look is another template, so a document can be drawn again just
as it was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id

templates = sa.Table(
    "templates",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("retired_at", Instant),
    sa.Index("ix_templates_merchant_id", "merchant_id", "id"),
)


@dataclass(frozen=True)
class Template:
    id: str
    merchant_id: str
    name: str
    source: str
    created_at: datetime
    retired_at: datetime | None = None


def create_template(tx: Tx, merchant_id: str, name: str, source: str, now: datetime) -> Template:
    template = Template(new_id("tpl"), merchant_id, name, source, now)
    tx.execute(templates.insert().values(**vars(template)))
    return template


def get_template(tx: Tx, template_id: str, *, merchant_id: str | None = None) -> Template | None:
    """A template, retired or not: the documents that were made with it are drawn with it."""
    query = sa.select(templates).where(templates.c.id == template_id)
    if merchant_id is not None:
        query = query.where(templates.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Template(**row) if row else None


def list_templates(tx: Tx, merchant_id: str | None, *, after: str = "", limit: int = 50) -> list[Template]:
    """Those in use, of one merchant or of all."""
    query = sa.select(templates).where(templates.c.id > after, templates.c.retired_at.is_(None))
    if merchant_id is not None:
        query = query.where(templates.c.merchant_id == merchant_id)
    return [Template(**row) for row in tx.execute(query.order_by(templates.c.id).limit(limit)).mappings()]


def retire_template(tx: Tx, template_id: str, now: datetime, *, merchant_id: str | None = None) -> bool:
    """Offer it for nothing new; True if it was in use until now."""
    retire = sa.update(templates).where(templates.c.id == template_id, templates.c.retired_at.is_(None))
    if merchant_id is not None:
        retire = retire.where(templates.c.merchant_id == merchant_id)
    return tx.execute(retire.values(retired_at=now)).rowcount == 1
