"""Who a checkout was for, where it was nobody's customer, and the tax in what was paid."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"

TEXT = sa.Text()
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("checkout_sessions", sa.Column("amount_tax", sa.BigInteger(), nullable=True))
    for name, kind in (
        ("customer_name", TEXT),
        ("customer_email", TEXT),
        ("customer_address", JSON),
        ("customer_tax_ids", JSON),
    ):
        op.add_column("checkout_sessions", sa.Column(name, kind, nullable=True))
