"""What all tables share: the metadata, the column types, and ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
import uuid_utils

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite (which has no such type)."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.BigInteger())

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        # PostgreSQL's driver takes times as they are; a call for each of them would be for nothing.
        return None if dialect.name == "postgresql" else super().bind_processor(dialect)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return to_micros(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        return as_instant


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(at: datetime) -> int:
    """Exact, unlike `timestamp()`, which is a float; a time without a zone is a TypeError."""
    return (at - _EPOCH) // _MICROSECOND


def as_instant(stored: Any) -> Any:
    """The time that a column of `Instant` holds, as either database's driver reads it."""
    if stored is None:
        return None
    if isinstance(stored, datetime):
        return stored.astimezone(UTC)
    return _EPOCH + timedelta(microseconds=stored)


def new_id(prefix: str) -> str:
    """A fresh id, e.g. `evt_0199…`: time-ordered (UUID version 7), so that inserts stay at the end of an index."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


_ID: Final = re.compile(r"[a-z]{2,8}_[0-9a-f]{32}")


def ids_among(values: Iterable[Any]) -> list[str]:
    """Those of the values that are ids of ours."""
    return [value for value in values if isinstance(value, str) and _ID.fullmatch(value)]


def id_at(prefix: str, at: datetime) -> str:
    """Lower than every id made at `at` or later, and not lower than any made before: ids as an index of time."""
    milliseconds = max(0, to_micros(at) // 1000)
    return f"{prefix}_{milliseconds:012x}"


def instant_of(row_id: str) -> datetime:
    """When an id was made, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=int(row_id.rpartition("_")[2][:12], 16))


def merchant_column() -> sa.Column[str]:
    """Every row belongs to a merchant, and no query crosses them."""
    return sa.Column("merchant_id", sa.Text, nullable=False, index=False)


_CONDITION: Final = "condition"


def partial_index(
    name: str,
    *columns: str | sa.Column[Any],
    where: sa.TextClause,
    sqlite: sa.TextClause | None = None,
    unique: bool = False,
) -> sa.Index:
    """An index of only those rows of which `where` is true, which SQLite may be told in other words.

    To name a dialect is to import it, and PostgreSQL's takes a command on SQLite a tenth of a second. Indexes are made
    by migrations; who makes tables from what the code says (`with_conditions`) are tests."""
    of = {"postgresql_where": where, "sqlite_where": where if sqlite is None else sqlite}
    return sa.Index(name, *columns, unique=unique, info={_CONDITION: of})


def with_conditions() -> sa.MetaData:
    """The tables, with all that is to be said of their indexes."""
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        index.dialect_kwargs.update(index.info.get(_CONDITION, {}))
    return metadata


def trace_column() -> sa.Column[str | None]:
    """The `traceparent` (W3C) of what caused the row: a trace goes on from it however long the row waits. Null where
    traces are not wanted."""
    return sa.Column("traceparent", sa.Text)
