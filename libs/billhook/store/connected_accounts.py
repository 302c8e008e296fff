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
)


def next_account(tx: Tx, source_id: str, after: str) -> str | None:
    """The next account of which anything is in the book: one look into an index of each kind, however many accounts
    and objects there are."""
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


def met_at(tx: Tx, source_id: str, account: str) -> datetime | None:
    c = connected_accounts.c
    query = sa.select(c.met_at).where(c.source_id == source_id, c.account == account)
    return tx.execute(query).scalar_one_or_none()
