"""Attempts to collect an invoice. The row and its idempotency key are committed before the provider is called, and at
most one attempt for an invoice is under way: a partial unique index enforces that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.rules.payment_attempts import IN_FLIGHT, Status, Trigger
from billhook.store.bulk import among
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata, partial_index, trace_column
from billhook.store.work import DUE, due_index, work_columns

_UNDER_WAY = sa.text(f"status IN ({', '.join(repr(status) for status in IN_FLIGHT)})")

payment_attempts = sa.Table(
    "payment_attempts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("case_id", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),  # whose API is called
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("invoice_id", sa.Text, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),  # of `billhook.rules.payment_attempts`
    sa.Column("number", sa.Integer, nullable=False),  # of the case, from 1
    sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("reference", sa.Text),  # the provider's id of the payment
    sa.Column("action_url", sa.Text),
    sa.Column("sends", sa.Integer, nullable=False),  # how often it went out, under its one key
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text),
    sa.Column("submitted_at", Instant),  # for the first time
    sa.Column("slot_at", Instant),  # when it is planned to be taken in hand
    trace_column(),
    *work_columns(),
    due_index("payment_attempts"),
    partial_index("uq_payment_attempts_in_flight", "invoice_id", where=_UNDER_WAY, unique=True),
    sa.Index("ix_payment_attempts_case_id", "case_id", "id"),
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    id: str
    merchant_id: str
    case_id: str
    source_id: str
    account: str
    invoice_id: str
    trigger: Trigger
    number: int
    idempotency_key: str
    status: Status
    amount: int
    currency: str
    code: str | None = None
    message: str | None = None
    reference: str | None = None
    action_url: str | None = None
    sends: int = 0
    asked: int = 0
    created_at: datetime
    created_by: str | None = None
    submitted_at: datetime | None = None
    traceparent: str | None = None


_FIELDS = tuple(Attempt.__dataclass_fields__)
_COLUMNS = [payment_attempts.c[name] for name in _FIELDS]


def attempt_of(row: Any) -> Attempt:
    return Attempt(**{name: row[name] for name in _FIELDS})


def add_attempt(tx: Tx, attempt: Attempt) -> bool:
    """Add it, due at once; False where one of this invoice is under way."""
    values = {**vars(attempt), "due_at": attempt.created_at, "state": DUE}
    statement = insert_into(tx, payment_attempts).values(**values).on_conflict_do_nothing()
    return tx.execute(statement.returning(payment_attempts.c.id)).first() is not None


def change_attempt(tx: Tx, attempt_id: str, **changes: Any) -> None:
    """The caller holds the row."""
    change_attempts(tx, {attempt_id: changes})


def change_attempts(tx: Tx, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """The same for many. Those that change the same columns are sent together."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for attempt_id, values in changes.items():
        alike[tuple(values)].append({"row_id": attempt_id, **{f"new_{name}": one for name, one in values.items()}})
    c = payment_attempts.c
    for names, rows in alike.items():
        new = {name: sa.bindparam(f"new_{name}", type_=c[name].type) for name in names}
        tx.execute(sa.update(payment_attempts).where(c.id == sa.bindparam("row_id")).values(new), rows)


def submit(tx: Tx, attempt_ids: Collection[str], now: datetime) -> None:
    """Mark what is about to be sent. From here on its outcome is unknown until the provider has told it."""
    if attempt_ids:
        c = payment_attempts.c
        first = sa.func.coalesce(c.submitted_at, sa.bindparam("first_sent", now, type_=Instant))
        tx.execute(
            sa.update(payment_attempts)
            .where(among(tx, c.id, attempt_ids))
            .values(status="submitted", sends=c.sends + 1, submitted_at=first)
        )


def in_flight(tx: Tx, case_ids: Collection[str]) -> dict[str, str]:
    """The attempts under way of these cases: case → the state of the attempt's work (`dead`: no worker will continue
    it)."""
    c = payment_attempts.c
    query = sa.select(c.case_id, c.state).where(among(tx, c.case_id, case_ids), c.status.in_(IN_FLIGHT))
    return {row.case_id: row.state for row in tx.execute(query)}


def attempts_of(tx: Tx, case_id: str) -> list[Attempt]:
    query = sa.select(*_COLUMNS).where(payment_attempts.c.case_id == case_id).order_by(payment_attempts.c.id)
    return [attempt_of(row) for row in tx.execute(query).mappings()]


def count_attempts(tx: Tx, case_id: str) -> int:
    query = sa.select(sa.func.count()).select_from(payment_attempts).where(payment_attempts.c.case_id == case_id)
    return int(tx.execute(query).scalar_one())


def ask_soon(tx: Tx, invoice_ids: Collection[str], now: datetime) -> list[str]:
    """Make the attempts at these invoices whose outcome is unknown due at once, so that the provider is asked. One that
    is being settled at this moment is left alone: waiting for its lock here could deadlock."""
    c = payment_attempts.c
    mine = sa.select(c.id).where(
        among(tx, c.invoice_id, invoice_ids), c.status.in_(("unknown", "requires_action")), c.state == DUE
    )
    found = list(tx.execute(mine.order_by(c.id).with_for_update(skip_locked=True)).scalars())
    if found:
        tx.execute(sa.update(payment_attempts).where(among(tx, c.id, found)).values(due_at=now, token=None))
    return found


def put_in_turn(tx: Tx, turns: Sequence[tuple[str, datetime, datetime]]) -> None:
    """Defer due rows that this transaction has locked: each row's id, its planned turn at the provider, and when it
    falls due for that."""
    if turns:
        tx.execute(
            sa.update(payment_attempts)
            .where(payment_attempts.c.id == sa.bindparam("row_id"))
            .values(due_at=sa.bindparam("due"), slot_at=sa.bindparam("turn")),
            [{"row_id": row_id, "turn": turn, "due": due} for row_id, turn, due in turns],
        )
