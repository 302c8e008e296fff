"""Invoices and credit notes of a period, without their lines: what exports are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.decoding import decode
from billhook.rules.document import TaxTotal
from billhook.rules.export import Kind
from billhook.store.book import TABLES
from billhook.store.database import Tx
from billhook.store.own_credit_notes import own_credit_notes
from billhook.store.own_invoices import own_invoices

_SNAPSHOTS: Final = 20
"""Read at once: one of 10,000 lines is some megabytes."""


class _Taxes(msgspec.Struct, frozen=True):
    """All that an export wants of a snapshot."""

    taxes: tuple[TaxTotal, ...] = ()


def exported_ids(
    tx: Tx,
    kind: Kind,
    merchant_id: str | None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    status: str | None = None,
    livemode: bool = True,
) -> list[str]:
    """The ids of a merchant's invoices or credit notes (None: of all), mirrored and own ones, that were issued, or
    where they are not yet, made in the period; in the order of their numbers, and what has none at the end. Either
    those of live sources or those of sources in test mode, for no book has both.

    All at once, since SQL would have to sort the whole for each page: a million are 90 MB.
    """
    table = TABLES[kind]
    c = table.c
    at = sa.func.coalesce(c.finalized_at, c.created, type_=c.created.type) if kind == "invoice" else c.created
    # The series, then how long the number is: INV-9999 comes before INV-10000.
    order = (c.number.is_(None), sa.func.rtrim(c.number, "0123456789"), sa.func.length(c.number), c.number, c.id)
    query = sa.select(c.id).where(~c.deleted, c.livemode == livemode).order_by(c.merchant_id, *order)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    if since is not None:
        query = query.where(at >= since)
    if until is not None:
        query = query.where(at < until)
    if status is not None:
        query = query.where(c.status == status)
    return list(tx.execute(query).scalars())


def exported_rows(tx: Tx, kind: Kind, merchant_id: str | None, ids: Sequence[str]) -> list[dict[str, Any]]:
    """These as they are now, in this order, with `taxes`: those of billhook's own by rate, and None where only a
    provider knows. A credit note has the `invoice_number` too."""
    table = TABLES[kind]
    # Lines can be thousands on one invoice. Without them a page has a size.
    query = sa.select(*(column for column in table.c if column.name != "lines"))
    if kind == "credit_note":
        invoices = TABLES["invoice"]
        same = [table.c[name] == invoices.c[name] for name in ("source_id", "account")]
        whole = table.outerjoin(invoices, sa.and_(invoices.c.external_id == table.c.invoice, *same))
        query = query.add_columns(invoices.c.number.label("invoice_number")).select_from(whole)
    query = query.where(table.c.id.in_(ids), ~table.c.deleted)
    if merchant_id is not None:
        query = query.where(table.c.merchant_id == merchant_id)
    rows = {row["id"]: dict(row) for row in tx.execute(query).mappings()}
    taxes = dict(_taxes(tx, kind, list(rows)))
    return [{**rows[id_], "taxes": taxes.get(id_)} for id_ in ids if id_ in rows]


def _taxes(tx: Tx, kind: Kind, ids: Sequence[str]) -> Iterator[tuple[str, tuple[TaxTotal, ...]]]:
    c = own_invoices.c if kind == "invoice" else own_credit_notes.c
    for place in range(0, len(ids), _SNAPSHOTS):
        some = ids[place : place + _SNAPSHOTS]
        for row in tx.execute(sa.select(c.id, c.snapshot).where(c.id.in_(some), c.snapshot.is_not(None))):
            yield row.id, decode(row.snapshot, _Taxes).taxes
