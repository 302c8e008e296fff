"""What merchants put on their providers' invoices besides: an order's number, a project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0032"
down_revision = "0031"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("invoices", sa.Column("custom_fields", JSON, nullable=False, server_default="[]"))
