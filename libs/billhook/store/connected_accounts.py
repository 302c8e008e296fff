"""Accounts that are connected to a source (Stripe Connect), and since when billhook knows of each."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billhook.store.book import TABLES
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata
from billhook.store.sources import Source

connected_accounts = sa.Table(
    "connected_accounts",
    metadata,
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("met_at", Instant, nullable=False),
    sa.Column("refused_at", Instant),  # the key has not been allowed to see it since
)


def next_account(tx: Tx, source_id: str, after: str, *, refused: bool = True) -> str | None:
    """The next account of which anything is in the book; without `refused`, but for those that the key may not see."""
    account = _next(tx, source_id, after)
    while account is not None and not refused and _is_refused(tx, source_id, account):
        account = _next(tx, source_id, account)
    return account


def _next(tx: Tx, source_id: str, after: str) -> str | None:
    """One look into an index of each kind, however many accounts and objects there are."""
    firsts = []
    for table in TABLES.values():
        first = sa.select(table.c.account).where(table.c.source_id == source_id, table.c.account > after)
        firsts.append(sa.select(first.order_by(table.c.account).limit(1).scalar_subquery().label("account")))
    found = tx.execute(sa.union_all(*firsts)).scalars()
    return min((account for account in found if account is not None), default=None)


def meet_account(tx: Tx, source: Source, account: str, now: datetime) -> None:
    """Remember when it was first gone through. One that is known stays as it is."""
    row = {"source_id": source.id, "account": account, "merchant_id": source.merchant_id, "met_at": now}
    tx.execute(insert_into(tx, connected_accounts).values(row).on_conflict_do_nothing())


def _is_refused(tx: Tx, source_id: str, account: str) -> bool:
    c = connected_accounts.c
    query = sa.select(c.account).where(c.source_id == source_id, c.account == account, c.refused_at.is_not(None))
    return tx.execute(query).first() is not None


def set_refused(tx: Tx, source_id: str, account: str, refused_at: datetime | None) -> None:
    """Remember since when the key may not see it; None: it may."""
    c = connected_accounts.c
    changes = c.refused_at.is_(None) if refused_at is not None else c.refused_at.is_not(None)
    mine = (c.source_id == source_id, c.account == account, changes)
    tx.execute(sa.update(connected_accounts).where(*mine).values(refused_at=refused_at))


def met_at(tx: Tx, source_id: str, account: str) -> datetime | None:
    c = connected_accounts.c
    query = sa.select(c.met_at).where(c.source_id == source_id, c.account == account)
    return tx.execute(query).scalar_one_or_none()
