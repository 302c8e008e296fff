"""The tables as of 0.1, for both dialects.

Written from the tables in `billhook.store`, and fixed since: a later change of a table is a later migration. A test
compares what the migrations make with what the tables say.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TEXT = sa.Text()
BYTES = sa.LargeBinary()
BOOLEAN = sa.Boolean()
INTEGER = sa.Integer()
BIGINT = sa.BigInteger()
INSTANT = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
JSONB = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

required = partial(sa.Column, nullable=False)
optional = partial(sa.Column, nullable=True)


def upgrade() -> None:
    _tables()
    _book()
    if op.get_bind().dialect.name == "postgresql":
        _vacuum_work_tables()


def _tables() -> None:
    _table(
        "merchants",
        required("name", TEXT),
        required("locale", TEXT, server_default="en"),
        required("created_at", INSTANT),
    )
    _table(
        "api_keys",
        optional("merchant_id", TEXT),
        required("digest", BYTES),
        required("name", TEXT),
        required("created_at", INSTANT),
        optional("revoked_at", INSTANT),
        reference("api_keys", "merchant_id", "merchants"),
        unique("api_keys", "digest"),
    )
    _table(
        "sources",
        required("merchant_id", TEXT),
        required("provider", TEXT),
        required("name", TEXT),
        required("secret", BYTES),
        optional("previous_secret", BYTES),
        optional("api_key", BYTES),
        optional("api_base", TEXT),
        required("created_at", INSTANT),
        optional("disabled_at", INSTANT),
        reference("sources", "merchant_id", "merchants"),
    )
    op.create_index("ix_sources_merchant_id", "sources", ["merchant_id"])
    _table(
        "endpoints",
        required("merchant_id", TEXT),
        required("url", TEXT),
        required("description", TEXT),
        required("event_types", sa.JSON()),
        required("secret", BYTES),
        required("created_at", INSTANT),
        optional("disabled_at", INSTANT),
        optional("disabled_reason", TEXT),
    )
    op.create_index("ix_endpoints_merchant_id", "endpoints", ["merchant_id", "id"])
    _table(
        "inbox",
        required("merchant_id", TEXT),
        required("source_id", TEXT),
        required("account", TEXT),
        required("external_id", TEXT),
        required("type", TEXT),
        required("headers", BYTES),
        required("body", BYTES),
        required("sha256", BYTES),
        required("received_at", INSTANT),
        *_work(),
        unique("inbox", "source_id", "account", "external_id"),
    )
    _due_index("inbox")
    op.create_index("ix_inbox_merchant_id", "inbox", ["merchant_id", "id"])
    _table(
        "inbox_conflicts",
        required("merchant_id", TEXT),
        required("inbox_id", TEXT),
        required("headers", BYTES),
        required("body", BYTES),
        required("sha256", BYTES),
        required("received_at", INSTANT),
        reference("inbox_conflicts", "inbox_id", "inbox"),
        unique("inbox_conflicts", "inbox_id", "sha256"),
    )
    op.create_index("ix_inbox_conflicts_merchant_id", "inbox_conflicts", ["merchant_id", "id"])
    _table(
        "messages",
        required("merchant_id", TEXT),
        required("type", TEXT),
        required("object_kind", TEXT),
        required("object_id", TEXT),
        required("body", BYTES),
        required("inbox_id", TEXT),
        required("number", INTEGER),
        required("occurred_at", INSTANT),
        required("created_at", INSTANT),
        unique("messages", "inbox_id", "number"),
    )
    op.create_index("ix_messages_merchant_id", "messages", ["merchant_id", "id"])
    _table(
        "documents",
        required("merchant_id", TEXT),
        required("invoice_id", TEXT),
        required("kind", TEXT),
        required("snapshot", BYTES),
        required("created_at", INSTANT),
        optional("object_key", TEXT),
        optional("sha256", TEXT),
        optional("size", INTEGER),
        *_work(),
        unique("documents", "invoice_id", "kind"),
    )
    _due_index("documents")
    op.create_index("ix_documents_merchant_id", "documents", ["merchant_id", "id"])
    _table(
        "deliveries",
        required("merchant_id", TEXT),
        required("message_id", TEXT),
        required("endpoint_id", TEXT),
        required("created_at", INSTANT),
        *_work(),
        reference("deliveries", "message_id", "messages"),
        reference("deliveries", "endpoint_id", "endpoints"),
        unique("deliveries", "message_id", "endpoint_id"),
    )
    _due_index("deliveries")
    op.create_index("ix_deliveries_endpoint_id", "deliveries", ["endpoint_id", "id"])
    op.create_index("ix_deliveries_merchant_id", "deliveries", ["merchant_id", "id"])
    _table(
        "delivery_attempts",
        required("merchant_id", TEXT),
        required("delivery_id", TEXT),
        required("number", INTEGER),
        required("started_at", INSTANT),
        required("duration_ms", INTEGER),
        required("outcome", TEXT),
        optional("status_code", INTEGER),
        optional("error", TEXT),
        required("response", BYTES),
    )
    op.create_index("ix_delivery_attempts_delivery_id", "delivery_attempts", ["delivery_id", "number"])
    _table(
        "dead_letters",
        required("merchant_id", TEXT),
        required("queue", TEXT),
        required("work_id", TEXT),
        required("reason", TEXT),
        required("attempts", INTEGER),
        required("created_at", INSTANT),
        optional("resolved_at", INSTANT),
        optional("resolution", TEXT),
        optional("resolved_by", TEXT),
    )
    op.create_index("ix_dead_letters_merchant_id", "dead_letters", ["merchant_id", "id"])
    only = sa.text("resolved_at IS NULL")
    op.create_index(
        "uq_dead_letters_open",
        "dead_letters",
        ["queue", "work_id"],
        unique=True,
        sqlite_where=only,
        postgresql_where=only,
    )


def _book() -> None:
    _book_table(
        "customers",
        optional("name", TEXT),
        optional("email", TEXT),
        optional("phone", TEXT),
        optional("currency", TEXT),
        optional("address", JSONB),
        optional("tax_exempt", TEXT),
        indexed=[],
    )
    _book_table(
        "products",
        optional("name", TEXT),
        optional("description", TEXT),
        required("active", BOOLEAN),
        indexed=[],
    )
    _book_table(
        "prices",
        optional("product", TEXT),
        optional("currency", TEXT),
        optional("unit_amount", BIGINT),
        optional("unit_amount_decimal", TEXT),
        optional("interval", TEXT),
        optional("interval_count", BIGINT),
        optional("usage_type", TEXT),
        required("active", BOOLEAN),
        optional("nickname", TEXT),
        indexed=[],
    )
    _book_table(
        "subscriptions",
        optional("customer", TEXT),
        required("status", TEXT),
        optional("currency", TEXT),
        optional("current_period_start", INSTANT),
        optional("current_period_end", INSTANT),
        required("cancel_at_period_end", BOOLEAN),
        optional("cancel_at", INSTANT),
        optional("canceled_at", INSTANT),
        optional("ended_at", INSTANT),
        optional("trial_end", INSTANT),
        optional("latest_invoice", TEXT),
        optional("default_payment_method", TEXT),
        required("items", JSONB),
        indexed=["customer"],
    )
    _book_table(
        "invoices",
        optional("number", TEXT),
        optional("customer", TEXT),
        optional("subscription", TEXT),
        required("status", TEXT),
        required("currency", TEXT),
        required("subtotal", BIGINT),
        required("discount", BIGINT),
        required("tax", BIGINT),
        required("total", BIGINT),
        required("amount_due", BIGINT),
        required("amount_paid", BIGINT),
        required("amount_remaining", BIGINT),
        optional("billing_reason", TEXT),
        optional("description", TEXT),
        optional("footer", TEXT),
        required("attempt_count", BIGINT),
        optional("next_payment_attempt", INSTANT),
        optional("due_at", INSTANT),
        optional("finalized_at", INSTANT),
        optional("paid_at", INSTANT),
        optional("voided_at", INSTANT),
        optional("period_start", INSTANT),
        optional("period_end", INSTANT),
        optional("seller_name", TEXT),
        optional("seller_country", TEXT),
        optional("customer_name", TEXT),
        optional("customer_email", TEXT),
        optional("customer_address", JSONB),
        required("customer_tax_ids", JSONB),
        optional("hosted_url", TEXT),
        required("lines", JSONB),
        required("lines_complete", BOOLEAN),
        indexed=["customer", "subscription"],
    )
    _book_table(
        "payments",
        optional("customer", TEXT),
        optional("invoice", TEXT),
        required("status", TEXT),
        required("currency", TEXT),
        required("amount", BIGINT),
        required("amount_received", BIGINT),
        optional("failure_code", TEXT),
        optional("decline_code", TEXT),
        optional("failure_message", TEXT),
        indexed=["customer", "invoice"],
    )
    _book_table(
        "charges",
        optional("payment", TEXT),
        optional("customer", TEXT),
        optional("invoice", TEXT),
        required("status", TEXT),
        required("currency", TEXT),
        required("amount", BIGINT),
        required("amount_captured", BIGINT),
        required("amount_refunded", BIGINT),
        required("disputed", BOOLEAN),
        optional("failure_code", TEXT),
        optional("decline_code", TEXT),
        optional("failure_message", TEXT),
        indexed=["payment", "customer", "invoice"],
    )
    _book_table(
        "invoice_payments",
        required("invoice", TEXT),
        optional("payment", TEXT),
        optional("charge", TEXT),
        required("currency", TEXT),
        optional("amount_requested", BIGINT),
        optional("amount_paid", BIGINT),
        required("status", TEXT),
        indexed=["invoice", "payment", "charge"],
    )
    _book_table(
        "refunds",
        optional("payment", TEXT),
        optional("charge", TEXT),
        required("currency", TEXT),
        required("amount", BIGINT),
        required("status", TEXT),
        optional("reason", TEXT),
        optional("failure_reason", TEXT),
        indexed=["payment", "charge"],
    )
    _book_table(
        "credit_notes",
        optional("number", TEXT),
        required("invoice", TEXT),
        optional("customer", TEXT),
        optional("refund", TEXT),
        required("status", TEXT),
        required("currency", TEXT),
        required("subtotal", BIGINT),
        required("tax", BIGINT),
        required("total", BIGINT),
        optional("reason", TEXT),
        optional("memo", TEXT),
        optional("voided_at", INSTANT),
        indexed=["invoice", "customer"],
    )
    _book_table(
        "disputes",
        optional("charge", TEXT),
        optional("payment", TEXT),
        required("currency", TEXT),
        required("amount", BIGINT),
        required("status", TEXT),
        optional("reason", TEXT),
        optional("evidence_due_at", INSTANT),
        indexed=["charge", "payment"],
    )
    _book_table(
        "checkout_sessions",
        optional("customer", TEXT),
        optional("subscription", TEXT),
        optional("payment", TEXT),
        optional("invoice", TEXT),
        optional("mode", TEXT),
        optional("status", TEXT),
        optional("payment_status", TEXT),
        optional("currency", TEXT),
        optional("amount_total", BIGINT),
        optional("client_reference_id", TEXT),
        indexed=["customer", "subscription", "payment", "invoice"],
    )


def _vacuum_work_tables() -> None:
    """Each piece of work leaves two dead versions of its row behind (claimed, settled), and their entries in the index
    of due work are in the way of every claim until they are vacuumed. PostgreSQL's default waits until a fifth of the
    table is dead, which on a table that keeps its history is later each day: 1 % here. A fillfactor would not help, as
    both updates change an indexed column."""
    for table in ("inbox", "documents", "deliveries"):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,"
            " autovacuum_analyze_scale_factor = 0.02)"
        )


def _table(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, required("id", TEXT), *parts, sa.PrimaryKeyConstraint("id", name=f"pk_{name}"))


def _book_table(name: str, *fields: sa.Column[Any], indexed: list[str]) -> None:
    _table(
        name,
        required("merchant_id", TEXT),
        required("source_id", TEXT),
        required("account", TEXT),
        required("external_id", TEXT),
        optional("created", INSTANT),
        required("deleted", BOOLEAN),
        required("metadata", JSONB),
        *fields,
        required("version_at", INSTANT),
        required("version_rank", INTEGER),
        required("version_digest", TEXT),
        required("updated_at", INSTANT),
        unique(name, "source_id", "account", "external_id"),
    )
    op.create_index(f"ix_{name}_merchant_id", name, ["merchant_id", "id"])
    for column in indexed:
        op.create_index(f"ix_{name}_{column}", name, ["merchant_id", column])


def _work() -> list[sa.Column[Any]]:
    return [
        required("state", TEXT, server_default="due"),
        required("due_at", INSTANT),
        required("attempts", INTEGER, server_default="0"),
        optional("token", TEXT),
        optional("last_error", TEXT),
        optional("finished_at", INSTANT),
    ]


def _due_index(table: str) -> None:
    only = sa.text("state = 'due'")
    op.create_index(f"ix_{table}_due", table, ["due_at"], sqlite_where=only, postgresql_where=only)


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def reference(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")
