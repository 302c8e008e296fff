"""Invoices with shipping, credits, the tax their amounts contain, and what credit notes took off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for name in ("credits", "shipping", "tax_included", "credited_before_payment", "credited_after_payment"):
        op.add_column("invoices", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    # Of what was mirrored before, the total says whether the tax was put on top.
    op.execute("UPDATE invoices SET tax_included = tax WHERE total = subtotal - discount")
