"""The book: the billing objects as their providers last described them, one table a kind.

The tables are made from the values in `billhook.rules.book`, so there is one list of fields. Single values become typed
columns; lists and addresses are JSON.
"""

from __future__ import annotations

import types
import typing
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from billhook.rules.book import KINDS, BookObject, Change, Version, book_id
from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata

# A value that is not there is NULL, as in every other column, and not JSON's `null`.
_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_SCALARS: dict[type, Any] = {str: sa.Text, int: sa.BigInteger, bool: sa.Boolean, datetime: Instant}
_INDEXED = ("customer", "subscription", "invoice", "payment", "charge")


# What rows have that were written before there was such a column.
_BEFORE: dict[str, Any] = dict.fromkeys(
    ("credits", "shipping", "tax_included", "credited_before_payment", "credited_after_payment"), "0"
)


def _column(name: str, annotation: Any) -> sa.Column[Any]:
    parts = [part for part in _flatten(annotation) if part is not type(None)]
    kind = _SCALARS.get(parts[0], _JSON) if len(set(parts)) == 1 else _JSON
    return sa.Column(name, kind, nullable=type(None) in _flatten(annotation), server_default=_BEFORE.get(name))


def _flatten(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return [part for argument in typing.get_args(annotation) for part in _flatten(argument)]
    return [str] if origin is typing.Literal else [annotation]


def _table(value: type[BookObject]) -> sa.Table:
    hints = typing.get_type_hints(value)
    fields = [_column(name, hints[name]) for name in value.__struct_fields__]
    name = f"{value.kind}s"
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        merchant_column(),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        *fields,
        sa.Column("version_at", Instant, nullable=False),
        sa.Column("version_rank", sa.Integer, nullable=False),
        sa.Column("version_digest", sa.Text, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.UniqueConstraint("source_id", "account", "external_id"),
        sa.Index(f"ix_{name}_merchant_id", "merchant_id", "id"),
        *(sa.Index(f"ix_{name}_{field.name}", "merchant_id", field.name) for field in fields if field.name in _INDEXED),
    )


TABLES: dict[str, sa.Table] = {kind: _table(value) for kind, value in KINDS.items()}


class Entry(msgspec.Struct, frozen=True):
    """A change, and whose book it goes into."""

    merchant_id: str
    source_id: str
    account: str
    change: Change

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.change.object.kind, self.source_id, self.account, self.change.object.external_id)

    @property
    def id(self) -> str:
        return book_id(self.source_id, self.account, self.change.object)


def versions(tx: Tx, keys: Collection[tuple[str, str, str, str]]) -> dict[tuple[str, str, str, str], Version]:
    """The versions the book holds of (kind, source, account, external id)."""
    wanted: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for kind, *rest in keys:
        wanted[kind].append((rest[0], rest[1], rest[2]))
    found: dict[tuple[str, str, str, str], Version] = {}
    for kind, identities in wanted.items():
        c = TABLES[kind].c
        identity = (c.source_id, c.account, c.external_id)
        query = sa.select(*identity, c.version_at, c.version_rank, c.version_digest)
        for row in tx.execute(query.where(sa.tuple_(*identity).in_(identities))):
            found[(kind, row[0], row[1], row[2])] = (row[3], row[4], row[5])
    return found


def apply(tx: Tx, entries: Sequence[Entry], now: datetime) -> None:
    """Write what is newer than what the book holds; what is older changes nothing.

    The comparison is made by the database in the same statement, row by row, so that any order of events and any number
    of writers end in the same book.
    """
    newest: dict[tuple[str, str, str, str], Entry] = {}
    for entry in entries:
        known = newest.get(entry.key)
        if known is None or known.change.version < entry.change.version:
            newest[entry.key] = entry
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in sorted(newest):  # one order of locks for all writers
        rows[key[0]].append(_row(newest[key], now))
    for kind in sorted(rows):
        tx.execute(_upsert(TABLES[kind], tx.dialect.name), rows[kind])


def _row(entry: Entry, now: datetime) -> dict[str, Any]:
    value = entry.change.object
    at, rank, digest = entry.change.version
    fields = {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    return {
        **fields,
        "id": entry.id,
        "merchant_id": entry.merchant_id,
        "source_id": entry.source_id,
        "account": entry.account,
        "version_at": at,
        "version_rank": rank,
        "version_digest": digest,
        "updated_at": now,
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, bool, datetime)):
        return value
    return msgspec.to_builtins(value)


_upserts: dict[tuple[str, str], Any] = {}


def _upsert(table: sa.Table, dialect: str) -> Any:
    if (table.name, dialect) not in _upserts:
        statement: Any = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(table)
        new = statement.excluded
        held = sa.tuple_(table.c.version_at, table.c.version_rank, table.c.version_digest)
        _upserts[(table.name, dialect)] = statement.on_conflict_do_update(
            index_elements=["source_id", "account", "external_id"],
            set_={c.name: new[c.name] for c in table.c if c.name not in ("id", "merchant_id")},
            where=held < sa.tuple_(new.version_at, new.version_rank, new.version_digest),
        )
    return _upserts[(table.name, dialect)]


def value_of(kind: str, row: sa.RowMapping) -> BookObject:
    """A row as the value it was made from; what a list leaves out has its default."""
    value = KINDS[kind]
    return msgspec.convert({name: row[name] for name in value.__struct_fields__ if name in row}, value)


def get(tx: Tx, kind: str, object_id: str, *, merchant_id: str | None = None) -> sa.RowMapping | None:
    table = TABLES[kind]
    query = sa.select(table).where(table.c.id == object_id)
    if merchant_id is not None:
        query = query.where(table.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


def list_objects(
    tx: Tx,
    kind: str,
    *,
    merchant_id: str | None,
    after: str | None = None,
    limit: int = 50,
    **wanted: str | None,
) -> list[sa.RowMapping]:
    """One page of a merchant's objects (None: of all), by id; `wanted` narrows by column, e.g. `status="open"`. An
    invoice comes without its lines: there may be thousands of them."""
    table = TABLES[kind]
    query = sa.select(*(column for column in table.c if column.name != "lines")).order_by(table.c.id).limit(limit)
    for name, value in {"merchant_id": merchant_id, **wanted}.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    if after is not None:
        query = query.where(table.c.id > after)
    return list(tx.execute(query).mappings())
