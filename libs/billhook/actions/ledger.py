"""What all verbs of `invoices` and `credit_notes` write: the entry in the book, the messages, and the documents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from billhook.actions.book_update import BookUpdate
from billhook.actions.consequences import record
from billhook.actions.publishing import KEY
from billhook.errors import Refused
from billhook.queue.handler import Rings
from billhook.rules.book.change import Change, Fact
from billhook.rules.book.invoice import Invoice, InvoiceLine
from billhook.rules.book.objects import BookObject
from billhook.rules.document import DocumentKind, Snapshot
from billhook.rules.e_invoice import missing
from billhook.rules.invoice import documents_due
from billhook.store.database import Tx
from billhook.store.documents import NewDocument
from billhook.store.merchants import Merchant, get_merchant
from billhook.store.own_credit_notes import OwnCreditNote
from billhook.store.own_invoices import OWN, OwnInvoice, get_own_invoice

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Step:
    """The result of a verb."""

    invoice: OwnInvoice
    rings: Rings = field(default_factory=dict)
    credit_note: OwnCreditNote | None = None
    replayed: bool = False
    """The verb was done before under the same key, and changed nothing now."""


def locked(tx: Tx, invoice_id: str) -> tuple[Merchant, OwnInvoice]:
    """An own invoice, locked until the transaction ends, and its merchant."""
    invoice = get_own_invoice(tx, invoice_id, lock=True)
    if invoice is None:
        raise Refused(
            "invoice_not_own", "This is no invoice of billhook's own. Change it where it was made: at its provider."
        )
    return owner(tx, invoice.merchant_id), invoice


def owner(tx: Tx, merchant_id: str) -> Merchant:
    merchant = get_merchant(tx, merchant_id)
    if merchant is None:
        raise Refused("merchant_unknown", f"There is no merchant {merchant_id!r}.")
    return merchant


def later(invoice: OwnInvoice, now: datetime) -> datetime:
    """When a change of this invoice happens. The book keeps the latest state, so each must be later than the one
    before, also where two follow within a tick, or on machines whose clocks differ."""
    return max(now, invoice.updated_at + _TICK)


def check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise Refused("idempotency_key_invalid", "`Idempotency-Key` must be 1 to 255 printable ASCII characters.")


def derived(*identity: str) -> str:
    """An external id that is the same for the same identity."""
    return "own_" + hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]


def invoice_entry(invoice: OwnInvoice, shown: Snapshot) -> Invoice:
    """The invoice as the book knows invoices. `shown` is what its document shows, or would."""
    deleted, paid = invoice.state == "deleted", invoice.state == "paid"
    seller, buyer, ship_to = shown.seller, invoice.terms.buyer, invoice.terms.ship_to
    due = invoice.amount_paid if paid else invoice.creditable
    return Invoice(
        external_id=invoice.external_id,
        created=invoice.created_at,
        deleted=deleted,
        metadata=invoice.terms.metadata,
        number=invoice.number,
        customer=invoice.customer,
        subscription=invoice.terms.subscription,
        status="draft" if deleted else invoice.state,
        currency=invoice.currency,
        subtotal=shown.subtotal,
        discount=shown.discount,
        tax=shown.tax,
        tax_included=shown.tax if shown.tax_inclusive else 0,
        total=shown.total,
        # As at Stripe: what is credited before the payment need not be paid, what is credited after it was.
        amount_due=due,
        credited_before_payment=invoice.total - due,
        credited_after_payment=invoice.amount_credited - (invoice.total - due),
        amount_paid=invoice.amount_paid,
        amount_remaining=invoice.amount_remaining,
        description=invoice.terms.description,
        footer=invoice.terms.footer,
        due_at=invoice.due_at,
        finalized_at=invoice.finalized_at,
        paid_at=invoice.paid_at,
        voided_at=invoice.voided_at,
        period_start=shown.period_start,
        period_end=shown.period_end,
        seller_name=seller.name,
        seller_country=seller.address.country if seller.address else None,
        seller_tax_ids=seller.tax_ids,
        customer_name=buyer.name,
        customer_email=buyer.email,
        customer_address=buyer.address,
        customer_tax_ids=buyer.tax_ids,
        shipping_name=ship_to.name if ship_to else None,
        shipping_address=ship_to.address if ship_to else None,
        hosted_url=invoice.terms.pay_url,
        lines=tuple(
            InvoiceLine(
                external_id=f"{invoice.external_id}_{place}",
                description=line.description,
                quantity=line.quantity,
                unit_amount=line.unit_amount,
                amount=line.amount,
                discount=line.discount + line.allowance,
                tax=line.tax,
                tax_inclusive=shown.tax_inclusive,
                tax_included=line.tax if shown.tax_inclusive else 0,
                proration=line.proration,
                period_start=line.period_start,
                period_end=line.period_end,
            )
            for place, line in enumerate(shown.lines)
        ),
    )


def invoice_documents(merchant: Merchant, invoice: OwnInvoice, entry: Invoice, shown: Snapshot) -> list[NewDocument]:
    """The documents that its state calls for. Asking again for one that exists changes nothing."""
    return [new_document(merchant, invoice.id, _shown_as(kind, shown, invoice)) for kind in documents_due(entry)]


def new_document(merchant: Merchant, subject_id: str, shown: Snapshot) -> NewDocument:
    """What cannot be an e-invoice becomes a PDF without one: who finalizes an invoice was told so before."""
    settings = merchant.invoicing
    email = shown.buyer.email if shown.buyer else None
    return NewDocument(
        merchant.id,
        subject_id,
        shown.kind,
        shown.template,
        msgspec.json.encode(shown),
        mail_to=(email,) if email and settings.email_documents else None,
        e_invoice=settings.e_invoice and not missing(shown),
    )


def _shown_as(kind: DocumentKind, shown: Snapshot, invoice: OwnInvoice) -> Snapshot:
    if kind == "receipt":
        return replace(
            shown,
            kind=kind,
            status="paid",
            paid_at=invoice.paid_at,
            payment_reference=invoice.payment_reference,
            payment_method=invoice.payment_method,
            amount_due=invoice.amount_paid,
            amount_paid=invoice.amount_paid,
            amount_remaining=0,
            credited=shown.total - invoice.amount_paid,
            pay_url=None,
        )
    if kind == "void":
        return replace(shown, kind=kind, status="void", voided_at=invoice.voided_at, amount_remaining=0, pay_url=None)
    return shown


def write(
    tx: Tx,
    merchant: Merchant,
    entries: Sequence[Change],
    news: Sequence[tuple[str, BookObject]],
    documents: Sequence[NewDocument],
    now: datetime,
    traceparent: str | None = None,
) -> Rings:
    """Put own objects into the book, with all that follows from it."""
    facts = tuple(Fact(event_type, thing, now) for event_type, thing in news)
    update = BookUpdate(merchant, OWN, "", tuple(entries), facts, tuple(documents), traceparent=traceparent)
    return record(tx, [update], now)
