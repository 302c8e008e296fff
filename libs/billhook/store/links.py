"""Hosted links: who holds one sees one invoice, without an account, until it expires or is revoked."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id

hosted_links = sa.Table(
    "hosted_links",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("invoice_id", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
    sa.Index("ix_hosted_links_invoice_id", "invoice_id", "id"),
)


@dataclass(frozen=True)
class Link:
    """What may be shown of a link: its token cannot be told a second time."""

    id: str
    merchant_id: str
    invoice_id: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


_SHOWN = [column for column in hosted_links.c if column.name != "digest"]


def create_link(tx: Tx, merchant_id: str, invoice_id: str, expires_at: datetime, now: datetime) -> tuple[str, str]:
    """Make a link; returns (id, token). Only a digest of the token is stored: a copy of the database opens nothing."""
    link_id, token = new_id("lnk"), secrets.token_urlsafe(32)
    row = {"id": link_id, "merchant_id": merchant_id, "invoice_id": invoice_id, "digest": _digest(token)}
    tx.execute(hosted_links.insert().values(**row, created_at=now, expires_at=expires_at))
    return link_id, token


def find_link(tx: Tx, token: str, now: datetime) -> Link | None:
    """The link of a token, while it is good."""
    c = hosted_links.c
    query = sa.select(*_SHOWN).where(c.digest == _digest(token), c.revoked_at.is_(None), c.expires_at > now)
    row = tx.execute(query).mappings().first()
    return Link(**row) if row else None


def list_links(tx: Tx, invoice_id: str, *, merchant_id: str | None = None) -> list[Link]:
    """All links to an invoice, the expired and the revoked ones too."""
    query = sa.select(*_SHOWN).where(hosted_links.c.invoice_id == invoice_id).order_by(hosted_links.c.id)
    if merchant_id is not None:
        query = query.where(hosted_links.c.merchant_id == merchant_id)
    return [Link(**row) for row in tx.execute(query).mappings()]


def revoke_link(tx: Tx, link_id: str, now: datetime, *, merchant_id: str | None = None) -> bool:
    """True if it was not revoked until now; with `merchant_id` only a link of that merchant is revoked."""
    revoke = sa.update(hosted_links).where(hosted_links.c.id == link_id, hosted_links.c.revoked_at.is_(None))
    if merchant_id is not None:
        revoke = revoke.where(hosted_links.c.merchant_id == merchant_id)
    return tx.execute(revoke.values(revoked_at=now)).rowcount == 1


def _digest(token: str) -> bytes:
    # 256 random bits: a plain hash is enough, for there is nothing to guess.
    return hashlib.sha256(token.encode()).digest()
