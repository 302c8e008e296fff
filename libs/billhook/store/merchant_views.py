"""Links to a merchant's own pages: whoever holds one sees, and may mend, what is that merchant's, for a short while."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id

merchant_views = sa.Table(
    "merchant_views",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("may_change", sa.Boolean, nullable=False),  # else it only shows
    sa.Column("embed_origins", sa.JSON, nullable=False),  # whose pages may frame it
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_merchant_views_expires_at", "expires_at"),
    sa.Index("ix_merchant_views_merchant_id", "merchant_id", "id"),
)


@dataclass(frozen=True)
class MerchantView:
    id: str
    merchant_id: str
    may_change: bool
    embed_origins: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime


_SHOWN = [column for column in merchant_views.c if column.name != "digest"]


def add_merchant_view(
    tx: Tx,
    merchant_id: str,
    *,
    may_change: bool,
    embed_origins: Sequence[str],
    expires_at: datetime,
    by: str,
    now: datetime,
) -> tuple[MerchantView, str]:
    """A link and its token, of which only a digest is stored. Those that are over are swept away with it."""
    tx.execute(sa.delete(merchant_views).where(merchant_views.c.expires_at <= now))
    view = MerchantView(new_id("view"), merchant_id, may_change, [*embed_origins], now, by, expires_at)
    token = secrets.token_urlsafe(32)
    tx.execute(merchant_views.insert().values(**vars(view), digest=_digest(token)))
    return view, token


def find_merchant_view(tx: Tx, token: str, now: datetime) -> MerchantView | None:
    """The link of a token, while it is good."""
    c = merchant_views.c
    query = sa.select(*_SHOWN).where(c.digest == _digest(token), c.expires_at > now)
    row = tx.execute(query).mappings().first()
    return MerchantView(**row) if row else None


def revoke_merchant_view(tx: Tx, view_id: str, *, merchant_id: str) -> bool:
    """True if there was one of that merchant's."""
    c = merchant_views.c
    return tx.execute(sa.delete(merchant_views).where(c.id == view_id, c.merchant_id == merchant_id)).rowcount == 1


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
