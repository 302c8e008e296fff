"""Invoices of our own: the verbs of their lives, each in one transaction that the caller opened.

    draft ─▶ change_draft* ─▶ finalize ─▶ pay | void | write_off       (`rules.invoice_state` says what may follow)

A verb locks the invoice's row first, looks at its state again, and writes the row, the entry of the book, the messages
and the documents to make together. The caller commits and then rings for the step's `rings`. Whatever cannot be is
`Refused`, and leaves every row as it was.

Locks are taken in one order, so that verbs wait for each other and never in a circle: own invoices, then a series of
numbers, then the rest, which nobody holds without one of the first two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec

from billhook.actions.book_update import merged
from billhook.actions.credit_notes import credit, prepared_credit
from billhook.actions.document_mails import heads, send
from billhook.actions.invoice_terms import (
    CheckedTerms,
    Prepared,
    check,
    issued,
    prepare,
    prepared_draft,
    shown_of,
)
from billhook.actions.ledger import (
    Step,
    check_key,
    derived,
    invoice_documents,
    invoice_entry,
    later,
    locked,
    write,
)
from billhook.decoding import decode
from billhook.errors import Refused, Unprocessable
from billhook.queue.handler import Rings
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import book_id
from billhook.rules.document import Snapshot
from billhook.rules.invoice_state import IllegalTransition, State, Verb, after
from billhook.rules.numbering import number_text, series_of
from billhook.rules.storable import storable
from billhook.rules.terms import Terms
from billhook.rules.totals import totals
from billhook.store.database import Tx
from billhook.store.merchants import Merchant
from billhook.store.own_invoices import OWN, OwnInvoice, add_own_invoice, change_own_invoice, get_own_invoice
from billhook.store.schema import new_id
from billhook.store.series import next_number

__all__ = [
    "CheckedTerms",
    "PaidTerms",
    "change_draft",
    "check",
    "credit",
    "delete_draft",
    "draft",
    "finalize",
    "heads",
    "invoice_payments",
    "pay",
    "prepare",
    "prepared_credit",
    "prepared_draft",
    "send",
    "tell_book_again",
    "void",
    "write_off",
]

_REFERENCE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def draft(tx: Tx, merchant: Merchant, checked: CheckedTerms, key: str | None = None, *, now: datetime) -> Step:
    """A new draft. The same key with the same terms returns the same invoice, in whatever state it is by now."""
    if key is None:
        external_id, digest_kept = new_id("own"), None
    else:
        check_key(key)
        external_id, digest_kept = derived("key", merchant.id, key), checked.digest
    new = _new(merchant, external_id, checked, now, digest_kept)
    shown = shown_of(merchant, checked.terms, now, checked.charged)
    entries = _entries([("invoice.created", new)], shown)
    if not add_own_invoice(tx, new):
        there = get_own_invoice(tx, new.id, merchant_id=merchant.id)
        if there is None or there.request_sha256 != checked.digest:
            raise Refused(
                "idempotency_key_reused",
                "`Idempotency-Key` was used for another invoice. Use a new key for each, and an old one only to repeat"
                " the very same request.",
            )
        return Step(there, replayed=True)
    return _written(tx, merchant, new, shown, entries, now)


def change_draft(tx: Tx, invoice_id: str, checked: CheckedTerms, *, now: datetime) -> Step:
    """Other terms for a draft."""
    terms = checked.terms
    merchant, invoice = locked(tx, invoice_id)
    if invoice.state != "draft":
        raise Refused("invoice_state", "The invoice is final: only a draft's terms can change. Make a credit note.")
    changed = replace(
        invoice,
        terms=terms,
        customer=terms.customer,
        currency=terms.currency,
        total=checked.charged.total,
        updated_at=later(invoice, now),
    )
    shown = shown_of(merchant, terms, now, checked.charged)
    return _changed(tx, merchant, invoice, shown, [("invoice.updated", changed)], now)


def finalize(tx: Tx, invoice_id: str, *, now: datetime, prepared: Prepared | None = None) -> Step:
    """Give a draft its number and freeze all it shows. From here on nothing of it changes but its state.

    Where there is nothing to pay it is paid at once, as at Stripe, and without a receipt. What was `prepared` counts if
    neither the draft nor the merchant changed since.
    """
    merchant, invoice = locked(tx, invoice_id)
    _after(invoice, "finalize")
    if prepared is None or not prepared.holds_for(merchant, invoice.terms):
        prepared = prepare(merchant, invoice.terms, now)
    if prepared.lacking:
        raise Refused("e_invoice_incomplete", f"It cannot be an e-invoice yet: {'; '.join(prepared.lacking)}.")
    final, shown = _finalized(tx, merchant, invoice, issued(prepared.shown, invoice.terms, now), now)
    news = [("invoice.finalized", final)]
    if not final.total:
        news.append(("invoice.paid", _paid(final, now)))
    return _changed(tx, merchant, invoice, shown, news, now)


def delete_draft(tx: Tx, invoice_id: str, *, now: datetime, prepared: Prepared | None = None) -> Step:
    """Only a draft can go: what has a number stays."""
    merchant, invoice = locked(tx, invoice_id)
    deleted = replace(invoice, state=_after(invoice, "delete"), updated_at=later(invoice, now))
    if prepared is None or not prepared.holds_for(merchant, invoice.terms):
        prepared = prepare(merchant, invoice.terms, now)
    shown = issued(prepared.shown, invoice.terms, now)
    return _changed(tx, merchant, invoice, shown, [("invoice.deleted", deleted)], now)


def pay(
    tx: Tx,
    invoice_id: str,
    *,
    paid_at: datetime | None = None,
    reference: str | None = None,
    method: str | None = None,
    now: datetime,
) -> Step:
    """All that is open was paid: `paid_at` (now, if nothing is said), under a reference of the payment, and by a method
    in the words that the receipt is to say."""
    for field, text in (("reference", reference), ("method", method)):
        if text is not None and not _REFERENCE.fullmatch(text):
            raise Refused(f"{field}_invalid", f"`{field}` must be one line of 1 to 255 characters.")
    merchant, invoice = locked(tx, invoice_id)
    _after(invoice, "pay")  # checked first: a draft has none of the dates below
    if paid_at is not None and (
        paid_at.tzinfo is None or not (invoice.finalized_at or invoice.created_at) <= paid_at <= now
    ):
        raise Refused(
            "paid_at_invalid",
            "`paid_at` must be a time with its offset that is not in the future, and not before the invoice was"
            f" finalized ({invoice.finalized_at}).",
        )
    paid = replace(_paid(invoice, now, paid_at), payment_reference=reference, payment_method=method)
    return _changed(tx, merchant, invoice, _frozen(invoice), [("invoice.paid", paid)], now)


def void(tx: Tx, invoice_id: str, *, now: datetime) -> Step:
    """It should never have been issued: it keeps its number, and says that it is void."""
    merchant, invoice = locked(tx, invoice_id)
    state = _after(invoice, "void")
    if invoice.amount_credited:
        # The credit notes correct it already; a void would correct it twice.
        raise Refused("invoice_credited", "The invoice has credit notes, so it cannot be void. Credit what is left.")
    voided = replace(invoice, state=state, voided_at=now, updated_at=later(invoice, now))
    return _changed(tx, merchant, invoice, _frozen(invoice), [("invoice.voided", voided)], now)


def write_off(tx: Tx, invoice_id: str, *, now: datetime) -> Step:
    """Nobody expects the money any more. It may come all the same: then it is paid."""
    merchant, invoice = locked(tx, invoice_id)
    state = _after(invoice, "write_off")
    written_off = replace(invoice, state=state, written_off_at=now, updated_at=later(invoice, now))
    return _changed(tx, merchant, invoice, _frozen(invoice), [("invoice.marked_uncollectible", written_off)], now)


def tell_book_again(tx: Tx, invoice_id: str, *, now: datetime) -> Rings:
    """Let the book take what is known of it here. Nothing of the invoice itself changes."""
    merchant, invoice = locked(tx, invoice_id)
    same = replace(invoice, updated_at=later(invoice, now))
    terms, drafted = invoice.terms, invoice.snapshot is None
    shown = shown_of(merchant, terms, now, totals(terms)) if drafted else _frozen(invoice)
    return _changed(tx, merchant, invoice, shown, [("invoice.updated", same)], now).rings


@dataclass(frozen=True)
class PaidTerms:
    """Something that was paid for already, and has no invoice."""

    merchant: Merchant
    identity: tuple[str, ...]
    """Of the payment: there is one invoice of it, however often and in whatever order it is told."""
    terms: Terms
    paid_at: datetime
    reference: str | None = None
    traceparent: str | None = None


def invoice_payments(tx: Tx, paid: Sequence[PaidTerms], now: datetime) -> Rings:
    """An invoice of each payment: drafted, finalized and paid in one step, if there is none yet. It is issued now,
    because dates must rise with the numbers, and keeps the payment's own date."""
    rings: list[Rings] = []
    by_id: dict[str, tuple[PaidTerms, OwnInvoice, Snapshot]] = {}
    for one in paid:
        checked = check(one.terms, paid=True)
        new = _new(one.merchant, derived("payment", one.merchant.id, *one.identity), checked, now, None)
        by_id.setdefault(new.id, (one, new, shown_of(one.merchant, checked.terms, now, checked.charged)))
    # All rows are inserted, in order, before the first number is taken: otherwise two transactions could deadlock.
    fresh = [by_id[invoice_id] for invoice_id in sorted(by_id) if add_own_invoice(tx, by_id[invoice_id][1])]
    for one, new, unnumbered in sorted(fresh, key=lambda three: _series(three[0].merchant, three[1], now)):
        final, shown = _finalized(tx, one.merchant, new, unnumbered, now)
        done = replace(_paid(final, now, min(one.paid_at, now)), payment_reference=one.reference)
        news = [("invoice.created", new), ("invoice.finalized", final), ("invoice.paid", done)]
        rings.append(_changed(tx, one.merchant, new, shown, news, now, one.traceparent).rings)
    return merged(rings)


def _new(
    merchant: Merchant, external_id: str, checked: CheckedTerms, now: datetime, request: bytes | None
) -> OwnInvoice:
    terms = checked.terms
    identity = Invoice(
        external_id=external_id,
        status="draft",
        currency=terms.currency,
        subtotal=0,
        total=0,
        amount_due=0,
        amount_paid=0,
        amount_remaining=0,
    )
    return OwnInvoice(
        id=book_id(OWN, "", identity),
        merchant_id=merchant.id,
        external_id=external_id,
        state="draft",
        terms=terms,
        request_sha256=request,
        customer=terms.customer,
        currency=terms.currency,
        total=checked.charged.total,
        created_at=now,
        updated_at=now,
    )


def _frozen(invoice: OwnInvoice) -> Snapshot:
    assert invoice.snapshot is not None
    return decode(invoice.snapshot, Snapshot)


def _after(invoice: OwnInvoice, verb: Verb) -> State:
    try:
        return after(invoice.state, verb)  # type: ignore[arg-type]
    except IllegalTransition as error:
        raise Refused("invoice_state", str(error)) from None


def _series(merchant: Merchant, invoice: OwnInvoice, at: datetime) -> tuple[str, str]:
    settings = merchant.invoicing
    return merchant.id, series_of(settings.invoices, invoice.customer, at, settings.zone)


def _finalized(
    tx: Tx, merchant: Merchant, invoice: OwnInvoice, shown: Snapshot, now: datetime
) -> tuple[OwnInvoice, Snapshot]:
    state = _after(invoice, "finalize")
    if not invoice.terms.lines:
        raise Refused("invoice_empty", "The draft has no lines: an invoice must say what it is for.")
    _, series = _series(merchant, invoice, now)
    # From here to the end of the transaction the series is locked for everyone else.
    sequence = next_number(tx, merchant.id, series)
    number = number_text(series, sequence, merchant.invoicing.invoices.digits)
    shown = msgspec.structs.replace(shown, number=number)
    final = replace(
        invoice,
        state=state,
        number=number,
        series=series,
        sequence=sequence,
        snapshot=msgspec.json.encode(shown),
        finalized_at=now,
        due_at=shown.due_at,
        updated_at=later(invoice, now),
    )
    return final, shown


def _paid(invoice: OwnInvoice, now: datetime, paid_at: datetime | None = None) -> OwnInvoice:
    return replace(
        invoice,
        state=_after(invoice, "pay"),
        amount_paid=invoice.amount_remaining,
        paid_at=paid_at or now,
        updated_at=later(invoice, now),
    )


def _changed(
    tx: Tx,
    merchant: Merchant,
    before: OwnInvoice,
    shown: Snapshot,
    news: Sequence[tuple[str, OwnInvoice]],
    now: datetime,
    traceparent: str | None = None,
) -> Step:
    """Write the columns that differ, and with them the book, the messages and the documents."""
    last = news[-1][1]
    entries = _entries(news, shown)
    changes = {name: value for name, value in vars(last).items() if value != getattr(before, name)}
    change_own_invoice(tx, before.id, **changes)
    return _written(tx, merchant, last, shown, entries, now, traceparent)


def _entries(news: Sequence[tuple[str, OwnInvoice]], shown: Snapshot) -> list[tuple[str, Invoice]]:
    """What the book and the messages say of each stage. Raises `Refused` for what SQL cannot hold, so it comes before
    anything is written."""
    try:
        entries = [(event_type, storable(invoice_entry(stage, shown), "invoice")) for event_type, stage in news]
    except Unprocessable as error:
        raise Refused("terms_invalid", str(error)) from None
    return [(event_type, entry) for event_type, entry in entries if isinstance(entry, Invoice)]


def _written(
    tx: Tx,
    merchant: Merchant,
    invoice: OwnInvoice,
    shown: Snapshot,
    entries: Sequence[tuple[str, Invoice]],
    now: datetime,
    traceparent: str | None = None,
) -> Step:
    entry = entries[-1][1]
    documents = invoice_documents(merchant, invoice, entry, shown)
    changes = [Change(entry, invoice.updated_at)]
    return Step(invoice, write(tx, merchant, changes, entries, documents, now, traceparent))
