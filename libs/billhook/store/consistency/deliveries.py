"""Messages against deliveries, and deliveries against attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import sqlalchemy as sa

from billhook.rules.delivery import DELIVERED, wants
from billhook.rules.reconcile import drift_of
from billhook.store.bulk import among
from billhook.store.consistency.check import Difference, Page, Scope, by_id
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.endpoints import endpoints_of_merchants
from billhook.store.messages import messages


def undelivered(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """Endpoints that wanted a message and have no delivery of it. Of one that came, changed or was disabled since,
    nobody knows what it wanted."""
    listening = [
        one
        for one in endpoints_of_merchants(tx, [scope.merchant_id])
        if one.disabled_at is None and one.merchant_id == scope.merchant_id
    ]
    c = messages.c
    query = sa.select(c.id, c.type, c.created_at).where(
        among(tx, c.id, ids), c.pruned_at.is_(None), c.type.not_like("endpoint.%"), c.type != "ping"
    )
    told = list(tx.execute(query))
    d = deliveries.c
    there = {
        (row[0], row[1])
        for row in tx.execute(sa.select(d.message_id, d.endpoint_id).where(among(tx, d.message_id, ids)))
    }
    found = []
    for message_id, event_type, created_at in told:
        for endpoint in listening:
            wanted = max(endpoint.created_at, endpoint.wants_since or endpoint.created_at) < created_at
            if wanted and wants(endpoint.event_types, event_type) and (message_id, endpoint.id) not in there:
                drift = drift_of("delivery", f"{message_id} {endpoint.id}", {"delivery": (None, "due")})
                found += [Difference(drift)] if drift else []
    return found


def unanswered(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """What was delivered, and no attempt was answered so. Attempts are kept for a shorter time."""
    a, d = delivery_attempts.c, deliveries.c
    query = sa.select(d.id).where(among(tx, d.id, ids), d.state == DELIVERED)
    answered = sa.exists().where(a.delivery_id == d.id, a.outcome == "2xx")
    found = []
    for delivery_id in tx.execute(query.where(~answered)).scalars():
        drift = drift_of("delivery_attempts", delivery_id, {"outcome": (None, "2xx")})
        found += [Difference(drift)] if drift else []
    return found


ATTEMPTS_KEPT: Final = timedelta(days=7)
"""Deliveries that are younger have their attempts, however short the retention."""


def recent_deliveries(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    since = max(scope.since, scope.until - ATTEMPTS_KEPT)
    return by_id(deliveries, "dlv")(tx, Scope(scope.merchant_id, scope.source_id, since, scope.until), cursor)
