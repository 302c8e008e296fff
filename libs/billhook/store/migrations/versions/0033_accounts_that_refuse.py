"""Since when a key may not see a connected account: it is passed over every hour, and tried again every night."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    op.add_column("connected_accounts", sa.Column("refused_at", Instant()))
