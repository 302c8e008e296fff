"""Invoices of a period, page by page, without their lines: what exports are made from."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billhook.store.book import TABLES
from billhook.store.database import Tx

_invoices = TABLES["invoice"]

# Lines can be thousands on one invoice. Without them a page has a size.
_COLUMNS = [column for column in _invoices.c if column.name != "lines"]


def invoices_between(
    tx: Tx,
    merchant_id: str | None,
    *,
    since: datetime | None,
    until: datetime | None,
    status: str | None,
    after: str,
    limit: int,
) -> list[sa.RowMapping]:
    """One page of a merchant's invoices (None: of all), by id: those issued, or where they are not yet, made in the
    period, mirrored and own ones."""
    c = _invoices.c
    at = sa.func.coalesce(c.finalized_at, c.created, type_=c.created.type)
    query = sa.select(*_COLUMNS).where(c.id > after, ~c.deleted).order_by(c.id).limit(limit)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    if since is not None:
        query = query.where(at >= since)
    if until is not None:
        query = query.where(at < until)
    if status is not None:
        query = query.where(c.status == status)
    return list(tx.execute(query).mappings())
