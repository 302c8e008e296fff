"""Whether the provider is to be asked what the bank said of the charge that opened a case."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.add_column("dunning_cases", sa.Column("first_look", sa.Boolean(), nullable=False, server_default=sa.false()))
