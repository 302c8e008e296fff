"""All queues: each is a table whose rows are work, under the table's name. One list, for the relay and for repairs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from billhook.store import dead_letters, work
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.inbox import inbox

QUEUES: dict[str, sa.Table] = {table.name: table for table in (inbox, documents, deliveries)}


def replay(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> list[str]:
    """Do finished or dead work again, with a new budget of attempts. Returns the ids to ring for.

    Replaying processed work changes nothing: its effects are there, and they are written at most once.
    """
    revived = work.revive(tx, QUEUES[queue], ids, now)
    dead_letters.resolve(tx, queue, revived, "replayed", by, now)
    return revived


def discard(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> int:
    """Close dead letters without doing the work. The work's row stays dead, and the letter says who did this."""
    return dead_letters.resolve(tx, queue, ids, "discarded", by, now)
