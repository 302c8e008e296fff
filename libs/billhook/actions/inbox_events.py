"""What an event of the inbox means, and its effects: for the bookkeeper, and for a dry run that takes them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from billhook.actions.book_update import BookUpdate, merged
from billhook.actions.checkout_invoices import paid_terms, refuse_unbillable, unbilled
from billhook.actions.consequences import record
from billhook.actions.invoices import invoice_payments
from billhook.decoding import decode
from billhook.providers import PROVIDERS
from billhook.queue.handler import Rings
from billhook.rules.book.change import Change, Fact, Related, Translation, complete
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.kinds import KINDS
from billhook.rules.document import DocumentKind
from billhook.rules.invoice import documents_due, snapshot_of
from billhook.rules.reconcile import OBSERVED, UNSIGNED, Observed
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import NewDocument
from billhook.store.merchants import Merchant
from billhook.store.sources import Source, sources_with_merchants
from billhook.store.work import Row


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the inbox."""

    id: str
    merchant_id: str
    attempts: int
    merchant: Merchant
    source: Source
    account: str
    type: str
    headers: bytes
    body: bytes
    received_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Interpretation:
    """What an event means, after asking the provider where that was needed."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    event_changes: tuple[Change, ...] = ()
    """The changes as the event carried them: documents show these, while an answer of the provider may be newer."""
    related: Related | None = None
    warning: str | None = None
    """What is wrong with the source, if anything turned out to be."""
    key_works: bool = False
    unanswered: str | None = None
    """Why the provider had nothing to say of an object."""

    @property
    def settled(self) -> bool:
        """Whether it says all by itself, as far as an event can: the provider need not be asked."""
        return self.related is None and all(complete(change.object) for change in self.changes)


def events_of(tx: Tx, rows: Sequence[Row]) -> list[Event]:
    """Rows of the inbox with their sources and merchants."""
    known = sources_with_merchants(tx, {row["source_id"] for row in rows})
    return [
        Event(
            row["id"],
            row["merchant_id"],
            row["attempts"],
            known[row["source_id"]][1],
            known[row["source_id"]][0],
            row["account"],
            row["type"],
            row["headers"],
            row["body"],
            row["received_at"],
            row["traceparent"],
        )
        for row in rows
    ]


def interpret(event: Event) -> Interpretation | None:
    """What it means by itself; None for one that means nothing to billhook, or is of the other mode. Raises
    `Unprocessable`."""
    translation = _translation(event)
    of_other_mode = translation.livemode is not None and translation.livemode != event.source.livemode
    if of_other_mode or not (translation.changes or translation.facts or translation.related):
        return None
    check_billable(event, translation.facts)
    return Interpretation(translation.changes, translation.facts, translation.changes, translation.related)


def _translation(event: Event) -> Translation:
    if event.type == OBSERVED and event.headers == UNSIGNED:
        return decode(event.body, Observed).translation(KINDS)
    headers = decode(event.headers, dict[str, str])
    return PROVIDERS[event.source.provider].translate(headers, event.body, event.received_at)


def check_billable(event: Event, facts: Sequence[Fact]) -> None:
    """Raise `Unprocessable` for a paid checkout that no invoice can be made of."""
    for fact in facts:
        if (session := unbilled(event.merchant, event.source, fact)) is not None:
            refuse_unbillable(session)


def take_effect(tx: Tx, done: Sequence[tuple[Event, Interpretation]], now: datetime) -> Rings:
    """The book, what follows from it, and own invoices of payments. Doing it again changes nothing."""
    rings = record(tx, [_update(event, meaning) for event, meaning in done], now)
    paid = [
        replace(
            paid_terms(tx, event.merchant, event.source, event.account, session, fact.at), traceparent=event.traceparent
        )
        for event, meaning in done
        for fact in meaning.facts
        if (session := unbilled(event.merchant, event.source, fact)) is not None
    ]
    return merged([rings, invoice_payments(tx, paid, now)]) if paid else rings


def entry_of(event: Event, change: Change) -> book.Entry:
    return book.Entry(event.merchant_id, event.source.id, event.account, change)


def document_waits(event: Event, change: Change) -> bool:
    """Whether a document is to be made of an invoice of which nobody knows all lines."""
    value = change.object
    drawn = not PROVIDERS[event.source.provider].merchant_of_record
    return drawn and isinstance(value, Invoice) and not value.lines_complete and bool(documents_due(value))


def _update(event: Event, meaning: Interpretation) -> BookUpdate:
    return BookUpdate(
        event.merchant,
        event.source.id,
        event.account,
        meaning.changes,
        meaning.facts,
        tuple(_documents(event, meaning)),
        event.source.livemode,
        event.id,
        event.traceparent,
    )


def _documents(event: Event, meaning: Interpretation) -> list[NewDocument]:
    """What the event calls for, showing what it told."""
    if PROVIDERS[event.source.provider].merchant_of_record:
        return []
    return [
        document
        for change in meaning.event_changes
        if isinstance(change.object, Invoice) and not document_waits(event, change)
        for document in documents_of(
            event.merchant, entry_of(event, change).id, change.object, livemode=event.source.livemode
        )
    ]


def documents_of(merchant: Merchant, invoice_id: str, shown: Invoice, *, livemode: bool) -> list[NewDocument]:
    """What a provider's invoice calls for."""
    return [_document(merchant, invoice_id, shown, kind, livemode) for kind in documents_due(shown)]


def _document(merchant: Merchant, subject_id: str, shown: Invoice, kind: DocumentKind, livemode: bool) -> NewDocument:
    snapshot = snapshot_of(
        shown,
        kind=kind,
        seller=merchant.seller,
        locale=merchant.locale,
        zone=merchant.invoicing.zone,
        template=merchant.invoicing.template,
        paper=merchant.invoicing.paper_wish,
        livemode=livemode,
    )
    return NewDocument(merchant.id, subject_id, kind, snapshot.template, msgspec.json.encode(snapshot))
