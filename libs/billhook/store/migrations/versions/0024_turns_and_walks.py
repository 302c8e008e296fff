"""Turns at a provider's account that are booked ahead, and where the walk over a merchant's files stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("provider_limits", sa.Column("booked", Instant()))
    op.create_table(
        "file_walks",
        sa.Column("merchant_id", sa.Text()),
        sa.Column("place", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("merchant_id", name="pk_file_walks"),
    )
    # A run in the middle of a list begins that list again: a place has more in it than before.
    op.execute("UPDATE reconciliation_runs SET cursor = NULL, window_end = NULL WHERE state = 'due'")
