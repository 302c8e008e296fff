"""What operators did, under their names: written in the transaction of what was done, and never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, metadata, new_id

operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),  # e.g. `dead_letter.discard`
    sa.Column("subject", sa.Text, nullable=False),  # the id of what it was done to, or a queue's name
    sa.Column("merchant_id", sa.Text),  # whose that is
    sa.Column("detail", sa.JSON, nullable=False),  # the reason, how many…
    sa.Index("ix_operator_actions_subject", "subject", "id"),
)


def note_action(
    tx: Tx,
    action: str,
    subject: str,
    *,
    by: str,
    now: datetime,
    merchant_id: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    row = {"id": new_id("act"), "at": now, "by": by, "action": action, "subject": subject}
    tx.execute(operator_actions.insert().values(**row, merchant_id=merchant_id, detail=detail or {}))


def list_actions(
    tx: Tx, *, subject: str | None = None, before: str | None = None, limit: int = 50
) -> list[sa.RowMapping]:
    """Newest first: of all, or what was done to one thing."""
    query = sa.select(operator_actions).order_by(operator_actions.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(operator_actions.c.subject == subject)
    if before is not None:
        query = query.where(operator_actions.c.id < before)
    return list(tx.execute(query).mappings())
