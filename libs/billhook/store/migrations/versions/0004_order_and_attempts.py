"""Held and replayed deliveries in the order's rule; attempts with what was sent, numbered through replays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_HELD = sa.text("state = 'held'")


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("replayed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("deliveries", sa.Column("attempts_before", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(
        "ix_deliveries_held",
        "deliveries",
        ["endpoint_id", "subject", "id"],
        sqlite_where=_HELD,
        postgresql_where=_HELD,
    )
    op.add_column("delivery_attempts", sa.Column("url", sa.Text()))
    op.add_column("delivery_attempts", sa.Column("request_headers", sa.JSON()))
