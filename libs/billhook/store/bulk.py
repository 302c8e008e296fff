"""Many rows and many values at once. On PostgreSQL a list of parameters (`IN (…)`, `executemany`) is compiled, sent and
planned value by value; a JSON of them all is one parameter."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.statements import Insertion, Json, Statement, among_all, rows_of


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
    names, sqlite = tuple(rows[0]), tx.dialect.name == "sqlite"
    given: list[dict[str, Any]] = [{"rows": [*rows], "count": len(rows)}]
    if sqlite:
        given = [{f"new_{name}": value for name, value in row.items()} for row in rows]
    if alike:
        tx.execute(_updating(table, names, sqlite, alike), given)
        return
    for one in given:
        _update(table, names).run(tx, **one)


@functools.cache
def _update(table: sa.Table, names: tuple[str, ...]) -> Statement:
    return Statement(lambda sqlite: _updating(table, names, sqlite, {}))


def _updating(table: sa.Table, names: Sequence[str], sqlite: bool, alike: Mapping[str, Any]) -> sa.Update:
    if sqlite:
        new_id, *new = (sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in ("id", *_others(names)))
        return (
            sa.update(table)
            .where(table.c.id == new_id)
            .values({**dict(zip(_others(names), new, strict=True)), **alike})
        )
    rows, columns = rows_of(sa.bindparam("rows", type_=Json()), [table.c[name] for name in names])
    # The planner takes the rows of a JSON for a hundred, and would rather walk through a table than look a hundred up.
    few = sa.select(*(one.label(name) for name, one in zip(names, columns, strict=True))).select_from(rows)
    found = few.limit(sa.bindparam("count", type_=sa.Integer)).subquery("new")
    values = {name: found.c[name] for name in _others(names)}
    return sa.update(table).where(table.c.id == found.c.id).values({**values, **alike})


def _others(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != "id"]
