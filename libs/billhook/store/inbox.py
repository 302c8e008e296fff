"""The inbox: every event as it came, bytes and all, before anything is made of it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from billhook.store import dead_letters
from billhook.store.bulk import among
from billhook.store.database import Run, Tx, insert_into, run_in
from billhook.store.schema import (
    Instant,
    id_at,
    merchant_column,
    metadata,
    new_id,
    partial_index,
    to_micros,
    trace_column,
)
from billhook.store.statements import as_json
from billhook.store.work import DEAD, DUE, due_index, work_columns

_DEAD = sa.text(f"state = '{DEAD}'")

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),  # JSON of what the signature needs, to verify it again
    sa.Column("body", sa.LargeBinary, nullable=False),  # the signed bytes, never re-serialised
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    trace_column(),
    *work_columns(),
    due_index("inbox"),
    # One event of one source is one row: this is what makes a second delivery a duplicate.
    sa.UniqueConstraint("source_id", "account", "external_id"),
    sa.Index("ix_inbox_merchant_id", "merchant_id", "id"),
    # What was given up is looked for again and again, and is little.
    partial_index("ix_inbox_dead", "source_id", "id", where=_DEAD),
)

inbox_conflicts = sa.Table(
    "inbox_conflicts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("inbox_id", sa.Text, sa.ForeignKey("inbox.id"), nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.UniqueConstraint("inbox_id", "sha256"),
    sa.Index("ix_inbox_conflicts_merchant_id", "merchant_id", "id"),
)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One verified event on its way into the inbox. (A struct: made for every request, in a tenth of the time of a
    dataclass.)"""

    id: str
    merchant_id: str
    source_id: str
    account: str
    external_id: str
    type: str
    headers: bytes
    body: bytes
    sha256: bytes
    received_at: datetime
    traceparent: str | None = None
    """Of the request it came with, where traces are wanted."""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.source_id, self.account, self.external_id)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of an arrival. `id` is the event's id in the inbox, also when it was there before."""

    id: str
    outcome: Literal["accepted", "duplicate", "conflict"]
    to_do: bool
    """Whether there is work to ring for."""


_COLUMNS = (
    "id, merchant_id, source_id, account, external_id, type, headers, body, sha256, received_at, traceparent, due_at"
)
_CONFLICT = "ON CONFLICT (source_id, account, external_id) DO NOTHING"
# One statement for the whole batch, its text the same for every batch size: PostgreSQL plans it once. One JSON for all
# columns but the bodies, since the driver takes longer over an array a column; `%b` sends those in binary: as text,
# every quote of every body would be escaped.
_INSERT_POSTGRESQL: Final = f"""
INSERT INTO inbox ({_COLUMNS})
SELECT id, merchant_id, source_id, account, external_id, type, decode(headers, 'base64'), body,
       decode(sha256, 'base64'), received_at, traceparent, %s
  FROM ROWS FROM (
    json_to_recordset(%s::json) AS (
      id text, merchant_id text, source_id text, account text, external_id text, type text, headers text, sha256 text,
      received_at timestamptz, traceparent text),
    unnest(%b::bytea[])
  ) AS one(id, merchant_id, source_id, account, external_id, type, headers, sha256, received_at, traceparent, body)
{_CONFLICT}
"""


def accept(tx: Tx, arrivals: Sequence[Arrival], now: datetime) -> list[Receipt]:
    """Store a batch of arrivals and say what became of each."""
    if not arrivals:
        return []
    if insert_new(run_in(tx), arrivals, now, sqlite=tx.dialect.name == "sqlite"):
        return [Receipt(a.id, "accepted", to_do=True) for a in arrivals]
    return _with_duplicates(tx, arrivals, now)


def insert_new(run: Run, arrivals: Sequence[Arrival], now: datetime, *, sqlite: bool) -> bool:
    """Store those that were not here before, in one statement; whether that was all of them."""
    if sqlite:
        stored = _insert_sqlite(run, arrivals, to_micros(now))
    else:
        # One order for all writers: two batches with the same events in other orders would wait for each other forever.
        ordered = sorted(arrivals, key=lambda a: a.key)
        rows = [
            {
                "id": a.id,
                "merchant_id": a.merchant_id,
                "source_id": a.source_id,
                "account": a.account,
                "external_id": a.external_id,
                "type": a.type,
                "headers": a.headers,
                "sha256": a.sha256,
                "received_at": a.received_at,
                "traceparent": a.traceparent,
            }
            for a in ordered
        ]
        stored = run(_INSERT_POSTGRESQL, (now, as_json(rows), [a.body for a in ordered])).rowcount
    return stored == len(arrivals)


ROWS_A_STATEMENT = 64
"""On SQLite. The driver lets go of the interpreter at every step, and a busy event loop gives it back half a
millisecond later: with a step a row, a batch of fifty would take 25 ms. Each size stays prepared, in 2 MB for all."""


@functools.cache
def _insert_statement(rows: int) -> str:
    row = f"({', '.join('?' * len(_COLUMNS.split(',')))})"
    return f"INSERT INTO inbox ({_COLUMNS}) VALUES {', '.join([row] * rows)} {_CONFLICT}"


def _insert_sqlite(run: Run, arrivals: Sequence[Arrival], due_at: int) -> int:
    stored = 0
    for start in range(0, len(arrivals), ROWS_A_STATEMENT):
        chunk = arrivals[start : start + ROWS_A_STATEMENT]
        values: list[Any] = []
        for a in chunk:
            values += (a.id, a.merchant_id, *a.key, a.type, a.headers, a.body, a.sha256)
            values += (to_micros(a.received_at), a.traceparent, due_at)
        stored += run(_insert_statement(len(chunk)), tuple(values)).rowcount
    return stored


def _with_duplicates(tx: Tx, arrivals: Sequence[Arrival], now: datetime) -> list[Receipt]:
    key = sa.tuple_(inbox.c.source_id, inbox.c.account, inbox.c.external_id)
    query = sa.select(
        inbox.c.source_id, inbox.c.account, inbox.c.external_id, inbox.c.id, inbox.c.sha256, inbox.c.state
    ).where(key.in_([a.key for a in arrivals]))
    known = {(row[0], row[1], row[2]): row for row in tx.execute(query)}
    receipts, conflicts, again = [], [], set()
    for arrival in arrivals:
        row = known[arrival.key]
        to_do = row.state in (DUE, DEAD)
        if row.id == arrival.id:
            receipts.append(Receipt(row.id, "accepted", to_do=True))
            continue
        # What came from a list of the provider's has no digest: it is no webhook's bytes, and in conflict with none.
        if bytes(row.sha256) == arrival.sha256 or not (row.sha256 and arrival.sha256):
            receipts.append(Receipt(row.id, "duplicate", to_do=to_do))
        else:
            receipts.append(Receipt(row.id, "conflict", to_do=to_do))
            conflicts.append((row.id, arrival))
        if to_do:
            again.add(row.id)
    _rearm(tx, again, now)
    _keep_conflicts(tx, conflicts)
    return receipts


def _rearm(tx: Tx, ids: set[str], now: datetime) -> None:
    """An event that is sent again before it was processed becomes due now, also if it was dead."""
    if not ids:
        return
    # Locked in one order, as everywhere, before two updates take them in whatever order they like.
    tx.execute(sa.select(inbox.c.id).where(inbox.c.id.in_(ids)).order_by(inbox.c.id).with_for_update())
    # A row that somebody holds keeps its lease; it is being worked on at this moment.
    tx.execute(
        sa.update(inbox)
        .where(inbox.c.id.in_(ids), inbox.c.state == DUE, inbox.c.token.is_(None), inbox.c.due_at > now)
        .values(due_at=now)
    )
    dead = tx.execute(
        sa.update(inbox)
        .where(inbox.c.id.in_(ids), inbox.c.state == DEAD)
        .values(state=DUE, due_at=now, attempts=0, finished_at=None)
        .returning(inbox.c.id)
    )
    dead_letters.resolve(tx, "inbox", list(dead.scalars()), "redelivered", "sender", now)


def _keep_conflicts(tx: Tx, conflicts: Sequence[tuple[str, Arrival]]) -> None:
    """Keep the other bytes, each once for its event, whoever else is keeping them at this moment."""
    rows = [
        {
            "id": new_id("cfl"),
            "merchant_id": arrival.merchant_id,
            "inbox_id": inbox_id,
            "headers": arrival.headers,
            "body": arrival.body,
            "sha256": arrival.sha256,
            "received_at": arrival.received_at,
        }
        for inbox_id, arrival in sorted(conflicts, key=lambda conflict: (conflict[0], conflict[1].sha256))
    ]
    if rows:
        tx.execute(insert_into(tx, inbox_conflicts).on_conflict_do_nothing(), rows)


def get_event(tx: Tx, event_id: str, *, merchant_id: str | None = None) -> sa.RowMapping | None:
    query = sa.select(inbox).where(inbox.c.id == event_id)
    if merchant_id is not None:
        query = query.where(inbox.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


def events_by_id(tx: Tx, ids: Collection[str]) -> list[sa.RowMapping]:
    """Whole, in the order in which they came."""
    return list(tx.execute(sa.select(inbox).where(among(tx, inbox.c.id, ids)).order_by(inbox.c.id)).mappings())


def inbox_ids(tx: Tx, source_id: str, external_id: str) -> list[str]:
    """The events of this name, of whatever account."""
    c = inbox.c
    query = sa.select(c.id).where(c.source_id == source_id, c.external_id == external_id)
    return list(tx.execute(query.order_by(c.id)).scalars())


def get_conflict(tx: Tx, conflict_id: str) -> sa.RowMapping | None:
    return tx.execute(sa.select(inbox_conflicts).where(inbox_conflicts.c.id == conflict_id)).mappings().first()


def conflict_counts(tx: Tx, since: datetime) -> dict[str, int]:
    """How many came since then, by source."""
    c = inbox_conflicts.c
    query = sa.select(inbox.c.source_id, sa.func.count()).join(inbox, inbox.c.id == c.inbox_id)
    query = query.where(c.id > id_at("cfl", since)).group_by(inbox.c.source_id)
    return {row[0]: row[1] for row in tx.execute(query)}


def list_events(
    tx: Tx,
    *,
    merchant_id: str | None = None,
    state: str | None = None,
    event_type: str | None = None,
    source_id: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[sa.RowMapping]:
    """Newest first, without bodies."""
    query = sa.select(*SHOWN).order_by(inbox.c.id.desc()).limit(limit)
    c = inbox.c
    asked = ((c.merchant_id, merchant_id), (c.state, state), (c.type, event_type), (c.source_id, source_id))
    for column, wanted in asked:
        if wanted is not None:
            query = query.where(column == wanted)
    if before is not None:
        query = query.where(inbox.c.id < before)
    return list(tx.execute(query).mappings())


def events_by_external_id(tx: Tx, external_id: str, sources: Collection[str], account: str = "") -> list[str]:
    """The events of these sources that have this id at their provider."""
    c = inbox.c
    mine = (c.source_id.in_(sources), c.account == account, c.external_id == external_id)
    return list(tx.execute(sa.select(c.id).where(*mine).order_by(c.id.desc()).limit(50)).scalars())


SHOWN = [column for column in inbox.c if column.name not in ("body", "headers")]
"""What lists show of an event."""


def list_conflicts(
    tx: Tx,
    event_id: str | None = None,
    *,
    merchant_id: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> list[sa.RowMapping]:
    """Other bytes that came under a known id, newest first: those of one event, or of all."""
    query = sa.select(inbox_conflicts).order_by(inbox_conflicts.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(inbox_conflicts.c.id < before)
    for column, wanted in ((inbox_conflicts.c.inbox_id, event_id), (inbox_conflicts.c.merchant_id, merchant_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    return list(tx.execute(query).mappings())
