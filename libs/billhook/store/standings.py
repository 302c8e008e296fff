"""What merchants were last told of their customers' standing, so that they hear of each change once. The standing
itself is computed from the cases (`dunning_cases.debts`), so it is never out of date."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billhook.rules.standing import StandingState
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


def told_standing(tx: Tx, merchant_id: str, customer: str) -> StandingState:
    """The state that was told last, locked."""
    c = customer_standings.c
    query = sa.select(c.state).where(c.merchant_id == merchant_id, c.customer == customer).with_for_update()
    return tx.execute(query).scalar() or "active"


def set_standing(tx: Tx, merchant_id: str, customer: str, state: StandingState, now: datetime) -> None:
    values = {"merchant_id": merchant_id, "customer": customer, "state": state, "told_at": now}
    statement = insert_into(tx, customer_standings).values(**values)
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["merchant_id", "customer"], set_={"state": state, "told_at": now}
        )
    )
