"""Dunning cases under way are found by their customer and their subscription."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

DUE = sa.text("state = 'due'")


def upgrade() -> None:
    for name in ("customer", "subscription"):
        op.create_index(
            f"ix_dunning_cases_due_{name}",
            "dunning_cases",
            ["merchant_id", name],
            sqlite_where=DUE,
            postgresql_where=DUE,
        )
