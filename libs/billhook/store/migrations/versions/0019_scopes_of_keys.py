"""What a key may do, until when, and when it was last used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from billhook.store.schema import Instant

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scope", sa.Text(), nullable=False, server_default="write"))
    op.add_column("api_keys", sa.Column("expires_at", Instant()))
    op.add_column("api_keys", sa.Column("last_used_at", Instant()))
