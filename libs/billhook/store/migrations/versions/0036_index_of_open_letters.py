"""Indexes of open dead letters: a page of them walked through all that were ever resolved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    op.drop_index("ix_dead_letters_merchant_id", "dead_letters")
    for name, columns in (("open", ["id"]), ("open_of_merchant", ["merchant_id", "id"])):
        only = sa.text("resolved_at IS NULL")
        op.create_index(f"ix_dead_letters_{name}", "dead_letters", columns, sqlite_where=only, postgresql_where=only)
