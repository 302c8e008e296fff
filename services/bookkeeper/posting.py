"""Posting: a batch of inbox events becomes changes of the book, messages to merchants, documents to make, and invoices
of payments that have none.

prepare   read the events' sources and merchants
perform   translate (pure); where two states of one object share a second, ask the provider for the object
effects   the book, what follows from it (`actions/consequences.py`) and own invoices, in the transaction that marks the
          events processed
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from billhook.actions.book_update import BookUpdate, merged
from billhook.actions.consequences import record
from billhook.actions.invoices import invoice_payments
from billhook.errors import Unprocessable
from billhook.providers import PROVIDERS
from billhook.queue.consumer import Rings
from billhook.rules.book import BookObject, Change, Fact, Invoice, tied
from billhook.rules.document import DocumentKind
from billhook.rules.invoice import documents_due, snapshot_of
from billhook.rules.retry import MAX_ATTEMPTS, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.store import book
from billhook.store.database import Database, Tx
from billhook.store.documents import NewDocument
from billhook.store.inbox import inbox
from billhook.store.merchants import Merchant, merchants_of
from billhook.store.sources import Source, sources_of
from billhook.store.vault import Vault
from billhook.store.work import Row
from services.bookkeeper.asking import Asking, Fetched
from services.bookkeeper.payments import paid_terms, refuse_unbillable, unbilled

Key = tuple[str, str, str, str]
"""Kind, source, account and the provider's id: see `book.Entry.key`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One claimed event of the inbox."""

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


@dataclass(frozen=True, slots=True)
class Posted:
    """What an event means."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    told: tuple[Change, ...] = ()
    """The changes as the event told them. A provider that is asked may have moved on, and a document has not."""


class Posting:
    """The handler of the inbox."""

    table: sa.Table = inbox
    batch = 200
    lease = timedelta(seconds=5)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asking = Asking(vault, clock)

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Event]:
        sources = sources_of(tx, {row["source_id"] for row in rows})
        merchants = merchants_of(tx, {row["merchant_id"] for row in rows})
        return [
            Event(
                row["id"],
                row["merchant_id"],
                row["attempts"],
                merchants[row["merchant_id"]],
                sources[row["source_id"]],
                row["account"],
                row["type"],
                row["headers"],
                row["body"],
                row["received_at"],
            )
            for row in rows
        ]

    def perform(self, events: Sequence[Event]) -> Sequence[tuple[Event, Outcome, Posted]]:
        results = [self._translate(event) for event in events]
        return self._ask_provider(results)

    def _translate(self, event: Event) -> tuple[Event, Outcome, Posted]:
        try:
            headers = msgspec.json.decode(event.headers, type=dict[str, str])
            meaning = PROVIDERS[event.source.provider].translate(headers, event.body, event.received_at)
            for fact in meaning.facts:
                if (session := unbilled(event.merchant, fact)) is not None:
                    refuse_unbillable(session)
        except Exception as error:
            return self._failed(event, error)
        state = "processed" if meaning.changes or meaning.facts else "ignored"
        return event, Done(state), Posted(meaning.changes, meaning.facts, meaning.changes)

    def _failed(self, event: Event, error: Exception) -> tuple[Event, Outcome, Posted]:
        outcome = after_failure(error, attempts=event.attempts, now=self._clock(), jitter=random.random())
        return event, outcome, Posted()

    def _ask_provider(
        self, results: Sequence[tuple[Event, Outcome, Posted]]
    ) -> Sequence[tuple[Event, Outcome, Posted]]:
        """Fetch the objects that these events alone cannot settle: two states in one second, or lines left out."""
        entries = [
            _entry(event, change)
            for event, _, posted in results
            if Asking.possible(event.source)
            for change in posted.changes
        ]
        unsettled = {entry.key for entry in entries if not _whole(entry.change)} | self._ties(entries)
        answers: dict[Key, Fetched] = {}
        asked_at = self._clock()  # an answer is at least as new as the moment before its question
        return [self._settle_by_asking(result, unsettled, answers, asked_at) for result in results]

    def _ties(self, entries: Sequence[book.Entry]) -> set[Key]:
        if not entries:
            return set()
        with self._database.read() as tx:
            known = book.versions(tx, {entry.key for entry in entries})
        ties = set()
        for entry in entries:
            version = known.setdefault(entry.key, entry.change.version)
            if tied(version, entry.change):
                ties.add(entry.key)
            known[entry.key] = max(version, entry.change.version)
        return ties

    def _settle_by_asking(
        self,
        result: tuple[Event, Outcome, Posted],
        unsettled: set[Key],
        answers: dict[Key, Fetched],
        asked_at: datetime,
    ) -> tuple[Event, Outcome, Posted]:
        event, outcome, posted = result
        try:
            changes = tuple(
                self._settled(event, change, answers, asked_at) if _entry(event, change).key in unsettled else change
                for change in posted.changes
            )
            for change in changes:
                _refuse_missing_lines(change)
        except Exception as error:
            return self._failed(event, error)
        return event, outcome, replace(posted, changes=changes)

    def _settled(self, event: Event, change: Change, answers: dict[Key, Fetched], asked_at: datetime) -> Change:
        if change.object.deleted:
            return change  # nothing is left to ask for
        key = _entry(event, change).key
        if key not in answers:
            answers[key] = self._asking.ask(event.source, event.account, change.object.kind, change.object.external_id)
        answer = answers[key]
        if isinstance(answer, BookObject) and not answer.deleted:
            return Change(answer, change.at, asked_at)
        if isinstance(answer, Unprocessable) and _lines_missing(change):
            raise answer
        # Gone at the provider: the event that says so has more to show than the answer, and the rank settles the rest.
        return change

    def effects(self, tx: Tx, results: Sequence[tuple[Event, Outcome, Posted]], now: datetime) -> Rings:
        done = [(event, posted) for event, outcome, posted in results if isinstance(outcome, Done)]
        rings = record(tx, [_update(event, posted) for event, posted in done], now)
        paid = [
            paid_terms(tx, event.merchant, event.source, event.account, session, fact.at)
            for event, posted in done
            for fact in posted.facts
            if (session := unbilled(event.merchant, fact)) is not None
        ]
        return merged([rings, invoice_payments(tx, paid, now)])


def _update(event: Event, posted: Posted) -> BookUpdate:
    return BookUpdate(
        event.merchant,
        event.source.id,
        event.account,
        posted.changes,
        posted.facts,
        tuple(_documents(event, posted)),
        event.id,
    )


def _entry(event: Event, change: Change) -> book.Entry:
    return book.Entry(event.merchant_id, event.source.id, event.account, change)


def _lines_missing(change: Change) -> bool:
    """Whether a document is to be made of this invoice, and the event does not show all of it."""
    return not _whole(change) and isinstance(change.object, Invoice) and bool(documents_due(change.object))


def _whole(change: Change) -> bool:
    return not isinstance(change.object, Invoice) or change.object.lines_complete


def _refuse_missing_lines(change: Change) -> None:
    if isinstance(change.object, Invoice) and _lines_missing(change):
        raise Unprocessable(
            f"The event carries only the first {len(change.object.lines)} lines of invoice"
            f" {change.object.number or change.object.external_id}, and a document must show all. Give the source its"
            " provider's API key (`billhook sources set-api-key`), then replay this event."
        )


def _documents(event: Event, posted: Posted) -> list[NewDocument]:
    """What the event calls for, showing what it told; where it left lines out, what the provider answered."""
    if PROVIDERS[event.source.provider].merchant_of_record:
        return []
    return [
        _document(event, _entry(event, change).id, shown, kind)
        for told, change in zip(posted.told, posted.changes, strict=True)
        for shown in [told.object if _whole(told) else change.object]
        if isinstance(told.object, Invoice) and isinstance(shown, Invoice)
        for kind in documents_due(told.object)
    ]


def _document(event: Event, subject_id: str, shown: Invoice, kind: DocumentKind) -> NewDocument:
    merchant = event.merchant
    snapshot = snapshot_of(
        shown,
        kind=kind,
        seller=merchant.seller,
        locale=merchant.locale,
        zone=merchant.invoicing.zone,
        template=merchant.invoicing.template,
    )
    return NewDocument(merchant.id, subject_id, kind, snapshot.template, msgspec.json.encode(snapshot))
