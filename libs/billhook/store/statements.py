"""Statements that are made once. SQLAlchemy writes each down, for either database, when it is first needed; from then
on the driver runs its text.

To put a statement together, to find its text among those that were compiled and to wrap what it brings takes SQLAlchemy
several times as long as the driver takes over a short one. Where work comes piece by piece that was nearly all of what
a step of a consumer cost. So statements that are executed for each piece of work are made of this; all others are
SQLAlchemy's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.sql import visitors

from billhook.store.database import Run, Tx, changed, insert_into, run_in

Values = Sequence[Any]
"""A row, as a tuple or a list of its columns in their order."""


class Statement:
    """A statement whose parameters are `bindparam`s without a value, given by their names at each execution."""

    def __init__(self, make: Callable[[bool], Any]) -> None:
        """`make` is told whether it is for SQLite."""
        self._make = make
        self._written: dict[str, _Written] = {}

    def rows(self, tx: Tx, **given: Any) -> Sequence[Values]:
        """What it finds, or returns of what it changes."""
        written = self._in_words_of(tx)
        written.tell(tx, {})
        return written.rows(run_in(tx), given)

    def run(self, tx: Tx, **given: Any) -> None:
        """Execute what returns nothing."""
        written = self._in_words_of(tx)
        written.tell(tx, {})
        written.run(run_in(tx), given)

    def _in_words_of(self, tx: Tx) -> _Written:
        dialect = tx.dialect
        if dialect.name not in self._written:
            self._written[dialect.name] = _Written(self._make(dialect.name == "sqlite"), dialect)
        return self._written[dialect.name]


class Insertion:
    """Rows for a table. On PostgreSQL they are one parameter, so that the text is the same however many they are: it is
    planned once, and a long list costs less than COPY's three round trips. SQLite, to which nothing is sent, takes them
    one by one."""

    def __init__(self, table: sa.Table, finish: Callable[[Any], Any] = lambda statement: statement) -> None:
        """`finish` adds to the INSERT (of `database.insert_into`) what happens on a conflict, and what it returns."""
        self._table = table
        self._finish = finish
        self._written: dict[tuple[str, tuple[str, ...]], _Written] = {}

    def rows(self, tx: Tx, rows: Sequence[Mapping[str, Any]]) -> list[Values]:
        """Insert rows, which all have the same columns; what the statement returns of them."""
        written = self._told(tx, rows)
        if tx.dialect.name != "sqlite":
            return [*written.rows(run_in(tx), {_ROWS: rows})]
        run = run_in(tx)
        return [found for row in rows for found in written.rows(run, row)]

    def run(self, tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows where the statement returns nothing."""
        written = self._told(tx, rows)
        run = run_in(tx)
        for given in rows if tx.dialect.name == "sqlite" else [{_ROWS: rows}]:
            written.run(run, given)

    def _told(self, tx: Tx, rows: Sequence[Mapping[str, Any]]) -> _Written:
        key = (tx.dialect.name, tuple(rows[0]))
        if key not in self._written:
            statement = self._finish(self._insert(tx, key[1]))
            self._written[key] = _Written(statement, tx.dialect, key[1] if tx.dialect.name == "sqlite" else None)
        self._written[key].tell(tx, rows[0])
        return self._written[key]

    def _insert(self, tx: Tx, names: Sequence[str]) -> Any:
        insert = insert_into(tx, self._table)
        if tx.dialect.name == "sqlite":
            return insert
        given, columns = rows_of(sa.bindparam(_ROWS, type_=Json()), [self._table.c[name] for name in names])
        return insert.from_select([*names], sa.select(*columns).select_from(given))


def among(column: sa.ColumnElement[str], name: str, sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether `column` is one of the texts that are given under this name."""
    return among_all(column, sa.bindparam(name, type_=Json()), sqlite)


def among_all(column: sa.ColumnElement[str], given: sa.BindParameter[Any], sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether `column` is one of the texts in a parameter of type `Json`: the driver's arrays cost more than the
    statement where they are short, and six times as much where there are two hundred in them."""
    if sqlite:
        return column.in_(sa.select(sa.func.json_each(given).table_valued("value").c.value))
    each = sa.select(sa.func.json_array_elements_text(sa.cast(given, sa.JSON)))
    return column == sa.any_(sa.func.array(each.scalar_subquery(), type_=sa.ARRAY(sa.Text)))


def is_(column: sa.ColumnElement[str], word: str) -> sa.ColumnElement[bool]:
    """Whether it is this word of ours, which stands in the text: of a parameter no database can tell that a partial
    index has what is asked for."""
    return column == sa.literal_column(f"'{word}'")


def as_json(value: Any) -> str:
    """One parameter for many values: rows for `json_to_recordset`, a list for `json_each`. Bytes in it are base64."""
    return msgspec.json.encode(value).decode()


class Json(sa.types.TypeDecorator[Any]):
    """Many values as one."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return as_json(value)


_ROWS: Final = "rows"


def rows_of(
    given: sa.BindParameter[Any], columns: Sequence[sa.Column[Any]]
) -> tuple[sa.TableValuedAlias, list[sa.ColumnElement[Any]]]:
    """On PostgreSQL, the rows in a parameter of type `Json`, and their columns, as these ones are typed."""
    typed = [sa.column(one.name, sa.Text() if _is_binary(one) else one.type) for one in columns]
    rows = sa.func.json_to_recordset(sa.cast(given, sa.JSON)).table_valued(*typed)
    derived = rows.render_derived(name="given", with_types=True)
    decoded: list[sa.ColumnElement[Any]] = [
        sa.func.decode(derived.c[one.name], sa.literal_column("'base64'"), type_=one.type)
        if _is_binary(one)
        else derived.c[one.name]
        for one in columns
    ]
    return derived, decoded


def _is_binary(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.LargeBinary)


class _Written:
    """A statement in the words of one driver."""

    def __init__(self, statement: Any, dialect: sa.Dialect, columns: Sequence[str] | None = None) -> None:
        """`columns`: which an INSERT of values has."""
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self.text = str(compiled)
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        self._positional = compiled.positiontup is not None
        self._names = compiled.positiontup if self._positional else [*binds]
        self._processors = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()
        }
        self._fixed = {
            name: bind.value if (process := self._processors[name]) is None else process(bind.value)
            for name, bind in binds.items()
            if not bind.required
        }
        kinds = [column.type.dialect_impl(dialect) for column in statement.exported_columns]
        readers = [kind.result_processor(dialect, None) for kind in kinds]
        self._readers = [(place, read) for place, read in enumerate(readers) if read is not None]
        self._changes = [
            element.table
            for element in visitors.iterate(statement)
            if isinstance(element, (sa.Insert, sa.Update, sa.Delete)) and isinstance(element.table, sa.Table)
        ]

    def tell(self, tx: Tx, row: Mapping[str, Any]) -> None:
        """Whoever listens hears what is changed, the first added row being this one."""
        for table in self._changes:
            changed(tx, table, row)

    def run(self, run: Run, given: Mapping[str, Any]) -> None:
        run(self.text, self._bound(given))

    def rows(self, run: Run, given: Mapping[str, Any]) -> Sequence[Values]:
        found = run(self.text, self._bound(given)).fetchall()
        return [self._read(row) for row in found] if self._readers else found

    def _bound(self, given: Mapping[str, Any]) -> Any:
        bound = dict(self._fixed)
        for name, value in given.items():
            process = self._processors[name]
            bound[name] = value if process is None else process(value)
        return tuple([bound[name] for name in self._names]) if self._positional else bound

    def _read(self, row: Values) -> Values:
        values = [*row]
        for place, read in self._readers:
            values[place] = read(values[place])
        return values
