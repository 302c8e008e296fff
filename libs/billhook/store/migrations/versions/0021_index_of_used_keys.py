"""An index of idempotency keys by their messages, which are looked for when a message is deleted."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_index("ix_idempotency_keys_message_id", "idempotency_keys", ["message_id"])
