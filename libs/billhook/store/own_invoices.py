"""Own invoices: what merchants have billhook charge, from the draft on.

The row holds what billhook alone knows (the terms, the number, what was taken back); for all other code an own invoice
is an entry of the book. Both are written in one transaction, by `billhook.actions.invoices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from billhook.decoding import decode
from billhook.rules.terms import Terms
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata, partial_index

OWN = "own"
"""The source of the book's entries that billhook itself is the source of."""

_DRAFT = sa.text("state = 'draft'")

own_invoices = sa.Table(
    "own_invoices",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # that of its entry of the book
    merchant_column(),
    sa.Column("external_id", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False),  # of `billhook.rules.invoice_state`
    sa.Column("terms", sa.LargeBinary, nullable=False),  # JSON
    sa.Column(
        "request_sha256", sa.LargeBinary
    ),  # of the terms it was drafted with: the same key with others is refused
    sa.Column("customer", sa.Text),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("amount_paid", sa.BigInteger, nullable=False),
    sa.Column("amount_credited", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Text),
    sa.Column("series", sa.Text),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("snapshot", sa.LargeBinary),  # all its documents show: written at the finalization, for good
    sa.Column("payment_reference", sa.Text),
    sa.Column("payment_method", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),  # each change is later than the one before, whatever clocks say
    sa.Column("finalized_at", Instant),
    sa.Column("due_at", Instant),
    sa.Column("paid_at", Instant),
    sa.Column("voided_at", Instant),
    sa.Column("written_off_at", Instant),
    sa.UniqueConstraint("merchant_id", "series", "sequence"),
    sa.UniqueConstraint("merchant_id", "number"),
    sa.Index("ix_own_invoices_merchant_id", "merchant_id", "id"),
    partial_index("ix_own_invoices_drafts", "merchant_id", where=_DRAFT),
)


@dataclass(frozen=True, kw_only=True)
class OwnInvoice:
    id: str
    merchant_id: str
    external_id: str
    state: str
    terms: Terms
    request_sha256: bytes | None = None
    customer: str | None = None
    currency: str
    total: int
    amount_paid: int = 0
    amount_credited: int = 0
    number: str | None = None
    series: str | None = None
    sequence: int | None = None
    snapshot: bytes | None = None
    payment_reference: str | None = None
    payment_method: str | None = None
    """In the merchant's words: "Bank transfer"."""
    created_at: datetime
    updated_at: datetime
    finalized_at: datetime | None = None
    due_at: datetime | None = None
    paid_at: datetime | None = None
    voided_at: datetime | None = None
    written_off_at: datetime | None = None

    @property
    def creditable(self) -> int:
        """What may still be taken back. Of a paid invoice that is what was paid and not yet credited, of another what
        is still open: either way all that was charged and not credited, as an invoice is paid in full or not at all."""
        return self.total - self.amount_credited

    @property
    def amount_remaining(self) -> int:
        """What is still to be paid."""
        return self.creditable if self.state in ("draft", "open", "uncollectible") else 0


def add_own_invoice(tx: Tx, invoice: OwnInvoice) -> bool:
    """Add it; False where there is one of this id already. Another transaction that adds it is waited for."""
    statement = insert_into(tx, own_invoices).values(**_columns(vars(invoice))).on_conflict_do_nothing()
    return tx.execute(statement.returning(own_invoices.c.id)).first() is not None


def change_own_invoice(tx: Tx, invoice_id: str, **changes: Any) -> None:
    """`changes` are fields of `OwnInvoice`. The caller holds the row (`get_own_invoice(…, lock=True)`)."""
    tx.execute(sa.update(own_invoices).where(own_invoices.c.id == invoice_id).values(**_columns(changes)))


def get_own_invoice(
    tx: Tx, invoice_id: str, *, merchant_id: str | None = None, lock: bool = False
) -> OwnInvoice | None:
    """With `lock` nobody else changes it until the transaction ends. SQLite has one writer anyway."""
    query = sa.select(own_invoices).where(own_invoices.c.id == invoice_id)
    if merchant_id is not None:
        query = query.where(own_invoices.c.merchant_id == merchant_id)
    if lock:
        query = query.with_for_update()
    row = tx.execute(query).mappings().first()
    return _invoice(row) if row else None


def list_own_invoices(
    tx: Tx,
    *,
    merchant_id: str | None,
    state: str | None = None,
    customer: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> list[OwnInvoice]:
    """One page of a merchant's own invoices (None: of all), by id."""
    c = own_invoices.c
    query = sa.select(own_invoices).order_by(c.id).limit(limit)
    for column, wanted in ((c.merchant_id, merchant_id), (c.state, state), (c.customer, customer)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(c.id > after)
    return [_invoice(row) for row in tx.execute(query).mappings()]


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: msgspec.json.encode(value) if name == "terms" else value for name, value in fields.items()}


def _invoice(row: sa.RowMapping) -> OwnInvoice:
    return OwnInvoice(**{**row, "terms": decode(row["terms"], Terms)})
