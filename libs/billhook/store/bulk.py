"""Many rows and many values at once. On PostgreSQL a list of parameters (`IN (…)`, `executemany`) is compiled, sent and
planned value by value; an array, or a JSON of all rows, is one parameter. SQLite needs neither: nothing is sent to
it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.statements import Insertion


def among(tx: Tx, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether `column` is one of `values`."""
    if tx.dialect.name == "sqlite":
        return column.in_(values)
    return column == sa.any_(sa.bindparam(None, [*values], type_=sa.ARRAY(sa.Text, dimensions=1)))


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
    types = {name: table.c[name].type for name in names}
    arrays = [
        sa.bindparam(None, [row[name] for row in rows], type_=sa.ARRAY(kind, dimensions=1))
        for name, kind in types.items()
    ]
    given = sa.func.unnest(*arrays).table_valued(*(sa.column(name, kind) for name, kind in types.items()))
    given = given.render_derived(name="given")
    new = {name: given.c[name] for name in names if name != "id"}
    tx.execute(sa.update(table).where(table.c.id == given.c.id).values(new | alike))
