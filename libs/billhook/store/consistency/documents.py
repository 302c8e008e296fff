"""Documents against finalized invoices. (Their files are looked at by whoever has the storage.)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from billhook.rules.invoice import documents_due
from billhook.rules.reconcile import drift_of
from billhook.store.bulk import among
from billhook.store.consistency.check import Difference, Scope, values_of
from billhook.store.database import Tx
from billhook.store.documents import documents
from billhook.store.work import DEAD


def undocumented(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = documents.c
    made: dict[tuple[str, str], list[str]] = defaultdict(list)
    query = sa.select(c.subject_id, c.kind, c.state).where(among(tx, c.subject_id, ids))
    for subject_id, kind, state in tx.execute(query):
        made[(subject_id, kind)].append(state)
    found = []
    for invoice_id, (invoice, _) in values_of(tx, "invoice", ids).items():
        for kind in documents_due(invoice) if invoice.lines_complete else ():
            states = made.get((invoice_id, kind), [])
            if states and set(states) != {DEAD}:
                continue
            drift = drift_of("document", f"{invoice_id} {kind}", {"document": (DEAD if states else None, "ready")})
            found += [Difference(drift, invoice.total, invoice.currency)] if drift else []
    return found


def nothing(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    return []


def files_of(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[sa.RowMapping]:
    """The files of these documents, for a look at the storage."""
    c = documents.c
    query = sa.select(c.id, c.object_key, c.sha256).where(
        c.merchant_id == scope.merchant_id, among(tx, c.id, ids), c.state == "ready", c.object_key.is_not(None)
    )
    return list(tx.execute(query.order_by(c.id)).mappings())
