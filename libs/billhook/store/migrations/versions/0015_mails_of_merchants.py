"""Mails go out in a merchant's name, with an HTML part, and are counted a merchant and day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    for name in ("html", "sender_name", "reply_to"):
        op.add_column("mails", sa.Column(name, sa.Text()))
    op.create_index("ix_mails_finished_at", "mails", ["merchant_id", "finished_at"])
