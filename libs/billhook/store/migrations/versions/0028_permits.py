"""Permits to call a provider's account, in the place of the instant up to which turns were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.add_column("provider_limits", sa.Column("permits", sa.JSON()))
    op.drop_column("provider_limits", "spent")
