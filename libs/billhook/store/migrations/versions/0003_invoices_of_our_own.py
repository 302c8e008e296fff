"""Invoices of billhook's own: their series, credit notes, templates and links; documents of any subject and look."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text()
BYTES = sa.LargeBinary()
BOOLEAN = sa.Boolean()
BIGINT = sa.BigInteger()
INSTANT = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")

required = partial(sa.Column, nullable=False)
optional = partial(sa.Column, nullable=True)


def upgrade() -> None:
    op.add_column("merchants", optional("seller", sa.JSON()))
    op.add_column("merchants", optional("invoicing", sa.JSON()))
    op.create_table(
        "number_series",
        required("merchant_id", TEXT),
        required("series", TEXT),
        required("last", BIGINT),
        sa.PrimaryKeyConstraint("merchant_id", "series", name="pk_number_series"),
    )
    _own_invoices()
    _own_credit_notes()
    _table(
        "templates",
        required("merchant_id", TEXT),
        required("name", TEXT),
        required("source", TEXT),
        required("created_at", INSTANT),
        optional("retired_at", INSTANT),
    )
    op.create_index("ix_templates_merchant_id", "templates", ["merchant_id", "id"])
    _table(
        "hosted_links",
        required("merchant_id", TEXT),
        required("invoice_id", TEXT),
        required("digest", BYTES),
        required("created_at", INSTANT),
        required("expires_at", INSTANT),
        optional("revoked_at", INSTANT),
        _unique("hosted_links", "digest"),
    )
    op.create_index("ix_hosted_links_invoice_id", "hosted_links", ["invoice_id", "id"])
    _documents()


def _own_invoices() -> None:
    _table(
        "own_invoices",
        required("merchant_id", TEXT),
        required("external_id", TEXT),
        required("state", TEXT),
        required("terms", BYTES),
        optional("request_sha256", BYTES),
        optional("customer", TEXT),
        required("currency", TEXT),
        required("total", BIGINT),
        required("amount_paid", BIGINT),
        required("amount_credited", BIGINT),
        optional("number", TEXT),
        optional("series", TEXT),
        optional("sequence", BIGINT),
        optional("snapshot", BYTES),
        optional("payment_reference", TEXT),
        required("created_at", INSTANT),
        required("updated_at", INSTANT),
        optional("finalized_at", INSTANT),
        optional("due_at", INSTANT),
        optional("paid_at", INSTANT),
        optional("voided_at", INSTANT),
        optional("written_off_at", INSTANT),
        _unique("own_invoices", "external_id"),
        _unique("own_invoices", "merchant_id", "series", "sequence"),
        _unique("own_invoices", "merchant_id", "number"),
    )
    op.create_index("ix_own_invoices_merchant_id", "own_invoices", ["merchant_id", "id"])


def _own_credit_notes() -> None:
    _table(
        "own_credit_notes",
        required("merchant_id", TEXT),
        required("external_id", TEXT),
        required("invoice_id", TEXT),
        required("terms", BYTES),
        optional("request_sha256", BYTES),
        required("credited", sa.JSON()),
        required("currency", TEXT),
        required("total", BIGINT),
        required("number", TEXT),
        required("series", TEXT),
        required("sequence", BIGINT),
        required("snapshot", BYTES),
        required("created_at", INSTANT),
        sa.ForeignKeyConstraint(["invoice_id"], ["own_invoices.id"], name="fk_own_credit_notes_invoice_id"),
        _unique("own_credit_notes", "external_id"),
        _unique("own_credit_notes", "merchant_id", "series", "sequence"),
        _unique("own_credit_notes", "merchant_id", "number"),
    )
    op.create_index("ix_own_credit_notes_merchant_id", "own_credit_notes", ["merchant_id", "id"])
    op.create_index("ix_own_credit_notes_invoice_id", "own_credit_notes", ["invoice_id"])


def _documents() -> None:
    # The rows that are there get their values by a default, which then goes: nothing new may be without one. SQLite
    # cannot change a constraint, so there the batch makes the table anew.
    op.add_column("documents", required("template", TEXT, server_default="billhook-1"))
    op.add_column("documents", required("e_invoice", BOOLEAN, server_default=sa.false()))
    op.execute("ALTER TABLE documents RENAME COLUMN invoice_id TO subject_id")
    with op.batch_alter_table("documents") as batch:
        batch.alter_column("template", server_default=None)
        batch.alter_column("e_invoice", server_default=None)
        batch.add_column(optional("engine", TEXT))
        batch.add_column(optional("mail_to", sa.JSON()))
        batch.drop_constraint("uq_documents_invoice_id_kind", type_="unique")
        batch.create_unique_constraint("uq_documents_subject_id_kind_template", ["subject_id", "kind", "template"])


def _table(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, required("id", TEXT), *parts, sa.PrimaryKeyConstraint("id", name=f"pk_{name}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")
