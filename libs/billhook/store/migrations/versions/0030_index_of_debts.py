"""An index of debts by the customer first, whom products ask about: one that nobody knows is one look into it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.drop_index("ix_dunning_cases_customer_id", "dunning_cases")
    op.create_index(
        "ix_dunning_cases_customer_id",
        "dunning_cases",
        ["customer_id", "merchant_id"],
        sqlite_where=sa.text("owing = 1"),
        postgresql_where=sa.text("owing"),
    )
