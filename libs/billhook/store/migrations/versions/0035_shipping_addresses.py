"""Where what was bought is shipped to, and the seller's own tax ids."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0035"
down_revision = "0034"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("invoices", sa.Column("seller_tax_ids", JSON, nullable=False, server_default="[]"))
    for table in ("invoices", "checkout_sessions"):
        op.add_column(table, sa.Column("shipping_name", sa.Text()))
        op.add_column(table, sa.Column("shipping_address", JSON))
