"""Dead letters: work that failed for good, with its reason, until a person replays or discards it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index

_OPEN = sa.text("resolved_at IS NULL")

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("work_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("resolved_at", Instant),
    sa.Column("resolution", sa.Text),  # replayed, discarded, redelivered, expired
    sa.Column("resolved_by", sa.Text),
    # One open letter for one piece of work; the resolved ones stay as its history.
    partial_index("uq_dead_letters_open", "queue", "work_id", where=_OPEN, unique=True),
    # Pages of the open ones, which are few among all that there ever were.
    partial_index("ix_dead_letters_open", "id", where=_OPEN),
    partial_index("ix_dead_letters_open_of_merchant", "merchant_id", "id", where=_OPEN),
)


@dataclass(frozen=True)
class DeadLetter:
    merchant_id: str
    work_id: str
    reason: str
    attempts: int


def bury(tx: Tx, queue: str, letters: Sequence[DeadLetter], now: datetime) -> None:
    """Insert dead letters. The caller has just set the rows of the work itself to `dead`."""
    if letters:
        tx.execute(
            dead_letters.insert(),
            [{"id": new_id("dlq"), "queue": queue, "created_at": now, **vars(letter)} for letter in letters],
        )


def resolve(tx: Tx, queue: str, work_ids: Collection[str], resolution: str, by: str, now: datetime) -> int:
    """Close the open letters of these pieces of work, with a trace of who and why."""
    if not work_ids:
        return 0
    closed = tx.execute(
        sa.update(dead_letters)
        .where(
            dead_letters.c.queue == queue, dead_letters.c.work_id.in_(work_ids), dead_letters.c.resolved_at.is_(None)
        )
        .values(resolved_at=now, resolution=resolution, resolved_by=by)
    )
    return closed.rowcount


def list_dead(
    tx: Tx,
    *,
    merchant_id: str | None = None,
    queue: str | None = None,
    before: str | None = None,
    limit: int = 100,
    only: sa.ColumnElement[bool] = sa.true(),  # noqa: B008
) -> list[sa.RowMapping]:
    """The open letters, newest first; `only` those of which it is true."""
    query = sa.select(dead_letters).where(dead_letters.c.resolved_at.is_(None), only)
    query = query.order_by(dead_letters.c.id.desc())
    if merchant_id is not None:
        query = query.where(dead_letters.c.merchant_id == merchant_id)
    if queue is not None:
        query = query.where(dead_letters.c.queue == queue)
    if before is not None:
        query = query.where(dead_letters.c.id < before)
    return list(tx.execute(query.limit(limit)).mappings())


def get_dead(tx: Tx, dead_letter_id: str, *, merchant_id: str | None = None) -> sa.RowMapping | None:
    """A letter, open or resolved."""
    query = sa.select(dead_letters).where(dead_letters.c.id == dead_letter_id)
    if merchant_id is not None:
        query = query.where(dead_letters.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


def open_letter(tx: Tx, queue: str, work_id: str) -> sa.RowMapping | None:
    """The open letter of a piece of work."""
    c = dead_letters.c
    query = sa.select(dead_letters).where(c.queue == queue, c.work_id == work_id, c.resolved_at.is_(None))
    return tx.execute(query).mappings().first()


def reason_holds(text: str | None) -> sa.ColumnElement[bool]:
    """That a letter's reason holds this text, in capitals or not; None: any."""
    return sa.true() if text is None else dead_letters.c.reason.icontains(text, autoescape=True)


def named(ids: Collection[str]) -> sa.ColumnElement[bool]:
    """That a letter is one of these."""
    return dead_letters.c.id.in_(ids)
