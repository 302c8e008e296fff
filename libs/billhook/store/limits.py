"""How many of each thing a merchant has that it may not have any number of."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.endpoints import endpoints
from billhook.store.merchants import api_keys, merchants
from billhook.store.own_invoices import own_invoices
from billhook.store.replays import replays
from billhook.store.sources import sources
from billhook.store.templates import templates
from billhook.store.work import DUE


def count_of(tx: Tx, what: str, merchant_id: str, now: datetime) -> int:
    """How many a merchant has: endpoints, sources, templates, drafts, keys or replays. Those that are over do not
    count."""
    keys = api_keys.c
    table, still = {
        "endpoints": (endpoints, endpoints.c.deleted_at.is_(None)),
        "sources": (sources, sources.c.disabled_at.is_(None)),
        "templates": (templates, templates.c.retired_at.is_(None)),
        "drafts": (own_invoices, own_invoices.c.state == sa.literal_column("'draft'")),  # as its partial index says
        "keys": (
            api_keys,
            sa.and_(keys.revoked_at.is_(None), sa.or_(keys.expires_at.is_(None), keys.expires_at > now)),
        ),
        "replays": (replays, replays.c.state == DUE),
    }[what]
    mine = sa.select(sa.func.count()).select_from(table).where(table.c.merchant_id == merchant_id, still)
    return int(tx.execute(mine).scalar_one())


def lock_merchant(tx: Tx, merchant_id: str) -> None:
    """Until the transaction ends, nobody else adds what is counted."""
    tx.execute(sa.select(merchants.c.id).where(merchants.c.id == merchant_id).with_for_update(key_share=True))
