"""One unique index of the book's objects: their id, which is made of source, account and the provider's id.

A second one on these three said the same again. But PostgreSQL settles a conflict in one index only, so of two who
were told of a new object at once one could fail in the other.
"""

from __future__ import annotations

import re

from alembic import op

revision = "0034"
down_revision = "0033"

_BOOK = (
    *("customers", "products", "prices", "subscriptions", "invoices", "payments", "charges", "invoice_payments"),
    *("refunds", "credit_notes", "disputes", "checkout_sessions", "subscription_schedules"),
)
_KEY = ["source_id", "account", "external_id"]


def upgrade() -> None:
    for table in _BOOK:
        if op.get_bind().dialect.name == "postgresql":
            op.drop_constraint(_unique(table), table, type_="unique")
        else:
            _make_anew(table)
        op.create_index(f"ix_{table}_external_id", table, _KEY)


def _unique(table: str) -> str:
    return f"uq_{table}_{'_'.join(_KEY)}"


def _make_anew(table: str) -> None:
    """SQLite drops no constraint. By its own words for the table and its indexes: to have them read and written down
    again takes twice as long."""
    run = op.get_bind().exec_driver_sql
    words = run(f"SELECT sql FROM sqlite_master WHERE tbl_name = '{table}' AND sql IS NOT NULL ORDER BY type DESC")
    made, *indexes = words.scalars()
    without = re.sub(rf",\s*CONSTRAINT {_unique(table)} UNIQUE \([^)]*\)", "", made)
    assert without != made
    run(f"ALTER TABLE {table} RENAME TO {table}_before")
    run(without)
    run(f"INSERT INTO {table} SELECT * FROM {table}_before")
    run(f"DROP TABLE {table}_before")
    for index in indexes:
        run(index)
