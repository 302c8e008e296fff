"""A mark on merchants that a demo made, which are nobody's company."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("merchants", sa.Column("demo", sa.Boolean(), nullable=False, server_default=sa.false()))
