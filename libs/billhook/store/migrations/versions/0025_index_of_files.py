"""An index of documents by their files: when an old document is deleted, is its file a younger one's too?"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.create_index("ix_documents_object_key", "documents", ["object_key"])
