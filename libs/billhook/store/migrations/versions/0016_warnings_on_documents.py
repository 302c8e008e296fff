"""What is not right with a document's file, such as letters that no font had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("documents", sa.Column("warning", sa.Text()))
