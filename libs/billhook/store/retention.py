"""Retention: what is older than its time is deleted, a bounded number of rows a statement.

Each function is for a transaction of its own, so that writers never wait long. Several processes may prune at once:
what one of them has locked, the others leave to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.rules.delivery import HELD
from billhook.store import dead_letters
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.messages import messages
from billhook.store.publications import idempotency_keys
from billhook.store.schema import id_at
from billhook.store.work import DEAD, DUE

BATCH = 1000
"""Rows of one statement: some ten milliseconds."""

MESSAGES_BATCH = 200
"""Each has a few deliveries to close, and a body of some kilobytes."""

EXPIRED = "expired"
"""A delivery that was held until its message's body was pruned, and the resolution of a dead letter of such a one."""

BY = "retention"
"""Who it was, in the trace that a dead letter keeps."""


def delete_attempts(tx: Tx, before: datetime) -> int:
    """Delete the oldest attempts of before that time; returns how many."""
    # In two statements: where the inner of one has a LIMIT, PostgreSQL may run it more than once.
    column = delivery_attempts.c.id
    old = sa.select(column).where(column < id_at("att", before)).order_by(column).limit(BATCH)
    ids = list(tx.execute(old.with_for_update(skip_locked=True)).scalars())
    if ids:
        tx.execute(sa.delete(delivery_attempts).where(column.in_(ids)))
    return len(ids)


@dataclass(frozen=True)
class Pruned:
    count: int
    last: str | None
    """The message to go on behind; None: there was nothing more."""


def prune_messages(tx: Tx, before: datetime, now: datetime, *, after: str = "") -> Pruned:
    """Empty the bodies of the oldest messages of before that time, behind the message `after`. Those still on their way
    keep theirs until they are over. The rows stay: they keep an event from being announced twice."""
    columns = messages.c
    old = sa.select(columns.id).where(
        columns.pruned_at.is_(None), columns.id > after, columns.id < id_at("msg", before)
    )
    # Not a lock that somebody who adds a delivery of the message would wait for.
    old = old.order_by(columns.id).limit(MESSAGES_BATCH).with_for_update(skip_locked=True, key_share=True)
    found = list(tx.execute(old).scalars())
    if not found:
        return Pruned(0, None)
    under_way = sa.select(deliveries.c.message_id).where(deliveries.c.message_id.in_(found), deliveries.c.state == DUE)
    kept = set(tx.execute(under_way).scalars())
    over = [message_id for message_id in found if message_id not in kept]
    if over:
        tx.execute(sa.update(messages).where(columns.id.in_(over)).values(body=b"", pruned_at=now))
        _close(tx, over, now)
    return Pruned(len(over), found[-1] if len(found) == MESSAGES_BATCH else None)


def _close(tx: Tx, message_ids: list[str], now: datetime) -> None:
    """What was not delivered cannot be any more: held deliveries end, and the letters of dead ones are closed."""
    mine = deliveries.c.message_id.in_(message_ids)
    tx.execute(sa.update(deliveries).where(mine, deliveries.c.state == HELD).values(state=EXPIRED, finished_at=now))
    dead = list(tx.execute(sa.select(deliveries.c.id).where(mine, deliveries.c.state == DEAD)).scalars())
    for start in range(0, len(dead), BATCH):
        dead_letters.resolve(tx, deliveries.name, dead[start : start + BATCH], EXPIRED, BY, now)


def delete_idempotency_keys(tx: Tx, before: datetime) -> int:
    """Forget the oldest idempotency keys of before that time; returns how many."""
    key = (idempotency_keys.c.merchant_id, idempotency_keys.c.idempotency_key)
    old = sa.select(*key).where(idempotency_keys.c.created_at < before).order_by(idempotency_keys.c.created_at)
    found = [tuple(row) for row in tx.execute(old.limit(BATCH).with_for_update(skip_locked=True))]
    if found:
        tx.execute(sa.delete(idempotency_keys).where(sa.tuple_(*key).in_(found)))
    return len(found)
