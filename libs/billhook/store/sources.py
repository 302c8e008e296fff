"""Sources: where a merchant's events come from, and the secrets that prove it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.merchants import COLUMNS, Merchant, merchant_of, merchants
from billhook.store.schema import Instant, metadata, new_id
from billhook.store.statements import Statement, among

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("merchant_id", sa.Text, sa.ForeignKey("merchants.id"), nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("previous_secret", sa.LargeBinary),  # sealed; still accepted while a rotation is under way
    sa.Column("api_key", sa.LargeBinary),  # sealed; to ask the provider what events alone cannot say
    sa.Column("api_base", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
    sa.Column("livemode", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("warning", sa.Text),  # what is wrong with it, and what to do
    sa.Index("ix_sources_merchant_id", "merchant_id"),
)


@dataclass(frozen=True)
class Source:
    id: str
    merchant_id: str
    provider: str
    name: str
    secret: bytes
    previous_secret: bytes | None
    api_key: bytes | None
    api_base: str | None
    """The address of the provider's API where it is not the provider's own (a test server, a proxy)."""
    created_at: datetime
    disabled_at: datetime | None
    livemode: bool
    """Whether real money moves there. Events of the other mode are kept and ignored."""
    warning: str | None

    @property
    def sealed_secrets(self) -> list[bytes]:
        return [self.secret] if self.previous_secret is None else [self.secret, self.previous_secret]


def create_source(
    tx: Tx,
    merchant_id: str,
    provider: str,
    name: str,
    secret: bytes,
    now: datetime,
    *,
    api_key: bytes | None = None,
    api_base: str | None = None,
    livemode: bool = True,
) -> Source:
    source = Source(
        new_id("src"), merchant_id, provider, name, secret, None, api_key, api_base, now, None, livemode, None
    )
    tx.execute(sources.insert().values(**vars(source)))
    return source


def get_source(tx: Tx, source_id: str, *, merchant_id: str | None = None) -> Source | None:
    query = sa.select(sources).where(sources.c.id == source_id)
    if merchant_id is not None:
        query = query.where(sources.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Source(**row) if row else None


def sources_of(tx: Tx, source_ids: Collection[str]) -> dict[str, Source]:
    return {row[0]: Source(*row) for row in _BY_ID.rows(tx, ids=[*source_ids])}


_COLUMNS: Final = tuple(sources.c[name] for name in Source.__dataclass_fields__)
_BY_ID: Final = Statement(lambda sqlite: sa.select(*_COLUMNS).where(among(sources.c.id, "ids", sqlite)))


def sources_with_merchants(tx: Tx, source_ids: Collection[str]) -> dict[str, tuple[Source, Merchant]]:
    """These sources, each with its merchant."""
    found = ((Source(*row[: len(_COLUMNS)]), row[len(_COLUMNS) :]) for row in _WHOSE.rows(tx, ids=[*source_ids]))
    return {source.id: (source, merchant_of(values)) for source, values in found}


_WHOSE: Final = Statement(
    lambda sqlite: (
        sa.select(*_COLUMNS, *COLUMNS)
        .join_from(sources, merchants, merchants.c.id == sources.c.merchant_id)
        .where(among(sources.c.id, "ids", sqlite))
    )
)


def list_sources(tx: Tx, merchant_id: str | None = None, *, after: str = "", limit: int | None = None) -> list[Source]:
    query = sa.select(sources).where(sources.c.id > after).order_by(sources.c.id).limit(limit)
    if merchant_id is not None:
        query = query.where(sources.c.merchant_id == merchant_id)
    return [Source(**row) for row in tx.execute(query).mappings()]


def rotate_secret(tx: Tx, source_id: str, secret: bytes) -> None:
    """The new secret counts from now on; the one before it is accepted until `end_rotation`."""
    tx.execute(
        sa.update(sources).where(sources.c.id == source_id).values(secret=secret, previous_secret=sources.c.secret)
    )


def end_rotation(tx: Tx, source_id: str) -> None:
    tx.execute(sa.update(sources).where(sources.c.id == source_id).values(previous_secret=None))


def set_api_key(tx: Tx, source_id: str, api_key: bytes | None, api_base: str | None) -> None:
    tx.execute(
        sa.update(sources).where(sources.c.id == source_id).values(api_key=api_key, api_base=api_base, warning=None)
    )


def set_mode(tx: Tx, source_id: str, livemode: bool) -> None:
    """Take events of this mode from now on; what is in the book stays as it is."""
    tx.execute(sa.update(sources).where(sources.c.id == source_id).values(livemode=livemode))


def set_warning(tx: Tx, source_id: str, warning: str | None) -> None:
    tx.execute(sa.update(sources).where(sources.c.id == source_id).values(warning=warning))


def disable_source(tx: Tx, source_id: str, now: datetime | None) -> None:
    """Refuse events from now on; None enables the source again."""
    tx.execute(sa.update(sources).where(sources.c.id == source_id).values(disabled_at=now))
