"""Credit notes for own invoices: each takes a part of one back, under a number of a series of its own, for good."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from billhook.decoding import decode
from billhook.rules.terms import CreditTerms
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata

own_credit_notes = sa.Table(
    "own_credit_notes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # that of its entry of the book
    merchant_column(),
    sa.Column("external_id", sa.Text, nullable=False, unique=True),
    sa.Column("invoice_id", sa.Text, sa.ForeignKey("own_invoices.id"), nullable=False),
    sa.Column("terms", sa.LargeBinary, nullable=False),  # JSON
    sa.Column("request_sha256", sa.LargeBinary),  # of the invoice and the terms, where it was asked for with a key
    sa.Column("credited", sa.JSON, nullable=False),  # [[the line's place on the invoice, what was taken back], …]
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Text, nullable=False),
    sa.Column("series", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("snapshot", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("merchant_id", "series", "sequence"),
    sa.UniqueConstraint("merchant_id", "number"),
    sa.Index("ix_own_credit_notes_merchant_id", "merchant_id", "id"),
    sa.Index("ix_own_credit_notes_invoice_id", "invoice_id"),
)


@dataclass(frozen=True, kw_only=True)
class OwnCreditNote:
    id: str
    merchant_id: str
    external_id: str
    invoice_id: str
    terms: CreditTerms
    request_sha256: bytes | None
    credited: list[tuple[int, int]]
    currency: str
    total: int
    number: str
    series: str
    sequence: int
    snapshot: bytes
    created_at: datetime


def add_own_credit_note(tx: Tx, note: OwnCreditNote) -> bool:
    """Add it; False where there is one of this id already."""
    columns = {**vars(note), "terms": msgspec.json.encode(note.terms)}
    statement = insert_into(tx, own_credit_notes).values(**columns).on_conflict_do_nothing(index_elements=["id"])
    return tx.execute(statement.returning(own_credit_notes.c.id)).first() is not None


def get_own_credit_note(tx: Tx, note_id: str, *, merchant_id: str | None = None) -> OwnCreditNote | None:
    query = sa.select(own_credit_notes).where(own_credit_notes.c.id == note_id)
    if merchant_id is not None:
        query = query.where(own_credit_notes.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return _note(row) if row else None


def list_own_credit_notes(tx: Tx, invoice_id: str, *, merchant_id: str | None = None) -> list[OwnCreditNote]:
    """Those of one invoice, in the order in which they were made."""
    c = own_credit_notes.c
    query = sa.select(own_credit_notes).where(c.invoice_id == invoice_id).order_by(c.created_at, c.sequence)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    return [_note(row) for row in tx.execute(query).mappings()]


def _note(row: sa.RowMapping) -> OwnCreditNote:
    terms = decode(row["terms"], CreditTerms)
    return OwnCreditNote(**{**row, "terms": terms, "credited": [(line, amount) for line, amount in row["credited"]]})
