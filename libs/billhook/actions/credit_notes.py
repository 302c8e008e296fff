"""Credit notes for invoices of our own: a part of one is taken back, under a number of a series of its own.

On a paid invoice at most what was paid and not credited since: the money goes back outside of billhook, and the note
may name the refund. On an open one at most what is open: so much less is to be paid. An open invoice of which nothing
is left to pay is paid from then on, with nothing received and without a receipt, as at Stripe: its credit notes say
why.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from billhook.actions.ledger import (
    Step,
    check_key,
    derived,
    invoice_entry,
    later,
    locked,
    new_document,
    write,
)
from billhook.decoding import decode
from billhook.errors import Refused
from billhook.rules import credit as rule
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import CreditNote
from billhook.rules.book.objects import BookObject, book_id
from billhook.rules.document import TEMPLATE, Snapshot
from billhook.rules.numbering import number_text, series_of
from billhook.rules.terms import CreditTerms
from billhook.store.database import Database, Tx
from billhook.store.merchants import Merchant
from billhook.store.own_credit_notes import (
    OwnCreditNote,
    add_own_credit_note,
    get_own_credit_note,
    list_own_credit_notes,
)
from billhook.store.own_invoices import OWN, OwnInvoice, change_own_invoice, get_own_invoice
from billhook.store.schema import new_id
from billhook.store.series import next_number


@dataclass(frozen=True)
class PreparedCredit:
    """What a credit note takes back. For thousands of lines this takes a while, so it is worked out before the
    transaction that issues the note, in which nobody else takes a number."""

    issued: bytes
    """The invoice's snapshot, as it is stored."""
    shown: Snapshot
    """The same, read."""
    terms: CreditTerms
    before: list[rule.Credited]
    creditable: int
    taken_back: rule.Credit

    def holds_for(self, invoice: OwnInvoice, terms: CreditTerms, before: list[rule.Credited]) -> bool:
        held = (self.issued, self.terms, self.before, self.creditable)
        return held == (invoice.snapshot, terms, before, invoice.creditable)


def prepared_credit(database: Database, invoice_id: str, terms: CreditTerms) -> PreparedCredit | None:
    """None where there is nothing to credit: `credit` says why."""
    with database.read() as tx:
        invoice = get_own_invoice(tx, invoice_id)
        before = [] if invoice is None else _credited(tx, invoice)
    if invoice is None or invoice.snapshot is None:
        return None
    try:
        return _worked_out(invoice, _checked(invoice_id, terms)[0], before)
    except Refused:
        return None


def credit(
    tx: Tx,
    invoice_id: str,
    terms: CreditTerms,
    key: str | None = None,
    *,
    now: datetime,
    prepared: PreparedCredit | None = None,
) -> Step:
    """A credit note. The same key and the same terms are the same note. What was `prepared` counts if nothing of the
    invoice was credited or paid since."""
    terms, digest = _checked(invoice_id, terms)
    merchant, invoice = locked(tx, invoice_id)
    external_id = new_id("own")
    if key is not None:
        check_key(key)
        external_id = derived("credit", merchant.id, key)
        there = get_own_credit_note(tx, book_id(OWN, "", _identity(external_id)), merchant_id=merchant.id)
        if there is not None:
            _check_same(there, digest)
            return Step(invoice, credit_note=there, replayed=True)
    if invoice.state not in ("open", "paid", "uncollectible"):
        raise Refused("invoice_state", "Only an open, paid or written-off invoice can be credited: see its state.")
    before = _credited(tx, invoice)
    if prepared is None or not prepared.holds_for(invoice, terms, before):
        prepared = _worked_out(invoice, terms, before)
    shown, taken_back = prepared.shown, prepared.taken_back
    changed = _after(invoice, taken_back.total, now)
    note, document = _note(tx, merchant, changed, shown, external_id, terms, digest if key else None, taken_back, now)
    if not add_own_credit_note(tx, note):  # the same key, at the same moment, for another invoice
        raise _reused()
    change_own_invoice(
        tx,
        invoice.id,
        **{name: value for name, value in vars(changed).items() if value != getattr(invoice, name)},
    )
    entry, its_note = invoice_entry(changed, shown), _entry(note, changed, taken_back)
    news: list[tuple[str, BookObject]] = [("credit_note.created", its_note)]
    if changed.state != invoice.state:
        news.append(("invoice.paid", entry))
    elif changed.amount_remaining != invoice.amount_remaining:
        news.append(("invoice.updated", entry))
    at = changed.updated_at
    rings = write(
        tx,
        merchant,
        [Change(entry, at), Change(its_note, at)],
        news,
        [new_document(merchant, note.id, document)],
        now,
    )
    return Step(changed, rings, credit_note=note)


def _checked(invoice_id: str, terms: CreditTerms) -> tuple[CreditTerms, bytes]:
    try:
        encoded = msgspec.json.encode(terms, order="sorted")
        terms = decode(encoded, CreditTerms)
    except ValueError as error:
        raise Refused("terms_invalid", str(error).replace("`$.", "`")) from None
    if "\0" in f"{terms.memo}{terms.refund}":
        raise Refused("terms_invalid", "a text holds a NUL character, which no database keeps")
    return terms, hashlib.sha256(invoice_id.encode() + b"\0" + encoded).digest()


def _check_same(there: OwnCreditNote, digest: bytes) -> None:
    if there.request_sha256 != digest:
        raise _reused()


def _reused() -> Refused:
    return Refused(
        "idempotency_key_reused",
        "`Idempotency-Key` was used for another credit note. Use a new key for each, and an old one only to repeat the"
        " very same request.",
    )


def _credited(tx: Tx, invoice: OwnInvoice) -> list[rule.Credited]:
    return [credited for note in list_own_credit_notes(tx, invoice.id) for credited in note.credited]


def _worked_out(invoice: OwnInvoice, terms: CreditTerms, before: list[rule.Credited]) -> PreparedCredit:
    assert invoice.snapshot is not None
    shown = decode(invoice.snapshot, Snapshot)
    try:
        taken_back = rule.credit(shown, terms, before, invoice.creditable)
    except ValueError as error:
        raise Refused("credit_invalid", str(error)) from None
    return PreparedCredit(invoice.snapshot, shown, terms, before, invoice.creditable, taken_back)


def _after(invoice: OwnInvoice, credited: int, now: datetime) -> OwnInvoice:
    changed = replace(invoice, amount_credited=invoice.amount_credited + credited, updated_at=later(invoice, now))
    if changed.state == "paid" or changed.amount_remaining:
        return changed
    return replace(changed, state="paid", paid_at=now)


def _note(
    tx: Tx,
    merchant: Merchant,
    invoice: OwnInvoice,
    shown: Snapshot,
    external_id: str,
    terms: CreditTerms,
    request: bytes | None,
    credit: rule.Credit,
    now: datetime,
) -> tuple[OwnCreditNote, Snapshot]:
    settings = merchant.invoicing
    document = Snapshot(
        kind="credit_note",
        template=settings.template or TEMPLATE,
        locale=shown.locale,
        zone=settings.zone,
        paper=settings.paper_wish,
        profile=settings.e_invoice_profile,
        currency=shown.currency,
        status="paid" if invoice.amount_paid else "open",
        seller=merchant.seller,
        buyer=shown.buyer,
        ship_to=shown.ship_to,
        issued_at=now,
        period_start=shown.period_start,
        period_end=shown.period_end,
        buyer_reference=shown.buyer_reference,
        lines=credit.lines,
        tax_inclusive=shown.tax_inclusive,
        taxes=credit.taxes,
        subtotal=credit.subtotal,
        tax=credit.tax,
        total=credit.total,
        amount_due=credit.total,
        corrects=invoice.number,
        corrects_issued_at=shown.issued_at,
        reason=terms.reason,
        refund=terms.refund,
        description=terms.memo,
        footer=shown.footer,
    )
    series = series_of(settings.credit_notes, invoice.customer, now, settings.zone)
    sequence = next_number(tx, merchant.id, series)
    document = msgspec.structs.replace(document, number=number_text(series, sequence, settings.credit_notes.digits))
    note = OwnCreditNote(
        id=book_id(OWN, "", _identity(external_id)),
        merchant_id=merchant.id,
        external_id=external_id,
        invoice_id=invoice.id,
        terms=terms,
        request_sha256=request,
        credited=list(credit.credited),
        currency=shown.currency,
        total=credit.total,
        number=str(document.number),
        series=series,
        sequence=sequence,
        snapshot=msgspec.json.encode(document),
        created_at=now,
    )
    return note, document


def _identity(external_id: str) -> CreditNote:
    return CreditNote(external_id=external_id, invoice="own", status="issued", currency="eur", subtotal=0, total=0)


def _entry(note: OwnCreditNote, invoice: OwnInvoice, credit: rule.Credit) -> CreditNote:
    return CreditNote(
        external_id=note.external_id,
        created=note.created_at,
        number=note.number,
        invoice=invoice.external_id,
        customer=invoice.customer,
        status="issued",
        currency=note.currency,
        subtotal=credit.subtotal,
        tax=credit.tax,
        total=note.total,
        reason=note.terms.reason,
        memo=note.terms.memo,
        refund=note.terms.refund,
    )
