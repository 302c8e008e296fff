"""An index of drafts, which are counted when another is made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    draft = sa.text("state = 'draft'")
    op.create_index(
        "ix_own_invoices_drafts", "own_invoices", ["merchant_id"], sqlite_where=draft, postgresql_where=draft
    )
