"""Replays of what came in, of a source."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("replays", sa.Column("source_id", sa.Text()))
