"""Retention: what is older than its time is deleted, a bounded number of rows a statement.

Each function is for a transaction of its own, so that writers never wait long. Several processes may prune at once:
what one of them has locked, the others leave to it.

A table is walked: so many rows at a time, each time behind the last. At a million that are old and have to stay, one
look would take seconds, and find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.rules.delivery import HELD
from billhook.rules.reconcile import OPEN
from billhook.store import dead_letters
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.documents import documents
from billhook.store.dunning_cases import dunning_cases, dunning_steps
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.links import hosted_links
from billhook.store.mails import mails
from billhook.store.messages import messages
from billhook.store.operator_actions import operator_actions
from billhook.store.publications import idempotency_keys
from billhook.store.reconciliation import reconciliation_findings, reconciliation_runs
from billhook.store.replays import replays
from billhook.store.schema import id_at
from billhook.store.work import DEAD, DUE

BATCH = 1000
"""Rows of one statement: some ten milliseconds."""

LOOKED_AT = 2_000
"""Rows of one step of a walk, whether they may go or not: some tens of milliseconds."""

MESSAGES_BATCH = 200
"""Each has a few deliveries to close, and a body of some kilobytes."""

EXPIRED = "expired"
"""A delivery that was held until its message's body was pruned, and the resolution of a dead letter of such a one."""

BY = "retention"
"""Who it was, in the trace that a dead letter keeps."""


@dataclass(frozen=True)
class Walked:
    """One step of a walk."""

    count: int
    """Of what was deleted."""
    last: str
    """The id to go on behind."""
    more: bool = False
    """Whether more is as old, behind it."""


def delete_attempts(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest attempts of before that time."""
    return _delete(tx, delivery_attempts, id_at("att", before), after)


def delete_events(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest events of before that time that are over, with what came under their ids, but for those with an
    open dead letter. Whoever sends one again after so long is taken for a sender of something new."""
    ids, walked = _oldest(tx, inbox, id_at("evt", before), after, inbox.c.state != DUE, _no_open_letter(inbox))
    if ids:
        tx.execute(sa.delete(inbox_conflicts).where(inbox_conflicts.c.inbox_id.in_(ids)))
        tx.execute(sa.delete(inbox).where(inbox.c.id.in_(ids)))
    return walked


def delete_deliveries(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest deliveries of before that time that are over, but for those with an open dead letter."""
    over = deliveries.c.state.not_in((DUE, HELD))
    return _delete(tx, deliveries, id_at("dlv", before), after, over, _no_open_letter(deliveries))


def delete_messages(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest messages of before that time whose bodies are gone and that nothing refers to any more."""

    def unnamed(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
        # With a limit, which PostgreSQL looks up row by row: NOT EXISTS it may answer from a hash of the whole table.
        named = sa.select(sa.literal(1)).where(column == messages.c.id).limit(1).correlate(messages)
        return named.scalar_subquery().is_(None)

    pruned = messages.c.pruned_at.is_not(None)
    unused = (unnamed(deliveries.c.message_id), unnamed(idempotency_keys.c.message_id))
    return _delete(tx, messages, id_at("msg", before), after, pruned, *unused)


def delete_mails(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest mails of before that time that were sent or given up."""
    return _delete(tx, mails, id_at("mail", before), after, mails.c.state != DUE, _no_open_letter(mails))


def delete_letters(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest dead letters of before that time that somebody dealt with."""
    letters = dead_letters.dead_letters
    return _delete(tx, letters, id_at("dlq", before), after, letters.c.resolved_at < before)


def delete_replays(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest replays of before that time that are over, but for those with an open dead letter."""
    return _delete(tx, replays, id_at("rpl", before), after, replays.c.state != DUE, _no_open_letter(replays))


def delete_runs(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest reconciliations of before that time that are over, but for those with an open dead letter."""
    runs = reconciliation_runs
    return _delete(tx, runs, id_at("rec", before), after, runs.c.state != DUE, _no_open_letter(runs))


def delete_findings(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest findings that nobody has to see to any more and no run has seen since before that time."""
    c = reconciliation_findings.c
    over = (c.state.not_in(OPEN), c.last_seen_at < before)
    return _delete(tx, reconciliation_findings, id_at("fnd", before), after, *over)


def delete_steps(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest steps of dunning cases that were closed before that time. The case says how it ended."""
    closed = sa.exists().where(dunning_cases.c.id == dunning_steps.c.case_id, dunning_cases.c.closed_at < before)
    return _delete(tx, dunning_steps, id_at("dstep", before), after, closed)


def delete_actions(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest entries of the audit log of before that time."""
    return _delete(tx, operator_actions, id_at("act", before), after)


def delete_links(tx: Tx, before: datetime, after: str = "") -> Walked:
    """Delete the oldest hosted links that expired before that time."""
    return _delete(tx, hosted_links, id_at("lnk", before), after, hosted_links.c.expires_at < before)


def old_documents(tx: Tx, before: datetime, after: str = "") -> tuple[list[tuple[str, str | None]], Walked]:
    """The oldest documents of before that time, with the names of their files, but for those of a younger one too."""
    c = documents.c
    ids, walked = _oldest(tx, documents, id_at("doc", before), after, c.state != DUE, _no_open_letter(documents))
    rows = tx.execute(sa.select(c.id, c.object_key).where(c.id.in_(ids)).order_by(c.id)).all()
    keys = {row.object_key for row in rows if row.object_key is not None}
    young = sa.select(c.object_key).where(c.object_key.in_(keys), c.id.not_in(ids))
    kept = set(tx.execute(young).scalars())
    return [(row.id, None if row.object_key in kept else row.object_key) for row in rows], walked


def delete_documents(tx: Tx, ids: Sequence[str]) -> None:
    """Delete the rows of documents whose files are gone."""
    if ids:
        tx.execute(sa.delete(documents).where(documents.c.id.in_(ids)))


def _no_open_letter(table: sa.Table) -> sa.ColumnElement[bool]:
    letters = dead_letters.dead_letters.c
    mine = sa.and_(letters.queue == table.name, letters.work_id == table.c.id, letters.resolved_at.is_(None))
    return sa.or_(table.c.state != DEAD, ~sa.exists().where(mine))


def _oldest(tx: Tx, table: sa.Table, end: str, after: str, *over: sa.ColumnElement[bool]) -> tuple[list[str], Walked]:
    """Those of the next rows that are over."""
    c = table.c.id
    behind = c > after
    last = tx.execute(sa.select(c).where(behind, c < end).order_by(c).offset(LOOKED_AT - 1).limit(1)).scalar()
    near = c < end if last is None else c <= last
    old = sa.select(c).where(behind, near, *over).order_by(c).limit(BATCH)
    ids = list(tx.execute(old.with_for_update(skip_locked=True, of=table)).scalars())
    if len(ids) == BATCH:
        return ids, Walked(BATCH, ids[-1], more=True)
    return ids, Walked(len(ids), max(after, last or end), more=last is not None)


def _delete(tx: Tx, table: sa.Table, end: str, after: str, *over: sa.ColumnElement[bool]) -> Walked:
    ids, walked = _oldest(tx, table, end, after, *over)
    if ids:
        tx.execute(sa.delete(table).where(table.c.id.in_(ids)))
    return walked


def prune_messages(tx: Tx, before: datetime, now: datetime, *, after: str = "") -> Walked:
    """Empty the bodies of the oldest messages of before that time, behind the message `after`. Those still on their way
    keep theirs until they are over. The rows stay: they keep an event from being announced twice."""
    columns, end = messages.c, id_at("msg", before)
    old = sa.select(columns.id).where(columns.pruned_at.is_(None), columns.id > after, columns.id < end)
    # Not a lock that somebody who adds a delivery of the message would wait for.
    old = old.order_by(columns.id).limit(MESSAGES_BATCH).with_for_update(skip_locked=True, key_share=True)
    found = list(tx.execute(old).scalars())
    under_way = sa.select(deliveries.c.message_id).where(deliveries.c.message_id.in_(found), deliveries.c.state == DUE)
    kept = set(tx.execute(under_way).scalars()) if found else set()
    over = [message_id for message_id in found if message_id not in kept]
    if over:
        tx.execute(sa.update(messages).where(columns.id.in_(over)).values(body=b"", pruned_at=now))
        close_deliveries(tx, over, now)
    more = len(found) == MESSAGES_BATCH
    return Walked(len(over), found[-1] if more else max(after, end), more)


def close_deliveries(tx: Tx, message_ids: list[str], now: datetime) -> None:
    """What was not delivered cannot be any more: held deliveries end, and the letters of dead ones are closed."""
    mine = deliveries.c.message_id.in_(message_ids)
    tx.execute(sa.update(deliveries).where(mine, deliveries.c.state == HELD).values(state=EXPIRED, finished_at=now))
    dead = list(tx.execute(sa.select(deliveries.c.id).where(mine, deliveries.c.state == DEAD)).scalars())
    for start in range(0, len(dead), BATCH):
        dead_letters.resolve(tx, deliveries.name, dead[start : start + BATCH], EXPIRED, BY, now)


def delete_idempotency_keys(tx: Tx, before: datetime) -> int:
    """Forget the oldest idempotency keys of before that time; returns how many."""
    key = (idempotency_keys.c.merchant_id, idempotency_keys.c.idempotency_key)
    made_at = idempotency_keys.c.created_at
    old = sa.select(made_at, *key).where(made_at < before).order_by(made_at)
    found = tx.execute(old.limit(BATCH).with_for_update(skip_locked=True)).all()
    if found:
        # The time as well: SQLite would look for so many pairs by walking through all of the table, or all that is old.
        oldest = made_at <= found[-1].created_at
        tx.execute(sa.delete(idempotency_keys).where(oldest, sa.tuple_(*key).in_([tuple(row[1:]) for row in found])))
    return len(found)
