"""Queues that a person has stopped. Nothing of a paused queue is claimed until it is resumed; what is in hand is
finished, and new work gathers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, metadata

queue_pauses = sa.Table(
    "queue_pauses",
    metadata,
    sa.Column("queue", sa.Text, primary_key=True),  # a table of work
    sa.Column("paused_at", Instant, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Pause:
    queue: str
    paused_at: datetime
    paused_by: str
    reason: str


def running(queue: str) -> sa.ColumnElement[bool]:
    """Whether a queue is not paused: a condition that the database looks up once a statement."""
    return ~sa.exists(sa.select(sa.literal(1)).where(queue_pauses.c.queue == queue))


def is_running(queue: str) -> str:
    """The same, for statements that are written as text."""
    return f"NOT EXISTS (SELECT 1 FROM queue_pauses WHERE queue = '{queue}')"


def pause(tx: Tx, queue: str, reason: str, now: datetime, *, by: str) -> bool:
    """Stop a queue; False where it is stopped already."""
    row = {"queue": queue, "paused_at": now, "paused_by": by, "reason": reason}
    statement = insert_into(tx, queue_pauses).values(row).on_conflict_do_nothing().returning(queue_pauses.c.queue)
    return tx.execute(statement).first() is not None


def resume(tx: Tx, queue: str) -> bool:
    """Let it go on; False where it was not stopped."""
    return tx.execute(sa.delete(queue_pauses).where(queue_pauses.c.queue == queue)).rowcount == 1


def paused(tx: Tx) -> dict[str, Pause]:
    return {row["queue"]: Pause(**row) for row in tx.execute(sa.select(queue_pauses)).mappings()}
