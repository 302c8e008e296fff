"""All queues: each is a table whose rows are work, under the table's name. One list, for the relay and for repairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.rules.delivery import FRESH, LANES, REPLAY
from billhook.store import dead_letters, work
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, once_more
from billhook.store.documents import documents
from billhook.store.dunning_cases import dunning_cases
from billhook.store.inbox import inbox
from billhook.store.mails import mails
from billhook.store.payment_attempts import payment_attempts
from billhook.store.replays import replays

QUEUES: dict[str, sa.Table] = {
    table.name: table for table in (inbox, documents, deliveries, mails, replays, dunning_cases, payment_attempts)
}


@dataclass(frozen=True)
class Lane:
    """What one bell rings for: a queue, or a part of one that has consumers of its own."""

    table: sa.Table
    only: work.Only | None = None


def lane_name(lane: str) -> str:
    """The bell of a lane of the deliveries."""
    return deliveries.name if lane == FRESH else f"{deliveries.name}.{lane}"


BELLS: dict[str, Lane] = {
    **{name: Lane(table) for name, table in QUEUES.items() if table is not deliveries},
    **{lane_name(lane): Lane(deliveries, deliveries.c.lane == lane) for lane in LANES},
}


def replay(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> dict[str, list[str]]:
    """Do finished or dead work again, with a new budget of attempts. Returns the ids to ring for, by bell.

    Replaying processed work changes nothing: its effects are there, and they are written at most once.
    """
    again = once_more() if queue == deliveries.name else {}
    revived = work.revive(tx, QUEUES[queue], ids, now, **again)
    dead_letters.resolve(tx, queue, revived, "replayed", by, now)
    return {lane_name(REPLAY) if again else queue: revived}


def discard(tx: Tx, queue: str, ids: Collection[str], *, by: str, now: datetime) -> int:
    """Close dead letters without doing the work. The work's row stays dead, and the letter says who did this."""
    return dead_letters.resolve(tx, queue, ids, "discarded", by, now)
