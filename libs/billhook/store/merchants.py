"""Merchants (tenants) and their API keys for the desk."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from billhook.decoding import convert
from billhook.rules.document import Seller
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store.database import Tx
from billhook.store.schema import Instant, metadata, new_id
from billhook.store.statements import Statement, among

merchants = sa.Table(
    "merchants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("locale", sa.Text, nullable=False, server_default="en"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("contact_email", sa.Text),  # who is told when something of theirs needs a person
    sa.Column("seller", sa.JSON(none_as_null=True)),  # as documents show them; none: by the name alone
    sa.Column("invoicing", sa.JSON(none_as_null=True)),  # only what differs from the defaults
    sa.Column("endpoints_version", sa.BigInteger, nullable=False, server_default="0"),  # goes up when one changes
    sa.Column("demo", sa.Boolean, nullable=False, server_default=sa.false()),  # of `make demo`: nobody's company
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("merchant_id", sa.Text, sa.ForeignKey("merchants.id")),  # none: the operator's key, for all merchants
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
    sa.Column("scope", sa.Text, nullable=False, server_default="write"),  # read, publish, write
    sa.Column("expires_at", Instant),
    sa.Column("last_used_at", Instant),  # to the minute
)

Scope = Literal["read", "publish", "write"]
"""What a key may do: look, publish events and nothing else, or everything of its merchant's."""


@dataclass(frozen=True)
class Merchant:
    id: str
    name: str
    locale: str
    created_at: datetime
    contact_email: str | None
    seller: Seller
    invoicing: InvoicingSettings = field(default_factory=InvoicingSettings)


@dataclass(frozen=True)
class Key:
    """What may be shown of a bearer key."""

    id: str
    merchant_id: str | None
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


OPERATOR: Final = "operator"
"""Stands for the id of the operator's key that is in the settings."""


@dataclass(frozen=True)
class Caller:
    """Whom a bearer key belongs to; `merchant_id` None is the operator."""

    key_id: str
    merchant_id: str | None
    scope: Scope = "write"
    expires_at: datetime | None = None
    name: str = ""
    """Of the key."""

    @property
    def api_key_id(self) -> str | None:
        """The key's row; None for the one in the settings, which nobody can revoke."""
        return None if self.key_id == OPERATOR else self.key_id


def create_merchant(
    tx: Tx,
    name: str,
    now: datetime,
    *,
    locale: str = "en",
    contact_email: str | None = None,
    demo: bool = False,
) -> Merchant:
    row = {"id": new_id("mrc"), "name": name, "locale": locale, "created_at": now, "contact_email": contact_email}
    tx.execute(merchants.insert().values(**row, demo=demo))
    return _merchant({**row, "seller": None, "invoicing": None})


def list_merchants(tx: Tx, *, after: str = "", limit: int = 100) -> list[Merchant]:
    rows = tx.execute(sa.select(merchants).where(merchants.c.id > after).order_by(merchants.c.id).limit(limit))
    return [_merchant(row) for row in rows.mappings()]


def companies(tx: Tx, *, limit: int) -> list[str]:
    """The ids of the merchants that are somebody's: a demo leaves one behind that nobody means."""
    c = merchants.c
    return list(tx.execute(sa.select(c.id).where(~c.demo).order_by(c.id).limit(limit)).scalars())


def get_merchant(tx: Tx, merchant_id: str, *, lock: bool = False) -> Merchant | None:
    """With `lock`, nobody else changes it until the transaction ends."""
    query = sa.select(merchants).where(merchants.c.id == merchant_id)
    row = tx.execute(query.with_for_update() if lock else query).mappings().first()
    return _merchant(row) if row else None


def set_contact(tx: Tx, merchant_id: str, contact_email: str | None) -> None:
    tx.execute(sa.update(merchants).where(merchants.c.id == merchant_id).values(contact_email=contact_email))


def set_seller(tx: Tx, merchant_id: str, seller: Seller | None) -> None:
    """How documents made from now on show the merchant; None is by the name alone."""
    value = None if seller is None else msgspec.to_builtins(seller)
    tx.execute(sa.update(merchants).where(merchants.c.id == merchant_id).values(seller=value))


def set_invoicing(tx: Tx, merchant_id: str, settings: InvoicingSettings) -> None:
    tx.execute(
        sa.update(merchants).where(merchants.c.id == merchant_id).values(invoicing=msgspec.to_builtins(settings))
    )


def merchants_of(tx: Tx, merchant_ids: Collection[str]) -> dict[str, Merchant]:
    return {row[0]: merchant_of(row) for row in _BY_ID.rows(tx, ids=[*merchant_ids])}


COLUMNS: Final = tuple(
    merchants.c[name] for name in ("id", "name", "locale", "created_at", "contact_email", "seller", "invoicing")
)
_BY_ID: Final = Statement(lambda sqlite: sa.select(*COLUMNS).where(among(merchants.c.id, "ids", sqlite)))


def merchant_of(values: Sequence[Any]) -> Merchant:
    """Whose `COLUMNS` have these values."""
    return _merchant({column.name: value for column, value in zip(COLUMNS, values, strict=True)})


def _merchant(row: sa.RowMapping | dict[str, Any]) -> Merchant:
    seller, invoicing = row["seller"], row["invoicing"]
    return Merchant(
        row["id"],
        row["name"],
        row["locale"],
        row["created_at"],
        row["contact_email"],
        Seller(name=row["name"][:255]) if seller is None else convert(seller, Seller),
        InvoicingSettings() if invoicing is None else convert(invoicing, InvoicingSettings),
    )


def _digest(key: str) -> bytes:
    # The key is 256 random bits, so a plain hash is enough: there is nothing to guess.
    return hashlib.sha256(key.encode()).digest()


def create_key(
    tx: Tx,
    merchant_id: str | None,
    name: str,
    now: datetime,
    *,
    scope: Scope = "write",
    expires_at: datetime | None = None,
) -> tuple[str, str]:
    """Make a bearer key; returns (id, key). Only its digest is stored: the key is shown this once."""
    key_id, key = new_id("key"), f"bh_{secrets.token_urlsafe(32)}"
    row = {"id": key_id, "merchant_id": merchant_id, "digest": _digest(key), "name": name, "created_at": now}
    tx.execute(api_keys.insert().values(**row, scope=scope, expires_at=expires_at))
    return key_id, key


def find_callers(tx: Tx, keys: Collection[str], now: datetime) -> dict[str, Caller]:
    """Whom these keys belong to; a key that is unknown, was revoked or is past its time is not in it."""
    c = api_keys.c
    digests = {_digest(key): key for key in keys}
    query = sa.select(c.digest, c.id, c.merchant_id, c.scope, c.expires_at, c.name).where(
        c.digest.in_(digests), c.revoked_at.is_(None), sa.or_(c.expires_at.is_(None), c.expires_at > now)
    )
    return {digests[bytes(digest)]: Caller(*row) for digest, *row in tx.execute(query)}


def note_use(tx: Tx, used: Mapping[str, datetime]) -> None:
    """When keys were last used."""
    c = api_keys.c
    key_id: sa.BindParameter[str] = sa.bindparam("key_id")
    at: sa.BindParameter[datetime] = sa.bindparam("at", type_=Instant)
    earlier = sa.or_(c.last_used_at.is_(None), c.last_used_at < at)
    update = sa.update(api_keys).where(c.id == key_id, earlier).values(last_used_at=at)
    # In one order, for others may be writing about the same keys.
    tx.execute(update, [{"key_id": key, "at": used[key]} for key in sorted(used)])


def good_keys(tx: Tx, key_ids: Collection[str]) -> set[str]:
    """Which of these keys are not revoked."""
    c = api_keys.c
    return set(tx.execute(sa.select(c.id).where(c.id.in_(key_ids), c.revoked_at.is_(None))).scalars())


def list_keys(tx: Tx, merchant_id: str | None = None) -> list[Key]:
    """The keys of one merchant, or all keys, revoked ones too."""
    c = api_keys.c
    query = sa.select(*(c[name] for name in Key.__dataclass_fields__)).order_by(c.id)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    return [Key(**row) for row in tx.execute(query).mappings()]


def revoke_key(tx: Tx, key_id: str, now: datetime, *, merchant_id: str | None = None) -> bool:
    """True if the key worked until now; with `merchant_id` only a key of that merchant is revoked."""
    revoke = sa.update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    if merchant_id is not None:
        revoke = revoke.where(api_keys.c.merchant_id == merchant_id)
    return tx.execute(revoke.values(revoked_at=now)).rowcount == 1
