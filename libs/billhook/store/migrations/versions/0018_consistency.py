"""Runs that import, events that were given up, and since when an endpoint wants what it wants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("reconciliation_runs", sa.Column("mode", sa.Text(), nullable=False, server_default="compare"))
    op.add_column("reconciliation_runs", sa.Column("tells", sa.Boolean(), nullable=False, server_default=sa.true()))
    dead = sa.text("state = 'dead'")
    op.create_index("ix_inbox_dead", "inbox", ["source_id", "id"], sqlite_where=dead, postgresql_where=dead)
    op.add_column("endpoints", sa.Column("wants_since", Instant()))
