"""Indexes for what relays measure: each holds only the rows that are counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_INDEXES = (
    ("ix_dunning_cases_closed", "dunning_cases", ["closed_at"], "closed_at IS NOT NULL"),
    ("ix_endpoints_failing", "endpoints", ["failing_since"], "failing_since IS NOT NULL"),
    ("ix_endpoints_disabled", "endpoints", ["disabled_at"], "disabled_at IS NOT NULL"),
    ("ix_reconciliation_runs_done", "reconciliation_runs", ["source_id", "finished_at"], "state = 'done'"),
    (
        "ix_reconciliation_findings_open",
        "reconciliation_findings",
        ["finding_class"],
        "state IN ('confirmed', 'reopened')",
    ),
)


def upgrade() -> None:
    for name, table, columns, condition in _INDEXES:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
