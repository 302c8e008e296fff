"""What a check is, and how its subjects are walked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.reconcile import Drift
from billhook.store.book import TABLES, value_of
from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.schema import Instant, id_at

PAGE: Final = 200


@dataclass(frozen=True)
class Scope:
    """Whose rows are looked at, and of which time."""

    merchant_id: str
    source_id: str
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Difference:
    drift: Drift
    amount: int | None = None
    currency: str | None = None

    @property
    def stake(self) -> tuple[int, str] | None:
        """How much money it is about."""
        return (self.amount, self.currency) if self.amount is not None and self.currency else None


@dataclass(frozen=True)
class Page:
    subjects: list[str]
    cursor: str | None
    """Where the next begins. None: this was the last."""
    place: str | None = None
    """Where the walk that this is a part of stands after it."""


@dataclass(frozen=True)
class Check:
    kinds: tuple[str, ...]
    """Of its findings."""
    page: Callable[[Tx, Scope, str | None], Page]
    examine: Callable[[Tx, Scope, Sequence[str]], list[Difference]]
    own: bool | None
    """Only what billhook is the source of, only what providers are; None: both."""
    parts: bool = False
    """Of one subject there may be several findings: their names go on behind it."""

    def subject_of(self, external_id: str) -> str:
        return external_id.rpartition(" ")[0] if self.parts else external_id


def by_id(table: sa.Table, prefix: str, *where: sa.ColumnElement[bool]) -> Callable[[Tx, Scope, str | None], Page]:
    """Rows of a merchant whose ids say when they were made."""

    def page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
        pair = (table.c.merchant_id, table.c.id)
        place = sa.tuple_(*pair)
        query = sa.select(table.c.id).where(
            place > sa.tuple_(scope.merchant_id, cursor or id_at(prefix, scope.since)),
            place < sa.tuple_(scope.merchant_id, id_at(prefix, scope.until)),
            *where,
        )
        return cut(list(tx.execute(query.order_by(*pair).limit(PAGE)).scalars()))

    return page


def by_time(at: sa.Column[Any]) -> Callable[[Tx, Scope, str | None], Page]:
    """Rows of the merchant that have a time within the scope's there, by their ids."""
    c = at.table.c

    def page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
        query = sa.select(c.id).where(
            c.merchant_id == scope.merchant_id, at >= scope.since, at < scope.until, c.id > (cursor or "")
        )
        return cut(list(tx.execute(query.order_by(c.id).limit(PAGE)).scalars()))

    return page


def cut(found: list[str], cursor_of: Callable[[str], str] = lambda one: one) -> Page:
    return Page(found, cursor_of(found[-1]) if len(found) == PAGE else None)


def invoices_by_age(tx: Tx, scope: Scope, cursor: str | None, *where: sa.ColumnElement[bool]) -> Page:
    """Invoices of the source and of accounts connected to it (of a merchant's own: billhook) by when they were made."""
    c = TABLES["invoice"].c
    at, _, after = (cursor or "").partition(" ")
    began = scope.since if cursor is None else datetime.fromisoformat(at)
    query = sa.select(c.id, c.created).where(
        c.merchant_id == scope.merchant_id,
        c.source_id == scope.source_id,
        c.created < scope.until,
        c.deleted.is_(sa.false()),
        sa.tuple_(c.created, c.id) > sa.tuple_(sa.literal(began, Instant), after),
        *where,
    )
    found = list(tx.execute(query.order_by(c.created, c.id).limit(PAGE)))
    following = f"{found[-1][1].isoformat()} {found[-1][0]}" if len(found) == PAGE else None
    return Page([row[0] for row in found], following)


def values_of(tx: Tx, kind: str, ids: Iterable[str]) -> dict[str, tuple[Any, sa.RowMapping]]:
    table = TABLES[kind]
    rows = tx.execute(sa.select(table).where(among(tx, table.c.id, list(ids)))).mappings()
    return {row["id"]: (value_of(kind, row), row) for row in rows}
