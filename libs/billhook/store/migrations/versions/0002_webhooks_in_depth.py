"""Endpoints with their own settings, health and rotating secrets; deliveries in lanes; mails, replays, publications."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text()
BYTES = sa.LargeBinary()
INTEGER = sa.Integer()
FLOAT = sa.Float()
INSTANT = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")

required = partial(sa.Column, nullable=False)
optional = partial(sa.Column, nullable=True)


def upgrade() -> None:
    _add("merchants", optional("contact_email", TEXT))
    _add(
        "endpoints",
        optional("deleted_at", INSTANT),
        optional("public_key", TEXT),
        optional("previous_secrets", sa.JSON()),
        optional("headers", BYTES),
        optional("schedule", sa.JSON()),
        optional("timeout_seconds", FLOAT),
        optional("max_in_flight", INTEGER),
        optional("rate_limit", FLOAT),
        optional("tokens_spent", INSTANT),
        required("ordering", TEXT, server_default="none"),
        optional("failing_since", INSTANT),
        optional("last_failure_at", INSTANT),
        required("notices", INTEGER, server_default="0"),
    )
    _add("messages", optional("customer", TEXT), optional("subscription", TEXT), optional("pruned_at", INSTANT))
    _partial_index("ix_messages_kept", "messages", ["id"], "pruned_at IS NULL")
    _deliveries()
    _add("delivery_attempts", optional("response_headers", sa.JSON()))
    op.create_table(
        "publications",
        required("merchant_id", TEXT),
        required("idempotency_key", TEXT),
        required("sha256", BYTES),
        required("message_id", TEXT),
        required("created_at", INSTANT),
        sa.PrimaryKeyConstraint("merchant_id", "idempotency_key", name="pk_publications"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_publications_message_id"),
    )
    op.create_index("ix_publications_created_at", "publications", ["created_at"])
    _replays()
    _mails()
    if op.get_bind().dialect.name == "postgresql":
        # As the other tables of work: their rows change often, and the due index must not fill up with dead entries.
        op.execute("ALTER TABLE mails SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)")


def _deliveries() -> None:
    # What was created before is due in the lane it belongs to by its attempts.
    _add("deliveries", required("lane", TEXT, server_default="fresh"), optional("subject", TEXT))
    op.execute("UPDATE deliveries SET lane = 'retry' WHERE state = 'due' AND attempts > 0")
    op.drop_index("ix_deliveries_due", "deliveries")
    _partial_index("ix_deliveries_due", "deliveries", ["lane", "due_at"], "state = 'due'")
    _partial_index("ix_deliveries_under_way", "deliveries", ["endpoint_id"], "token IS NOT NULL")
    _partial_index(
        "ix_deliveries_in_order",
        "deliveries",
        ["endpoint_id", "subject", "id"],
        "state = 'due' AND subject IS NOT NULL",
    )


def _replays() -> None:
    op.create_table(
        "replays",
        required("id", TEXT),
        required("merchant_id", TEXT),
        required("kind", TEXT),
        optional("endpoint_id", TEXT),
        optional("event_types", sa.JSON()),
        optional("states", sa.JSON()),
        required("since", INSTANT),
        required("until", INSTANT),
        required("cursor", TEXT),
        required("matched", INTEGER, server_default="0"),
        required("created_by", TEXT),
        required("created_at", INSTANT),
        *_work(),
        sa.PrimaryKeyConstraint("id", name="pk_replays"),
    )
    _partial_index("ix_replays_due", "replays", ["due_at"], "state = 'due'")
    op.create_index("ix_replays_merchant_id", "replays", ["merchant_id", "id"])


def _mails() -> None:
    op.create_table(
        "mails",
        required("id", TEXT),
        required("merchant_id", TEXT),
        required("recipient", TEXT),
        required("subject", TEXT),
        required("body", TEXT),
        required("attachments", sa.JSON()),
        required("about", TEXT),
        required("message_id", TEXT),
        required("created_at", INSTANT),
        *_work(),
        sa.PrimaryKeyConstraint("id", name="pk_mails"),
        sa.UniqueConstraint("merchant_id", "about", name="uq_mails_merchant_id_about"),
    )
    _partial_index("ix_mails_due", "mails", ["due_at"], "state = 'due'")
    op.create_index("ix_mails_merchant_id", "mails", ["merchant_id", "id"])


def _add(table: str, *columns: sa.Column[Any]) -> None:
    for column in columns:
        op.add_column(table, column)


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _work() -> list[sa.Column[Any]]:
    return [
        required("state", TEXT, server_default="due"),
        required("due_at", INSTANT),
        required("attempts", INTEGER, server_default="0"),
        optional("token", TEXT),
        optional("last_error", TEXT),
        optional("finished_at", INSTANT),
    ]
