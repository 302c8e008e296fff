"""What merchants were last told of their customers' standing, so that they hear of each change once. The standing
itself is computed from the cases (`dunning_cases.debts`), so it is never out of date."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa

from billhook.rules.standing import StandingState
from billhook.store.bulk import among
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata

customer_standings = sa.Table(
    "customer_standings",
    metadata,
    merchant_column(),
    sa.Column("customer", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("told_at", Instant, nullable=False),
    sa.PrimaryKeyConstraint("merchant_id", "customer"),
)


def told_standings(tx: Tx, merchant_id: str, customers: Collection[str]) -> dict[str, StandingState]:
    """The state of each that was told last, locked."""
    c = customer_standings.c
    query = sa.select(c.customer, c.state).where(c.merchant_id == merchant_id, among(tx, c.customer, customers))
    told = {row[0]: row[1] for row in tx.execute(query.order_by(c.customer).with_for_update())}
    return {customer: told.get(customer, "active") for customer in customers}


def set_standings(tx: Tx, merchant_id: str, states: Mapping[str, StandingState], now: datetime) -> None:
    if not states:
        return
    statement = insert_into(tx, customer_standings)
    said = {"state": statement.excluded.state, "told_at": statement.excluded.told_at}
    rows = [
        {"merchant_id": merchant_id, "customer": customer, "state": states[customer], "told_at": now}
        for customer in sorted(states)
    ]
    tx.execute(statement.on_conflict_do_update(index_elements=["merchant_id", "customer"], set_=said), rows)
