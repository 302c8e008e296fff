"""The inbox: what was given up, and what came twice with other bytes."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from billhook.rules.reconcile import drift_of
from billhook.store.bulk import among
from billhook.store.consistency.check import PAGE, Difference, Page, Scope
from billhook.store.database import Tx
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.reconciliation import reconciliation_findings
from billhook.store.work import DEAD


def given_up(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = inbox.c
    query = sa.select(c.external_id).where(
        c.source_id == scope.source_id, among(tx, c.external_id, ids), c.state == DEAD
    )
    found = (drift_of("event", one, {"state": (DEAD, "processed")}) for one in tx.execute(query).scalars())
    return [Difference(drift) for drift in found if drift]


def given_up_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = inbox.c
    query = sa.select(c.id, c.external_id).where(
        c.source_id == scope.source_id,
        c.state == DEAD,
        c.received_at >= scope.since,
        c.received_at < scope.until,
        c.id > (cursor or ""),
    )
    found = list(tx.execute(query.order_by(c.id).limit(PAGE)))
    return Page([row[1] for row in found], found[-1][0] if len(found) == PAGE else None)


def conflicts(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c, e, f = inbox_conflicts.c, inbox.c, reconciliation_findings.c
    query = sa.select(c.id, c.sha256, e.sha256, e.external_id).join(inbox, e.id == c.inbox_id)
    # The two stay different for good: what somebody has seen to is over.
    decided = sa.exists().where(
        f.source_id == scope.source_id,
        f.kind == "inbox_conflict",
        f.external_id == c.id,
        f.state.in_(("repaired", "accepted")),
    )
    query = query.where(among(tx, c.id, ids), e.source_id == scope.source_id, ~decided)
    found = []
    for conflict_id, other, first, external_id in tx.execute(query):
        told = {"sha256": (bytes(first).hex(), bytes(other).hex()), "event": (external_id, external_id)}
        found += [Difference(drift) for drift in [drift_of("inbox_conflict", conflict_id, told)] if drift]
    return found
