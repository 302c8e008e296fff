"""Documents: invoices and receipts as files, made beside billing and never in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id
from billhook.store.work import due_index, work_columns

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("invoice_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # invoice, receipt
    sa.Column("snapshot", sa.LargeBinary, nullable=False),  # all it shows, as JSON; later changes do not touch it
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("object_key", sa.Text),
    sa.Column("sha256", sa.Text),
    sa.Column("size", sa.Integer),
    *work_columns(),
    due_index("documents"),
    # One document of a kind for one invoice, whichever event asks for it first.
    sa.UniqueConstraint("invoice_id", "kind"),
    sa.Index("ix_documents_merchant_id", "merchant_id", "id"),
)


@dataclass(frozen=True)
class NewDocument:
    merchant_id: str
    invoice_id: str
    kind: str
    snapshot: bytes


@dataclass(frozen=True)
class Rendered:
    document_id: str
    object_key: str
    sha256: str
    size: int


def add_documents(tx: Tx, wanted: Sequence[NewDocument], now: datetime) -> list[str]:
    """Ask for documents; the ones that exist already stay as they are. Returns the ids of the new ones."""
    if not wanted:
        return []
    first = {(document.invoice_id, document.kind): document for document in reversed(wanted)}
    rows = [
        {"id": new_id("doc"), "created_at": now, "due_at": now, **vars(first[key])}
        for key in sorted(first)  # one order of locks for all writers
    ]
    insert = sqlite_insert if tx.dialect.name == "sqlite" else postgresql_insert
    statement = insert(documents).on_conflict_do_nothing().returning(documents.c.id)
    return list(tx.execute(statement, rows).scalars())


def set_files(tx: Tx, rendered: Sequence[Rendered]) -> None:
    if rendered:
        tx.execute(
            sa.update(documents)
            .where(documents.c.id == sa.bindparam("row_id"))
            .values(
                object_key=sa.bindparam("key"),
                sha256=sa.bindparam("digest"),
                size=sa.bindparam("bytes"),
            ),
            [{"row_id": r.document_id, "key": r.object_key, "digest": r.sha256, "bytes": r.size} for r in rendered],
        )


def list_documents(tx: Tx, invoice_id: str, *, merchant_id: str | None = None) -> list[sa.RowMapping]:
    query = sa.select(documents).where(documents.c.invoice_id == invoice_id).order_by(documents.c.kind)
    if merchant_id is not None:
        query = query.where(documents.c.merchant_id == merchant_id)
    return list(tx.execute(query).mappings())
