"""The invoices of a merchant whose payment failed: what a dunning policy can be played through with."""

from __future__ import annotations

import sqlalchemy as sa

from billhook.store.book import TABLES
from billhook.store.database import Tx
from billhook.store.messages import messages


def failed_invoices(tx: Tx, merchant_id: str, *, limit: int = 1000) -> list[dict[str, object]]:
    """When each first failed, as the messages about it tell, and when it was paid, the latest failures first."""
    invoices = TABLES["invoice"]
    failed = (
        sa.select(messages.c.object_id, sa.func.min(messages.c.occurred_at).label("failed_at"))
        .where(messages.c.merchant_id == merchant_id, messages.c.type == "invoice.payment_failed")
        .group_by(messages.c.object_id)
        .subquery()
    )
    query = (
        sa.select(invoices.c.id, invoices.c.merchant_id, invoices.c.external_id, invoices.c.paid_at, failed.c.failed_at)
        .join(failed, failed.c.object_id == invoices.c.id)
        .where(invoices.c.merchant_id == merchant_id)
        .order_by(failed.c.failed_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in tx.execute(query).mappings()]
