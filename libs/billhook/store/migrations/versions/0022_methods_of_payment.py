"""How an own invoice was paid, which its receipt says."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("own_invoices", sa.Column("payment_method", sa.Text()))
