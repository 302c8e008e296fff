"""Runs of the reconciler and what they find; the book's objects by when they were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0011"
down_revision = "0010"

_BOOK = (
    *("customers", "products", "prices", "subscriptions", "invoices", "payments", "charges", "invoice_payments"),
    *("refunds", "credit_notes", "disputes", "checkout_sessions", "subscription_schedules"),
)
_DUE = sa.text("state = 'due'")


def upgrade() -> None:
    op.create_table(
        "reconciliation_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.Column("lists", sa.JSON(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cursor", sa.Text()),
        sa.Column("window_end", Instant()),
        sa.Column("looks", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("repairs", sa.Boolean(), nullable=False),
        sa.Column("compared", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("confirmed", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("repaired", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="due"),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("token", sa.Text()),
        sa.Column("last_error", sa.Text()),
        sa.Column("finished_at", Instant()),
        sa.PrimaryKeyConstraint("id", name="pk_reconciliation_runs"),
        sa.UniqueConstraint("source_id", "slot", name="uq_reconciliation_runs_source_id_slot"),
    )
    op.create_index(
        "ix_reconciliation_runs_due", "reconciliation_runs", ["due_at"], sqlite_where=_DUE, postgresql_where=_DUE
    )
    op.create_index("ix_reconciliation_runs_merchant_id", "reconciliation_runs", ["merchant_id", "id"])
    op.create_table(
        "reconciliation_findings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("finding_class", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.Column("seen", sa.JSON(), nullable=False),
        sa.Column("local_version", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger()),
        sa.Column("currency", sa.Text()),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("suspected_by", sa.Text()),
        sa.Column("first_seen_at", Instant(), nullable=False),
        sa.Column("last_seen_at", Instant(), nullable=False),
        sa.Column("decided_by", sa.Text()),
        sa.Column("decided_at", Instant()),
        sa.PrimaryKeyConstraint("id", name="pk_reconciliation_findings"),
        sa.UniqueConstraint(
            "source_id", "kind", "external_id", name="uq_reconciliation_findings_source_id_kind_external_id"
        ),
    )
    op.create_index("ix_reconciliation_findings_merchant_id", "reconciliation_findings", ["merchant_id", "id"])
    op.create_index("ix_reconciliation_findings_suspected_by", "reconciliation_findings", ["suspected_by"])
    for table in _BOOK:
        op.create_index(f"ix_{table}_created", table, ["source_id", "created"])
