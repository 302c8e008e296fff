"""The table of used idempotency keys, by its name in the field: `publications` becomes `idempotency_keys`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.rename_table("publications", "idempotency_keys")
        for kind in ("pk_{}", "fk_{}_message_id"):
            old, new = kind.format("publications"), kind.format("idempotency_keys")
            op.execute(f"ALTER TABLE idempotency_keys RENAME CONSTRAINT {old} TO {new}")
        op.execute("ALTER INDEX ix_publications_created_at RENAME TO ix_idempotency_keys_created_at")
        return
    # SQLite cannot rename a constraint.
    op.create_table(
        "idempotency_keys",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("merchant_id", "idempotency_key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_idempotency_keys_message_id"),
    )
    names = "merchant_id, idempotency_key, sha256, message_id, created_at"
    op.execute(f"INSERT INTO idempotency_keys ({names}) SELECT {names} FROM publications")
    op.drop_table("publications")
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
