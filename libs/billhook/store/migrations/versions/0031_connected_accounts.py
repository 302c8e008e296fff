"""Reconciliation of the accounts that are connected to a source: where a run is, and whose object a finding is of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.create_table(
        "connected_accounts",
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("met_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("source_id", "account", name="pk_connected_accounts"),
    )
    op.add_column("reconciliation_runs", sa.Column("account", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.add_column("reconciliation_runs", sa.Column("accounts", sa.Integer(), nullable=False, server_default="0"))
    before, after = (
        f"uq_reconciliation_findings_{names}"
        for names in ("source_id_kind_external_id", "source_id_account_kind_external_id")
    )
    with op.batch_alter_table("reconciliation_findings") as batch:
        batch.add_column(sa.Column("account", sa.Text(), nullable=False, server_default=sa.text("''")))
        batch.drop_constraint(before, type_="unique")
        batch.create_unique_constraint(after, ["source_id", "account", "kind", "external_id"])
