"""Live and test mode; the states of one second; subscription schedules; subscriptions with all their items, or not."""

from __future__ import annotations

from functools import partial

import msgspec
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB as BINARY_JSON

revision = "0007"
down_revision = "0006"

TEXT = sa.Text()
BOOLEAN = sa.Boolean()
INTEGER = sa.Integer()
JSONB = sa.JSON().with_variant(BINARY_JSON(), "postgresql")
INSTANT = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")

BOOK = (
    *("customers", "products", "prices", "subscriptions", "invoices", "payments", "charges", "invoice_payments"),
    *("refunds", "credit_notes", "disputes", "checkout_sessions"),
)
EVENTS = 100
"""How many of a source's latest events say whether it is a test."""

required = partial(sa.Column, nullable=False)
optional = partial(sa.Column, nullable=True)


def upgrade() -> None:
    op.add_column("sources", required("livemode", BOOLEAN, server_default=sa.true()))
    op.add_column("sources", optional("warning", TEXT))
    for table in BOOK:
        op.add_column(table, required("livemode", BOOLEAN, server_default=sa.true()))
        op.add_column(table, optional("version_seen", JSONB))
    op.add_column("subscriptions", required("items_complete", BOOLEAN, server_default=sa.true()))
    op.add_column("subscriptions", optional("schedule", TEXT))
    op.add_column("subscriptions", optional("collection_paused", TEXT))
    op.add_column("subscriptions", optional("collection_resumes_at", INSTANT))
    op.add_column("invoice_payments", optional("payment_record", TEXT))
    _subscription_schedules()
    _find_tests()


def _subscription_schedules() -> None:
    name = "subscription_schedules"
    op.create_table(
        name,
        required("id", TEXT),
        required("merchant_id", TEXT),
        required("source_id", TEXT),
        required("account", TEXT),
        required("livemode", BOOLEAN, server_default=sa.true()),
        required("external_id", TEXT),
        optional("created", INSTANT),
        required("deleted", BOOLEAN),
        required("metadata", JSONB),
        optional("customer", TEXT),
        optional("subscription", TEXT),
        required("status", TEXT),
        optional("end_behavior", TEXT),
        optional("current_phase_start", INSTANT),
        optional("current_phase_end", INSTANT),
        required("phases", JSONB),
        optional("canceled_at", INSTANT),
        optional("completed_at", INSTANT),
        optional("released_at", INSTANT),
        required("version_at", INSTANT),
        required("version_rank", INTEGER),
        required("version_digest", TEXT),
        optional("version_seen", JSONB),
        required("updated_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sa.UniqueConstraint("source_id", "account", "external_id", name=f"uq_{name}_source_id_account_external_id"),
    )
    op.create_index(f"ix_{name}_merchant_id", name, ["merchant_id", "id"])
    for column in ("customer", "subscription"):
        op.create_index(f"ix_{name}_{column}", name, ["merchant_id", column])


class _Mode(msgspec.Struct):
    livemode: bool | None = None


def _find_tests() -> None:
    """A source whose latest events were all of test mode is one for tests: it goes on as it was."""
    tx = op.get_bind()
    for (source,) in tx.execute(sa.text("SELECT id FROM sources WHERE provider = 'stripe'")).all():
        latest = sa.text("SELECT body FROM inbox WHERE source_id = :source ORDER BY id DESC LIMIT :events")
        bodies = tx.execute(latest, {"source": source, "events": EVENTS}).scalars()
        modes = {_mode(bytes(body)) for body in bodies} - {None}
        if modes == {False}:
            for table, column in [("sources", "id"), *((table, "source_id") for table in BOOK)]:
                tx.execute(
                    sa.text(f"UPDATE {table} SET livemode = :no WHERE {column} = :source").bindparams(
                        sa.bindparam("no", False, BOOLEAN), source=source
                    )
                )


def _mode(body: bytes) -> bool | None:
    try:
        return msgspec.json.decode(body, type=_Mode).livemode
    except msgspec.DecodeError:
        return None
