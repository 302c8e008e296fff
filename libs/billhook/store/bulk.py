"""Many rows and many values at once. On PostgreSQL a list of parameters (`IN (…)`, `executemany`) is compiled, sent and
planned value by value; a JSON of them all is one parameter."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.statements import Insertion, Json, among_all, rows_of


def among(tx: Tx, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether `column` is one of `values`."""
    return among_all(column, sa.bindparam(None, [*values], type_=Json()), tx.dialect.name == "sqlite")


def insert_many(tx: Tx, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, which all have the same columns."""
    if rows:
        _into(table).run(tx, rows)


@functools.cache
def _into(table: sa.Table) -> Insertion:
    return Insertion(table)


def update_many(tx: Tx, table: sa.Table, rows: Sequence[Mapping[str, Any]], **alike: Any) -> None:
    """Update rows, each of which names its `id` and the same other columns; `alike` are columns that all get."""
    if not rows:
        return
    names = [*rows[0]]
    if tx.dialect.name == "sqlite":
        bound: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names if name != "id"}
        statement = sa.update(table).where(table.c.id == sa.bindparam("new_id")).values(bound | alike)
        tx.execute(statement, [{f"new_{name}": value for name, value in row.items()} for row in rows])
        return
    given, columns = rows_of(sa.bindparam(None, [*rows], type_=Json()), [table.c[name] for name in names])
    # The planner takes the rows of a JSON for a hundred, and would rather walk through a table than look a hundred up.
    few = sa.select(*(one.label(name) for name, one in zip(names, columns, strict=True))).select_from(given)
    new = few.limit(len(rows)).subquery("new")
    values = {name: new.c[name] for name in names if name != "id"}
    tx.execute(sa.update(table).where(table.c.id == new.c.id).values(values | alike))
