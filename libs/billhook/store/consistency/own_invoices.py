"""Own invoices against the book."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from billhook.rules.reconcile import drift_of
from billhook.store.bulk import among
from billhook.store.consistency.check import Difference, Scope, values_of
from billhook.store.database import Tx
from billhook.store.own_invoices import own_invoices


def own_that_differ(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = own_invoices.c
    query = sa.select(c.id, c.state, c.total, c.amount_paid, c.currency).where(among(tx, c.id, ids))
    entries = values_of(tx, "invoice", ids)
    found = []
    for row in tx.execute(query.where(c.merchant_id == scope.merchant_id)).mappings():
        entry = entries.get(row["id"], (None, None))[0]
        if row["state"] == "deleted":
            continue
        told: dict[str, tuple[Any, Any]] = {}
        if entry is None:
            told["entry"] = (None, row["state"])
        else:
            pairs = {
                "status": (entry.status, row["state"]),
                "total": (entry.total, row["total"]),
                "amount_paid": (entry.amount_paid, row["amount_paid"]),
            }
            told = {name: sides for name, sides in pairs.items() if sides[0] != sides[1]}
        drift = drift_of("own_invoice", row["id"], told)
        found += [Difference(drift, row["total"], row["currency"])] if drift else []
    return found
