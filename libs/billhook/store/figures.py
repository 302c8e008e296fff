"""What the console's overview shows of large tables, each by a question that is bounded whatever their size: ids are in
the order of time, so a span of time is a range of the primary key."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.dead_letters import dead_letters
from billhook.store.deliveries import delivery_attempts
from billhook.store.endpoints import Endpoint, endpoints
from billhook.store.inbox import inbox
from billhook.store.reconciliation import reconciliation_findings
from billhook.store.schema import id_at, instant_of
from billhook.store.sources import Source, sources

SAMPLE: Final = 1000
"""Rows that are counted of one span; where there are more, their number is worked out from how long the first took."""

MOST: Final = 1000
"""Where counting stops: it is for a person to read."""


@dataclass(frozen=True)
class Rate:
    """What happened in one span of time."""

    at: datetime
    count: float
    failed: float
    exact: bool


def received(tx: Tx, starts: Sequence[datetime], span: timedelta) -> list[Rate]:
    """Events that came in each of these spans."""
    return _rates(tx, inbox, "evt", starts, span, sa.false())


def attempted(tx: Tx, starts: Sequence[datetime], span: timedelta) -> list[Rate]:
    """Attempts at webhooks in each of these spans, and those of them that failed."""
    return _rates(tx, delivery_attempts, "att", starts, span, _FAILED)


_FAILED: Final = delivery_attempts.c.outcome != "2xx"


def _rates(
    tx: Tx,
    table: sa.Table,
    prefix: str,
    starts: Sequence[datetime],
    span: timedelta,
    failed: sa.ColumnElement[bool],
) -> list[Rate]:
    """By one question, however many spans there are."""
    if not starts:
        return []
    since = {f"since{place}": id_at(prefix, start) for place, start in enumerate(starts)}
    until = {f"until{place}": id_at(prefix, start + span) for place, start in enumerate(starts)}
    found = {row[0]: row[1:] for row in tx.execute(_counted(table, failed, len(starts)), {**since, **until})}
    return [_rate(start, span, *found[place]) for place, start in enumerate(starts)]


@functools.cache
def _counted(table: sa.Table, failed: sa.ColumnElement[bool], spans: int) -> sa.CompoundSelect[Any]:
    """Put together once for each number of spans: that costs more than the answer does."""
    return sa.union_all(*(_first_of_a_span(table, failed, place) for place in range(spans)))


def _first_of_a_span(table: sa.Table, failed: sa.ColumnElement[bool], place: int) -> sa.Select[Any]:
    column = table.c.id
    some = sa.select(column.label("id"), sa.case((failed, 1), else_=0).label("bad"))
    some = some.where(column >= sa.bindparam(f"since{place}"), column < sa.bindparam(f"until{place}"))
    first = some.order_by(column).limit(SAMPLE).subquery()
    bad = sa.func.coalesce(sa.func.sum(first.c.bad), 0)
    return sa.select(sa.literal_column(str(place), sa.Integer), sa.func.count(), bad, sa.func.max(first.c.id))


def _rate(start: datetime, span: timedelta, number: int, failed: int, last: str | None) -> Rate:
    if number < SAMPLE or last is None:
        return Rate(start, number, int(failed), True)
    taken = max((instant_of(last) - start).total_seconds(), 0.001)
    scale = max(1.0, span.total_seconds() / taken)
    return Rate(start, number * scale, int(failed) * scale, False)


def open_letters(tx: Tx, *, merchant_id: str | None = None) -> dict[str, int]:
    """Open dead letters by queue, counted up to `MOST` in all."""
    c = dead_letters.c
    query = sa.select(c.queue).where(c.resolved_at.is_(None))
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    some = query.limit(MOST).subquery()
    counted = sa.select(some.c.queue, sa.func.count()).group_by(some.c.queue).order_by(some.c.queue)
    return {row[0]: row[1] for row in tx.execute(counted)}


def troubled_endpoints(tx: Tx, *, limit: int = 20) -> list[Endpoint]:
    """Endpoints that are disabled, or to which nothing has arrived for a while."""
    e = endpoints.c
    found: dict[str, Endpoint] = {}
    for since in (e.disabled_at, e.failing_since):
        query = sa.select(endpoints).where(since.is_not(None), e.deleted_at.is_(None)).order_by(since.desc())
        found |= {row["id"]: Endpoint(**row) for row in tx.execute(query.limit(limit)).mappings()}
    return [*found.values()][:limit]


def warned_sources(tx: Tx, *, limit: int = 20) -> list[Source]:
    """Sources that something is wrong with."""
    query = sa.select(sources).where(sources.c.warning.is_not(None), sources.c.disabled_at.is_(None))
    return [Source(**row) for row in tx.execute(query.limit(limit)).mappings()]


def open_findings(tx: Tx) -> int:
    """Differences that wait for somebody, counted up to `MOST`."""
    some = sa.select(reconciliation_findings.c.id).where(sa.text("state IN ('confirmed', 'reopened')")).limit(MOST)
    return int(tx.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())


@dataclass(frozen=True)
class Window:
    """A part of a table that a search went through."""

    rows: list[sa.RowMapping]
    next: str | None
    """Behind which the search goes on; None: that was all there is."""
    searched_back_to: datetime | None
    """How far it got, where it found less than a page and there is more to go through."""


SEARCHED_AT_ONCE: Final = 20_000
"""Rows that one search looks at: tens of milliseconds, whatever is searched for."""


def search(
    tx: Tx,
    table: sa.Table,
    columns: Sequence[sa.ColumnElement[Any]],
    conditions: Sequence[sa.ColumnElement[bool]],
    *,
    before: str | None,
    after: str | None = None,
    limit: int,
    only: Sequence[sa.ColumnElement[bool]] = (),
) -> Window:
    """The newest rows of which `conditions` are true, among a bounded number of the rows below `before`. `only` are
    conditions that an index goes by (a merchant), `after` is where to stop."""
    c = table.c
    reach = [*only]
    if before is not None:
        reach.append(c.id < before)
    if after is not None:
        reach.append(c.id >= after)
    if not conditions:
        rows = list(tx.execute(sa.select(*columns).where(*reach).order_by(c.id.desc()).limit(limit + 1)).mappings())
        more = len(rows) > limit
        return Window(rows[:limit], rows[limit - 1]["id"] if more else None, None)
    ids = sa.select(c.id).where(*reach).order_by(c.id.desc())
    floor = tx.execute(ids.offset(SEARCHED_AT_ONCE).limit(1)).scalar()
    within = [*reach, *conditions, *(() if floor is None else (c.id >= floor,))]
    rows = list(tx.execute(sa.select(*columns).where(*within).order_by(c.id.desc()).limit(limit + 1)).mappings())
    if len(rows) > limit:
        return Window(rows[:limit], rows[limit - 1]["id"], None)
    return Window(rows, floor, None if floor is None else instant_of(floor))
