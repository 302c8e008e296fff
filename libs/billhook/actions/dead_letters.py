"""Replaying and discarding work that failed for good: what the desk, the console and the commands do alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from billhook.errors import Refused
from billhook.store import queues
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries


def replay_dead_letters(tx: Tx, letters: Iterable[sa.RowMapping], *, by: str, now: datetime) -> dict[str, list[str]]:
    """Do the work of these dead letters again; returns the ids to ring for, by bell. Raises `Refused`, and leaves all
    of them open, when one is of an endpoint that nothing is sent to."""
    rings: dict[str, list[str]] = {}
    for queue, work_ids in _by_queue(letters).items():
        if queue == deliveries.name and (cause := queues.stopped(tx, work_ids=work_ids)):
            raise Refused("endpoint_deleted" if cause[0].deleted else "endpoint_disabled", cause[0].reason)
        rings |= queues.replay(tx, queue, work_ids, by=by, now=now)
    return rings


def discard_dead_letters(tx: Tx, letters: Iterable[sa.RowMapping], *, by: str, now: datetime) -> int:
    """Close these dead letters for good; returns how many were open."""
    return sum(queues.discard(tx, queue, ids, by=by, now=now) for queue, ids in _by_queue(letters).items())


def _by_queue(letters: Iterable[sa.RowMapping]) -> dict[str, list[str]]:
    work_ids: dict[str, list[str]] = defaultdict(list)
    for letter in letters:
        work_ids[letter["queue"]].append(letter["work_id"])
    return work_ids
