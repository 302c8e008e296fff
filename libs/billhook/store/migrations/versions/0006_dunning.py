"""Dunning: policies, cases and their steps, attempts to collect, limits of accounts, standings."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TEXT = sa.Text()
INTEGER = sa.Integer()
BIGINT = sa.BigInteger()
INSTANT = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
DUE = "state = 'due'"
IN_FLIGHT = "status IN ('created', 'submitted', 'unknown', 'requires_action')"

required = partial(sa.Column, nullable=False)
optional = partial(sa.Column, nullable=True)


def upgrade() -> None:
    op.add_column("customers", optional("default_payment_method", TEXT))
    _table(
        "dunning_policies",
        required("merchant_id", TEXT),
        required("scope_kind", TEXT),
        required("scope", TEXT),
        required("version", INTEGER),
        required("policy", sa.LargeBinary()),
        optional("source_id", TEXT),
        required("created_at", INSTANT),
        required("created_by", TEXT),
        optional("retired_at", INSTANT),
        _unique("dunning_policies", "merchant_id", "scope_kind", "scope", "version"),
    )
    _partial(
        "uq_dunning_policies_current", "dunning_policies", "retired_at IS NULL", "merchant_id", "scope_kind", "scope"
    )
    _cases()
    _table(
        "dunning_steps",
        required("merchant_id", TEXT),
        required("case_id", TEXT),
        required("at", INSTANT),
        required("cause", TEXT),
        required("stage", TEXT),
        optional("by", TEXT),
        optional("detail", TEXT),
    )
    op.create_index("ix_dunning_steps_case_id", "dunning_steps", ["case_id", "id"])
    _attempts()
    op.create_table(
        "provider_limits",
        required("source_id", TEXT),
        required("account", TEXT),
        optional("spent", INSTANT),
        optional("paused_until", INSTANT),
        sa.PrimaryKeyConstraint("source_id", "account", name="pk_provider_limits"),
    )
    op.create_table(
        "customer_standings",
        required("merchant_id", TEXT),
        required("customer", TEXT),
        required("state", TEXT),
        required("told_at", INSTANT),
        sa.PrimaryKeyConstraint("merchant_id", "customer", name="pk_customer_standings"),
    )


def _cases() -> None:
    _table(
        "dunning_cases",
        required("merchant_id", TEXT),
        required("source_id", TEXT),
        required("account", TEXT),
        required("invoice_id", TEXT),
        required("invoice", TEXT),
        optional("number", TEXT),
        optional("customer", TEXT),
        optional("customer_id", TEXT),
        optional("subscription", TEXT),
        required("currency", TEXT),
        required("amount", BIGINT),
        required("policy_id", TEXT),
        required("zone", TEXT),
        required("stage", TEXT),
        optional("cause", TEXT),
        required("owing", sa.Boolean()),
        required("opened_at", INSTANT),
        required("grace_until", INSTANT),
        required("ends_at", INSTANT),
        optional("suspended_at", INSTANT),
        optional("closed_at", INSTANT),
        required("policy_attempts", INTEGER),
        required("reminders", INTEGER),
        required("attempt_reminders", INTEGER),
        optional("method", TEXT),
        required("try_at_once", sa.Boolean()),
        optional("decline_code", TEXT),
        optional("pay_url", TEXT),
        optional("recovered_attempt", INTEGER),
        required("final_action", TEXT),
        optional("final_done_at", INSTANT),
        required("created_at", INSTANT),
        *_work(),
        _unique("dunning_cases", "invoice_id"),
    )
    op.create_index("ix_dunning_cases_merchant_id", "dunning_cases", ["merchant_id", "id"])
    for column in ("customer", "customer_id"):
        op.create_index(
            f"ix_dunning_cases_{column}",
            "dunning_cases",
            ["merchant_id", column],
            sqlite_where=sa.text("owing = 1"),
            postgresql_where=sa.text("owing"),
        )
    _due("dunning_cases")


def _attempts() -> None:
    _table(
        "payment_attempts",
        required("merchant_id", TEXT),
        required("case_id", TEXT),
        required("source_id", TEXT),
        required("account", TEXT),
        required("invoice_id", TEXT),
        required("trigger", TEXT),
        required("number", INTEGER),
        required("idempotency_key", TEXT),
        required("status", TEXT),
        required("amount", BIGINT),
        required("currency", TEXT),
        optional("code", TEXT),
        optional("message", TEXT),
        optional("reference", TEXT),
        optional("action_url", TEXT),
        required("sends", INTEGER),
        required("asked", INTEGER),
        required("created_at", INSTANT),
        optional("created_by", TEXT),
        optional("submitted_at", INSTANT),
        optional("slot_at", INSTANT),
        *_work(),
        _unique("payment_attempts", "idempotency_key"),
    )
    op.create_index("ix_payment_attempts_case_id", "payment_attempts", ["case_id", "id"])
    _partial("uq_payment_attempts_in_flight", "payment_attempts", IN_FLIGHT, "invoice_id")
    _due("payment_attempts")


def _work() -> list[sa.Column[object]]:
    return [
        required("state", TEXT, server_default="due"),
        required("due_at", INSTANT),
        required("attempts", INTEGER, server_default="0"),
        optional("token", TEXT),
        optional("last_error", TEXT),
        optional("finished_at", INSTANT),
    ]


def _due(table: str) -> None:
    op.create_index(f"ix_{table}_due", table, ["due_at"], sqlite_where=sa.text(DUE), postgresql_where=sa.text(DUE))


def _partial(name: str, table: str, condition: str, *columns: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [*columns], unique=True, sqlite_where=where, postgresql_where=where)


def _table(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, required("id", TEXT), *parts, sa.PrimaryKeyConstraint("id", name=f"pk_{name}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")
