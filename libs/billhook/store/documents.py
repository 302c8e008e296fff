"""Documents: invoices, receipts and credit notes as files, made beside billing and never in its way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
import sqlalchemy as sa

from billhook.decoding import decode
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import DocumentKind, Seller, Snapshot
from billhook.rules.invoice import snapshot_of
from billhook.store import statements
from billhook.store.bulk import among, update_many
from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id, trace_column
from billhook.store.statements import Insertion, Statement
from billhook.store.work import Row, due_index, work_columns

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("subject_id", sa.Text, nullable=False),  # the invoice or credit note
    sa.Column("kind", sa.Text, nullable=False),  # invoice, receipt, void, credit_note
    sa.Column("template", sa.Text, nullable=False),  # the look: billhook's of some version, or the merchant's
    sa.Column("snapshot", sa.LargeBinary, nullable=False),  # all it shows, as JSON; later changes do not touch it
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("object_key", sa.Text),
    sa.Column("sha256", sa.Text),
    sa.Column("size", sa.Integer),
    sa.Column("engine", sa.Text),  # what drew the file
    sa.Column("warning", sa.Text),  # what is not right with the file
    sa.Column("mail_to", sa.JSON(none_as_null=True)),  # addresses it is mailed to when it is ready
    sa.Column("e_invoice", sa.Boolean, nullable=False),  # the file is to carry the invoice as data too
    trace_column(),
    *work_columns(),
    due_index("documents"),
    # One document of a kind and a look for one subject, whichever event asks for it first.
    sa.UniqueConstraint("subject_id", "kind", "template"),
    sa.Index("ix_documents_merchant_id", "merchant_id", "id"),
    sa.Index("ix_documents_object_key", "object_key"),
)


@dataclass(frozen=True)
class NewDocument:
    merchant_id: str
    subject_id: str
    kind: str
    template: str
    snapshot: bytes
    mail_to: tuple[str, ...] | None = None
    e_invoice: bool = False
    traceparent: str | None = None


@dataclass(frozen=True)
class Rendered:
    document_id: str
    object_key: str
    sha256: str
    size: int
    engine: str
    warning: str | None = None


def add_documents(tx: Tx, wanted: Sequence[NewDocument], now: datetime) -> list[str]:
    """Ask for documents; the ones that exist already stay as they are. Returns the ids of the new ones."""
    if not wanted:
        return []
    first = {(document.subject_id, document.kind, document.template): document for document in reversed(wanted)}
    rows = [
        {"id": new_id("doc"), "created_at": now, "due_at": now, **vars(first[key])}
        for key in sorted(first)  # one order of locks for all writers
    ]
    return [row[0] for row in _ADD.rows(tx, rows)]


_ADD: Final = Insertion(documents, lambda insert: insert.on_conflict_do_nothing().returning(documents.c.id))


def undocumented(tx: Tx, wanted: Sequence[NewDocument]) -> list[NewDocument]:
    """Those of a subject and kind that has no document yet, in whatever look: what an event calls for was made when it
    was first told, and a merchant's new template does not make all of it again."""
    if not wanted:
        return []
    made = {(row[0], row[1]) for row in _MADE.rows(tx, subjects=[*{document.subject_id for document in wanted}])}
    return [document for document in wanted if (document.subject_id, document.kind) not in made]


_MADE: Final = Statement(
    lambda sqlite: sa.select(documents.c.subject_id, documents.c.kind).where(
        statements.among(documents.c.subject_id, "subjects", sqlite)
    )
)


def set_files(tx: Tx, rendered: Sequence[Rendered]) -> None:
    made = [
        {
            "id": one.document_id,
            "object_key": one.object_key,
            "sha256": one.sha256,
            "size": one.size,
            "engine": one.engine,
            "warning": one.warning,
        }
        for one in rendered
    ]
    update_many(tx, documents, made)


def set_mail_to(tx: Tx, document_id: str, addresses: Sequence[str]) -> None:
    """Mail it to these when it is ready."""
    tx.execute(sa.update(documents).where(documents.c.id == document_id).values(mail_to=list(addresses)))


def documents_by_id(tx: Tx, ids: Collection[str]) -> list[sa.RowMapping]:
    query = sa.select(documents).where(among(tx, documents.c.id, ids)).order_by(documents.c.id)
    return list(tx.execute(query).mappings())


def documents_to_mail(tx: Tx, ids: Collection[str]) -> list[Row]:
    """Those of them that have a file and wait to be mailed."""
    found = [dict(zip(documents.c.keys(), row, strict=True)) for row in _TO_MAIL.rows(tx, ids=[*ids])]
    return [row for row in found if row["mail_to"]]


_TO_MAIL: Final = Statement(
    lambda sqlite: (
        sa.select(documents)
        .where(
            statements.among(documents.c.id, "ids", sqlite),
            documents.c.mail_to.is_not(None),
            documents.c.object_key.is_not(None),
        )
        .order_by(documents.c.id)
    )
)


def list_documents(tx: Tx, subject_id: str, *, merchant_id: str | None = None) -> list[sa.RowMapping]:
    """All of an invoice or credit note; of one kind the latest look is the last."""
    query = sa.select(documents).where(documents.c.subject_id == subject_id)
    if merchant_id is not None:
        query = query.where(documents.c.merchant_id == merchant_id)
    return list(tx.execute(query.order_by(documents.c.kind, documents.c.id)).mappings())


def latest_document(
    tx: Tx, subject_id: str, kind: str, *, merchant_id: str | None = None, lock: bool = False
) -> sa.RowMapping | None:
    """The document of a kind, in the look that was made last. With `lock` nobody settles it until the transaction
    ends."""
    query = sa.select(documents).where(documents.c.subject_id == subject_id, documents.c.kind == kind)
    if merchant_id is not None:
        query = query.where(documents.c.merchant_id == merchant_id)
    query = query.order_by(documents.c.id.desc()).limit(1)
    return tx.execute(query.with_for_update() if lock else query).mappings().first()


class _Before0003(msgspec.Struct, frozen=True):
    """What snapshots were until then: the book's invoice as a whole, under a name for the seller."""

    invoice: Invoice | None = None
    kind: DocumentKind = "invoice"
    seller_name: str = ""
    locale: str = "en"


def read_snapshot(data: bytes) -> Snapshot:
    """What a document shows, in the shape of today, whenever it was written down."""
    before = decode(data, _Before0003)
    if before.invoice is None:
        return decode(data, Snapshot)
    seller = Seller(name=before.seller_name)
    return snapshot_of(before.invoice, kind=before.kind, seller=seller, locale=before.locale, template="billhook-1")
