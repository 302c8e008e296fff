"""Work that is a row: due at a time, claimed under a lease, settled once.

A subject whose rows are work (inbox, deliveries, documents) adds `work_columns()` to its table. The rules are the same
for all of them:

- `state = 'due'` is work; every other state is its end (`dead`: a person has to look).
- A claim counts as an attempt, moves `due_at` to the end of the lease and writes a fresh `token`. A worker that dies
  leaves a row that falls due again; one that was slower than its lease finds another token and settles nothing.
- The lease is `due_at` itself, so one partial index finds retries, schedules and expired leases alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.store import bulk
from billhook.store.bulk import update_many
from billhook.store.database import Run, Tx
from billhook.store.queue_pauses import running
from billhook.store.schema import Instant, as_instant, new_id, partial_index
from billhook.store.statements import Statement, among, is_

CLOCK_SKEW = timedelta(milliseconds=250)
"""What is rung for is due by the clock of whoever rang. A consumer whose own clock is a little behind would leave it to
the relay, half a second later; no lease and no retry is so short that this could matter to it."""

DUE = "due"
DEAD = "dead"


def work_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("state", sa.Text, nullable=False, server_default=DUE),
        sa.Column("due_at", Instant, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("token", sa.Text),
        sa.Column("last_error", sa.Text),
        sa.Column("finished_at", Instant),
    ]


def due_index(table: str, *before: str) -> sa.Index:
    """Only work that is still to do: the index stays small however many rows are finished. `before` are columns that
    consumers always ask for too."""
    condition = sa.text(f"state = '{DUE}'")
    return partial_index(f"ix_{table}_due", *before, "due_at", where=condition)


Row = Mapping[str, Any]
"""A claimed row: its columns, with `attempts` counting this claim and `due_at` still saying since when it was due."""


@dataclass(frozen=True)
class Claim:
    """Rows that are ours until the lease ends."""

    token: str
    rows: list[Row]
    worn_out: list[Row]
    """Rows claimed `max_attempts` times and never settled: whoever took them died. They are to be given up."""


Only = sa.ColumnElement[bool]
"""A part of a table's work."""

Admit = Callable[[Tx, Sequence[Row]], Sequence[Row]]
"""Which of the due rows found are to be taken now. What it leaves stays due; it may `defer` that."""


def claim(
    tx: Tx,
    table: sa.Table,
    *,
    ids: Collection[str] | None,
    limit: int,
    only: Only | None = None,
    admit: Admit | None = None,
    max_attempts: int,
    now: datetime,
    lease: timedelta,
) -> Claim:
    """Take due rows: those among `ids`, or with None the ones that have been due for longest."""
    looked_for: dict[str, Any] = {"horizon": now if ids is None else now + CLOCK_SKEW, "limit": limit}
    if ids is not None:
        looked_for["ids"] = [*ids]
    token = new_id("tok")
    taking = {"taken_by": token, "until": now + lease}
    if admit is None and tx.dialect.name != "sqlite":
        # In one round trip. SQLite's UPDATE cannot be part of a question, and there it costs nothing but a call.
        found = _found(tx, _found_and_taken, table, only, looked_for, taking)
    else:
        found = _found(tx, _found_due, table, only, looked_for, {})
        if found and admit is not None:
            found = admit(tx, found)
        if found:
            _taking(table).run(tx, ids=[row["id"] for row in found], **taking)
    rows: list[Row] = [{**row, "attempts": row["attempts"] + 1} for row in sorted(found, key=lambda row: row["id"])]
    alive = [row for row in rows if row["attempts"] <= max_attempts]
    return Claim(token, alive, [row for row in rows if row["attempts"] > max_attempts])


Search = Callable[[sa.Table, Only | None, bool, bool], sa.Select[*tuple[Any, ...]]]


def _found(
    tx: Tx,
    search: Search,
    table: sa.Table,
    only: Only | None,
    looked_for: Mapping[str, Any],
    taking: Mapping[str, Any],
) -> Sequence[Row]:
    """As plain dictionaries: every field of every row is read several times on the way, and SQLAlchemy's mappings look
    each of them up by way of its column."""
    names, given = table.c.keys(), {**looked_for, **taking}
    if only is None:
        rows = _searching(search, table, "ids" in looked_for).rows(tx, **given)
    else:  # which may be another condition each time
        rows = tx.execute(search(table, only, "ids" in looked_for, tx.dialect.name == "sqlite"), given).all()
    return [dict(zip(names, row, strict=True)) for row in rows]


@functools.cache
def _searching(search: Search, table: sa.Table, by_id: bool) -> Statement:
    return Statement(lambda sqlite: search(table, None, by_id, sqlite))


def _found_due(table: sa.Table, only: Only | None, by_id: bool, sqlite: bool) -> sa.Select[*tuple[Any, ...]]:
    at = sa.bindparam("horizon", type_=Instant)
    due = sa.select(table).where(is_(table.c.state, DUE), table.c.due_at <= at, running(table.name), *_given(only))
    due = due.where(among(table.c.id, "ids", sqlite)) if by_id else due.order_by(table.c.due_at)
    # SKIP LOCKED (PostgreSQL; SQLite has one writer anyway): two workers never wait for each other's rows.
    return due.limit(sa.bindparam("limit", type_=sa.Integer)).with_for_update(skip_locked=True)


def _found_and_taken(table: sa.Table, only: Only | None, by_id: bool, sqlite: bool) -> sa.Select[*tuple[Any, ...]]:
    due = _found_due(table, only, by_id, sqlite).cte("all_due")
    return sa.select(due).add_cte(_taken(table).where(table.c.id == due.c.id).cte("taken"))


def _taken(table: sa.Table) -> sa.Update:
    token, until = sa.bindparam("taken_by", type_=sa.Text), sa.bindparam("until", type_=Instant)
    return sa.update(table).values(attempts=table.c.attempts + 1, token=token, due_at=until)


@functools.cache
def _taking(table: sa.Table) -> Statement:
    return Statement(lambda sqlite: _taken(table).where(among(table.c.id, "ids", sqlite)))


def lock_claimed(tx: Tx, table: sa.Table, tokens: Mapping[str, str]) -> set[str]:
    """Which of the rows are still ours under their tokens (id → token), locked until the transaction ends. Effects are
    written for these alone: a worker that lost the lease settles nothing."""
    return {row_id for row_id, token in _locking(table).rows(tx, ids=[*tokens]) if token == tokens[row_id]}


@functools.cache
def _locking(table: sa.Table) -> Statement:
    # Sorted, as everywhere: transactions that lock the same rows wait for each other but never deadlock.
    return Statement(
        lambda sqlite: (
            sa.select(table.c.id, table.c.token)
            .where(among(table.c.id, "ids", sqlite), is_(table.c.state, DUE))
            .order_by(table.c.id)
            .with_for_update()
        )
    )


def finish(tx: Tx, table: sa.Table, ids: Collection[str], state: str, now: datetime) -> None:
    """End rows that are locked (`lock_claimed`)."""
    if ids:
        _finishing(table).run(tx, ids=[*ids], end=state, now=now)


@functools.cache
def _finishing(table: sa.Table) -> Statement:
    end, now = sa.bindparam("end", type_=sa.Text), sa.bindparam("now", type_=Instant)
    return Statement(
        lambda sqlite: (
            sa.update(table)
            .where(among(table.c.id, "ids", sqlite))
            .values(state=end, token=sa.null(), last_error=sa.null(), finished_at=now)
        )
    )


def give_up(tx: Tx, table: sa.Table, rows: Sequence[tuple[str, str]], now: datetime) -> None:
    """Mark rows that are locked (`lock_claimed`) as dead, each with its reason. The caller writes the dead letters."""
    marked = [{"id": row_id, "last_error": error} for row_id, error in rows]
    update_many(tx, table, marked, state=DEAD, token=None, finished_at=now)


def defer_claimed(tx: Tx, table: sa.Table, rows: Sequence[tuple[str, datetime, str]], *, counted: bool = True) -> None:
    """Let rows that are locked (`lock_claimed`) fall due again at their times, each with the error to show. Not
    `counted`: the claim was no attempt."""
    if not rows:
        return
    put_off = [{"id": row_id, "due_at": at, "last_error": error} for row_id, at, error in rows]
    update_many(tx, table, put_off, token=None, attempts=table.c.attempts - int(not counted))


def defer(tx: Tx, table: sa.Table, rows: Sequence[tuple[str, datetime]]) -> None:
    """Let due rows that this transaction has locked fall due later. They were not claimed, so no attempt is counted."""
    update_many(tx, table, [{"id": row_id, "due_at": at} for row_id, at in rows])


def renew(tx: Tx, table: sa.Table, tokens: Mapping[str, str], until: datetime) -> None:
    """Extend the leases of rows that are still ours under their tokens (id → token)."""
    held = sa.select(table.c.id, table.c.token).where(bulk.among(tx, table.c.id, tokens), table.c.state == DUE)
    # A row that is locked is being settled at this moment. Waiting for it, in another order, could deadlock.
    rows = tx.execute(held.with_for_update(skip_locked=True))
    ours = [row_id for row_id, token in rows if token == tokens[row_id]]
    if ours:
        tx.execute(sa.update(table).where(bulk.among(tx, table.c.id, ours)).values(due_at=until))


def due_ids(tx: Tx, table: sa.Table, *, now: datetime, limit: int, only: Only | None = None) -> list[str]:
    """The longest-due rows that nobody holds, of a queue that is not paused."""
    query = sa.select(table.c.id).where(table.c.state == DUE, table.c.due_at <= now, running(table.name), *_given(only))
    return list(tx.execute(query.order_by(table.c.due_at).limit(limit)).scalars())


class FirstDue:
    """When the first work of each of these queues falls due, be it held by somebody or not: one question, for nothing
    is due most of the time. Its statement is made once, as text: to make it takes ten times as long as to answer it."""

    def __init__(self, parts: Mapping[str, tuple[sa.Table, Only | None]], dialect: sa.Dialect) -> None:
        query = sa.select(*(_first_due(table, only) for table, only in parts.values()))
        self._names = list(parts)
        self._statement = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))

    def ask(self, run: Run) -> dict[str, datetime]:
        [found] = run(self._statement, ()).fetchall()
        return {name: as_instant(at) for name, at in zip(self._names, found, strict=True) if at is not None}


def next_due(tx: Tx, table: sa.Table) -> datetime | None:
    """When the next row falls due, be it held by somebody or not."""
    return tx.execute(sa.select(_first_due(table, None))).scalar()


def _first_due(table: sa.Table, only: Only | None) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.min(table.c.due_at)).where(table.c.state == DUE, *_given(only)).scalar_subquery()


def _given(only: Only | None) -> tuple[Only, ...]:
    return () if only is None else (only,)


MOST_AHEAD = timedelta(seconds=5)
"""How far clocks may differ before anybody minds."""

LONGEST_LEASE = timedelta(minutes=2)
"""Twice the longest that any queue gives."""

PUT_RIGHT_AT_ONCE = 1_000


def put_right(tx: Tx, table: sa.Table, mistimed: Callable[[datetime], Only], now: datetime, only: Only | None) -> int:
    """Let fall due what a clock that was ahead put off too far: it has been set back since, and the work would wait
    until the time has passed once more. Leases end after `LONGEST_LEASE`. Returns how many rows that were."""
    at = now + MOST_AHEAD
    held = table.c.token.is_not(None)
    wrong = sa.or_(
        sa.and_(held, table.c.due_at > at + LONGEST_LEASE),
        sa.and_(~held, mistimed(at)),
    )
    late = sa.select(table.c.id, table.c.token).where(table.c.state == DUE, table.c.due_at > at, wrong, *_given(only))
    rows = tx.execute(late.limit(PUT_RIGHT_AT_ONCE).with_for_update(skip_locked=True)).all()
    defer(tx, table, [(row_id, now if token is None else now + LONGEST_LEASE) for row_id, token in rows])
    return len(rows)


@dataclass(frozen=True)
class Backlog:
    """The state of one queue. Counts stop somewhere: a measurement must not scan a table."""

    ready: int
    running: int
    scheduled: int
    expired_leases: int
    oldest_ready_seconds: float


COUNT_LIMIT = 100_000

QueuePart = tuple[sa.Table, Only | None]
"""A queue, or a part of one."""


def backlogs(tx: Tx, parts: Sequence[QueuePart], *, now: datetime, most: int = COUNT_LIMIT) -> list[Backlog]:
    """The state of each, counted up to `most`, by one question: two walks for each along the index of what is due, both
    from the row that is due first."""
    found = {row[0]: row[1:] for row in tx.execute(_walks(tuple(parts), most), {"now": now})}
    return [_backlog(found[2 * place], found[2 * place + 1], now) for place in range(len(parts))]


def _backlog(due: Sequence[Any], later: Sequence[Any], now: datetime) -> Backlog:
    return Backlog(
        ready=due[0],
        running=later[1],
        scheduled=later[0] - later[1],
        expired_leases=due[1],
        oldest_ready_seconds=(now - due[2]).total_seconds() if due[2] else 0.0,
    )


@functools.cache
def _walks(parts: tuple[QueuePart, ...], most: int) -> sa.CompoundSelect[int, int, int, Any]:
    """How many rows, how many of them under a lease, and since when the first: of what is due, then of what is later.
    Put together once: that costs more than the answer does."""
    places = enumerate((part, due) for part in parts for due in (True, False))
    return sa.union_all(*(_walk(place, *part, due=due, most=most) for place, (part, due) in places))


def _walk(place: int, table: sa.Table, only: Only | None, *, due: bool, most: int) -> sa.Select[int, int, int, Any]:
    now = sa.bindparam("now", type_=Instant)
    rows = sa.select(table.c.due_at, table.c.token).where(table.c.state == DUE, *_given(only))
    rows = rows.where(table.c.due_at <= now if due else table.c.due_at > now)
    first = rows.order_by(table.c.due_at).limit(most).subquery()
    number: sa.ColumnElement[int] = sa.literal_column(str(place), sa.Integer)
    return sa.select(number, sa.func.count(), sa.func.count(first.c.token), sa.func.min(first.c.due_at))


def revive(tx: Tx, table: sa.Table, ids: Collection[str], now: datetime, **values: Any) -> list[str]:
    """Make finished or dead rows due again, with a new budget of attempts and these `values`. Returns the ids that were
    not due."""
    revived = tx.execute(
        sa.update(table)
        .where(table.c.id.in_(ids), table.c.state != DUE)
        .values(state=DUE, due_at=now, attempts=0, token=None, finished_at=None, **values)
        .returning(table.c.id)
    )
    return list(revived.scalars())
