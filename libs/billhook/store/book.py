"""The book: the billing objects as their providers last described them, one table a kind.

The tables are made from the values in `billhook.rules.book`, so there is one list of fields. Single values become typed
columns; lists and addresses are JSON.
"""

from __future__ import annotations

import functools
import types
import typing
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from billhook.decoding import convert
from billhook.rules.book.change import ASKED, Change, Version
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import BookObject, book_id, id_of
from billhook.rules.versions import Seen, last, together
from billhook.store import statements
from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, to_micros
from billhook.store.statements import Insertion, Statement

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Json(sa.types.TypeDecorator[Any]):
    """A value that is not there is NULL, as in every other column, and not JSON's `null`."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import JSONB  # a tenth of a second, for commands on SQLite for nothing

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(sa.JSON(none_as_null=True))


_JSON = _Json()
_SCALARS: dict[type, Any] = {str: sa.Text, int: sa.BigInteger, bool: sa.Boolean, datetime: Instant}
_INDEXED = ("customer", "subscription", "invoice", "payment", "charge")


# What rows have that were written before there was such a column.
_BEFORE: dict[str, Any] = {
    **dict.fromkeys(("credits", "shipping", "tax_included", "credited_before_payment", "credited_after_payment"), "0"),
    "items_complete": sa.true(),
    **dict.fromkeys(("custom_fields", "seller_tax_ids"), "[]"),
}


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
        sa.Column("livemode", sa.Boolean, nullable=False, server_default=sa.true()),
        *fields,
        sa.Column("version_at", Instant, nullable=False),
        sa.Column("version_rank", sa.Integer, nullable=False),
        sa.Column("version_digest", sa.Text, nullable=False),
        sa.Column("version_seen", _JSON),  # the states of that second, where events say what was before, or differ
        sa.Column("updated_at", Instant, nullable=False),
        # Not unique: the id is made of these, and PostgreSQL settles a conflict in one index only.
        sa.Index(f"ix_{name}_external_id", "source_id", "account", "external_id"),
        sa.Index(f"ix_{name}_merchant_id", "merchant_id", "id"),
        sa.Index(f"ix_{name}_created", "source_id", "created"),
        *(sa.Index(f"ix_{name}_{field.name}", "merchant_id", field.name) for field in fields if field.name in _INDEXED),
    )


TABLES: dict[str, sa.Table] = {kind: _table(value) for kind, value in KINDS.items()}
sa.Index("ix_invoices_newest", TABLES["invoice"].c.created, TABLES["invoice"].c.id)


Key = tuple[str, str, str, str]
"""Kind, source, account and the provider's id."""


def _id(key: Key) -> str:
    kind, source_id, account, external_id = key
    return id_of(KINDS[kind], source_id, account, external_id)


class Entry(msgspec.Struct, frozen=True):
    """A change, and whose book it goes into."""

    merchant_id: str
    source_id: str
    account: str
    change: Change
    livemode: bool = True

    @property
    def key(self) -> Key:
        return (self.change.object.kind, self.source_id, self.account, self.change.object.external_id)

    @property
    def id(self) -> str:
        return book_id(self.source_id, self.account, self.change.object)


def versions(tx: Tx, keys: Collection[Key]) -> dict[Key, Version]:
    """The versions the book holds of (kind, source, account, external id)."""
    found: dict[Key, Version] = {}
    for kind, ids in _by_kind(keys).items():
        for *identity, at, rank, digest in _versions(kind).rows(tx, ids=ids):
            found[(kind, *identity)] = (at, rank, digest)
    return found


def _by_kind(keys: Collection[Key]) -> dict[str, list[str]]:
    """The ids of these objects, sorted."""
    ids: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        ids[key[0]].append(_id(key))
    return ids


def _identity(kind: str) -> list[sa.Column[Any]]:
    c = TABLES[kind].c
    return [c.source_id, c.account, c.external_id]


@functools.cache
def _versions(kind: str) -> Statement:
    c = TABLES[kind].c
    query = sa.select(*_identity(kind), c.version_at, c.version_rank, c.version_digest)
    return Statement(lambda sqlite: query.where(statements.among(c.id, "ids", sqlite)))


def apply(tx: Tx, entries: Sequence[Entry], now: datetime) -> None:
    """Write what is newer than what the book holds; what is older changes nothing.

    Of an object's states in different seconds the later counts, and the comparison is made by the database in the same
    statement. States of one second that no answer of the provider's has settled are kept together until the next, and
    compared all at once (`rules/versions.py`). So any order of events and any number of writers end in the same book.
    """
    newest: dict[Key, list[_Incoming]] = {}
    for entry in entries:
        incoming, known = _Incoming(entry, entry.change.version), newest.get(entry.key)
        if known is None or known[0].at < incoming.at:
            newest[entry.key] = [incoming]
        elif known[0].at == incoming.at:
            known.append(incoming)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in sorted(newest):  # one order of locks for all writers
        rows[key[0]].append(_row(*_latest(newest[key]), now))
    for kind, of_kind in rows.items():
        for identity in _upsert(kind).rows(tx, of_kind):
            del newest[(kind, *identity)]
    # What was not newer is locked by now all the same, so that nobody else changes it.
    left = {key: incoming for key, incoming in newest.items() if not any(one.settled for one in incoming)}
    for key, held in _held(tx, left).items():
        if held.at == left[key][0].at and held.rank < ASKED:
            _merge(tx, key[0], held, left[key], now)


class _Incoming(NamedTuple):
    """An entry and its version, which takes time to compute."""

    entry: Entry
    version: Version

    @property
    def at(self) -> datetime:
        return self.version[0]

    @property
    def settled(self) -> bool:
        """Deleted, or answered by the provider: this outranks every state that events of that second carried."""
        return self.version[1] >= ASKED

    def seen(self, **fields: Any) -> Seen:
        _, rank, digest = self.version
        return Seen(digest=digest, rank=rank, before=self.entry.change.before, **fields)


class _Held(msgspec.Struct, frozen=True):
    """The version that the book holds of an object."""

    id: str
    at: datetime
    rank: int
    seen: list[Seen]


def _held(tx: Tx, keys: Collection[Key]) -> dict[Key, _Held]:
    """What the book holds of these objects, which this transaction has locked."""
    found: dict[Key, _Held] = {}
    for kind, ids in _by_kind(keys).items():
        for *identity, row_id, at, rank, digest, states in _seen(kind).rows(tx, ids=ids):
            seen = convert(states, list[Seen]) if states else [Seen(digest=digest, rank=rank)]
            found[(kind, *identity)] = _Held(row_id, at, rank, seen)
    return found


@functools.cache
def _seen(kind: str) -> Statement:
    c = TABLES[kind].c
    query = sa.select(*_identity(kind), c.id, c.version_at, c.version_rank, c.version_digest, c.version_seen)
    return Statement(lambda sqlite: query.where(statements.among(c.id, "ids", sqlite)))


def _states(incoming: Sequence[_Incoming]) -> list[Seen]:
    return together(one.seen(object=msgspec.to_builtins(one.entry.change.object)) for one in incoming)


def _latest(incoming: Sequence[_Incoming]) -> tuple[_Incoming, list[Seen]]:
    """The last of several states of one second, and all of them, where they matter to what may still come."""
    if len(incoming) == 1:
        return incoming[0], [] if incoming[0].settled else [incoming[0].seen()]
    newest = max(incoming, key=lambda one: one.version)
    if newest.settled:
        return newest, []
    seen = _states(incoming)
    chosen = last(seen)
    return next(one for one in incoming if one.version[1:] == (chosen.rank, chosen.digest)), seen


def _merge(tx: Tx, kind: str, held: _Held, incoming: Sequence[_Incoming], now: datetime) -> None:
    """Compare incoming states with all known states of the same second."""
    seen = together([*held.seen, *_states(incoming)])
    if len(seen) == len(held.seen):
        return
    chosen, table = last(seen), TABLES[kind]
    row = tx.execute(sa.select(table).where(table.c.id == held.id)).mappings().one()
    shown = msgspec.to_builtins(value_of(kind, row))
    seen = [msgspec.structs.replace(state, object=state.object or shown) for state in seen]
    changed: dict[str, Any] = {}
    if chosen.digest != row["version_digest"]:
        fields = next(state.object for state in seen if state.digest == chosen.digest)
        change = Change(convert(fields, KINDS[kind]), held.at)
        entry = msgspec.structs.replace(incoming[0].entry, change=change)
        changed = _row(_Incoming(entry, change.version), [], now)
    changed |= {
        "version_rank": chosen.rank,
        "version_digest": chosen.digest,
        "version_seen": _plain_seen(seen, chosen.digest),
    }
    tx.execute(sa.update(table).where(table.c.id == held.id).values(changed))


def _plain_seen(seen: Sequence[Seen], shown: str) -> Any:
    """As JSON, without the fields of the state that the row itself has; nothing where its version says it all."""
    if not seen or (len(seen) == 1 and seen[0].before is None):
        return None
    return [
        msgspec.to_builtins(msgspec.structs.replace(state, object=None) if state.digest == shown else state)
        for state in seen
    ]


def _row(incoming: _Incoming, seen: Sequence[Seen], now: datetime) -> dict[str, Any]:
    entry, (at, rank, digest) = incoming
    value = entry.change.object
    return {
        **msgspec.structs.asdict(value),
        "id": entry.id,
        "merchant_id": entry.merchant_id,
        "source_id": entry.source_id,
        "account": entry.account,
        "livemode": entry.livemode,
        "version_at": at,
        "version_rank": rank,
        "version_digest": digest,
        "version_seen": _plain_seen(seen, digest),
        "updated_at": now,
    }


@functools.cache
def _upsert(kind: str) -> Insertion:
    """Returns whose rows it has written."""

    def where_newer(insert: Any) -> Any:
        new, held = insert.excluded, TABLES[kind].c
        version = sa.tuple_(held.version_at, held.version_rank, held.version_digest)
        newer = version < sa.tuple_(new.version_at, new.version_rank, new.version_digest)
        # States of one second that nobody settled are merged, see `_merge`, and never written over one another.
        settled = sa.or_(held.version_at < new.version_at, new.version_rank >= ASKED)
        return insert.on_conflict_do_update(
            index_elements=["id"],
            set_={c.name: new[c.name] for c in held if c.name not in ("id", "merchant_id")},
            where=sa.and_(newer, settled),
        ).returning(*_identity(kind))

    return Insertion(TABLES[kind], where_newer)


def value_of(kind: str, row: sa.RowMapping) -> BookObject:
    """A row as the value it was made from; what a list leaves out has its default."""
    value = KINDS[kind]
    return convert({name: row[name] for name in value.__struct_fields__ if name in row}, value)


def get(tx: Tx, kind: str, object_id: str, *, merchant_id: str | None = None) -> sa.RowMapping | None:
    table = TABLES[kind]
    query = sa.select(table).where(table.c.id == object_id)
    if merchant_id is not None:
        query = query.where(table.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


class BilledTo(NamedTuple):
    """Who is to pay an invoice, as the invoice says."""

    email: str | None
    name: str | None
    livemode: bool
    """Whether real money is meant."""


def billed_to(tx: Tx, invoice_ids: Collection[str]) -> dict[str, BilledTo]:
    c = TABLES["invoice"].c
    query = sa.select(c.id, c.customer_email, c.customer_name, c.livemode).where(among(tx, c.id, invoice_ids))
    return {row[0]: BilledTo(*row[1:]) for row in tx.execute(query)}


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


@dataclass(frozen=True)
class Newest:
    """A page of invoices."""

    rows: list[sa.RowMapping]
    next: str | None
    """Behind which the next page begins; None: that was all."""
    searched_back_to: datetime | None = None
    """How far a search got that found less than a page."""


SEARCHED_AT_ONCE: Final = 10_000


def newest_invoices(
    tx: Tx, *, merchant_id: str | None, status: str | None, number: str | None, before: str | None, limit: int
) -> Newest:
    """Invoices by when they were made, the newest first, without their lines. What is searched for is looked for among
    a bounded number of them; `before` is the `next` of the page before."""
    c = TABLES["invoice"].c
    shown = [column for column in TABLES["invoice"].c if column.name not in ("lines", "version_seen")]
    place = sa.tuple_(c.created, c.id)
    reach: list[sa.ColumnElement[bool]] = [c.created.is_not(None), c.deleted.is_(sa.false())]
    if before is not None:
        micros, _, row_id = before.partition(".")
        at = _EPOCH + timedelta(microseconds=int(micros))
        reach.append(place < sa.tuple_(sa.literal(at, Instant), sa.literal(row_id)))
    wanted = ((c.merchant_id, merchant_id), (c.status, status), (c.number, number))
    conditions = [column == value for column, value in wanted if value is not None]
    floor = None
    if conditions:
        newest = sa.select(c.created, c.id).where(*reach).order_by(c.created.desc(), c.id.desc())
        floor = tx.execute(newest.offset(SEARCHED_AT_ONCE).limit(1)).first()
        if floor is not None:
            conditions.append(place >= sa.tuple_(sa.literal(floor[0], Instant), sa.literal(floor[1])))
    query = sa.select(*shown).where(*reach, *conditions).order_by(c.created.desc(), c.id.desc()).limit(limit + 1)
    rows = list(tx.execute(query).mappings())
    if len(rows) > limit:
        return Newest(rows[:limit], _place(rows[limit - 1]["created"], rows[limit - 1]["id"]))
    return Newest(rows, None) if floor is None else Newest(rows, _place(floor[0], floor[1]), floor[0])


def _place(created: datetime, row_id: str) -> str:
    return f"{to_micros(created)}.{row_id}"


def invoices_called(tx: Tx, name: str, sources: Collection[str], *, limit: int) -> list[sa.RowMapping]:
    """The invoices of these sources that have this id at their provider."""
    c = TABLES["invoice"].c
    mine = (c.source_id.in_(sources), c.account == "", c.external_id == name)
    return list(tx.execute(sa.select(c.id, c.number, c.external_id).where(*mine).limit(limit)).mappings())
