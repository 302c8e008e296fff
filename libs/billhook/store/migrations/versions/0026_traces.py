"""The traces that work belongs to, so that they survive the queues."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    for table in ("inbox", "messages", "documents", "mails", "dunning_cases", "payment_attempts"):
        op.add_column(table, sa.Column("traceparent", sa.Text()))
