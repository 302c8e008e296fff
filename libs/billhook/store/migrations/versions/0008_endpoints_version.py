"""A number a merchant that says whether its endpoints are those that somebody remembers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("merchants", sa.Column("endpoints_version", sa.BigInteger(), nullable=False, server_default="0"))
