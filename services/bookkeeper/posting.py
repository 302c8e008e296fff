"""Posting: a batch of inbox events becomes changes of the book, messages to merchants, documents to make, and invoices
of payments that have none.

prepare   read the events' sources and merchants
perform   translate (pure); ask the provider for objects that events alone cannot settle: two states in one second,
          lines left out, an event that only names its object
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
from billhook.decoding import decode
from billhook.errors import KeyRefused, Unprocessable
from billhook.providers import PROVIDERS
from billhook.queue.consumer import Rings
from billhook.rules.book import (
    KINDS,
    BookObject,
    Change,
    Fact,
    Invoice,
    Related,
    Translation,
    complete,
    completed,
    tied,
)
from billhook.rules.document import DocumentKind
from billhook.rules.invoice import documents_due, snapshot_of
from billhook.rules.reconcile import OBSERVED, UNSIGNED, Observed
from billhook.rules.retry import MAX_ATTEMPTS, Dead, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.store import book
from billhook.store.database import Database, Tx
from billhook.store.documents import NewDocument
from billhook.store.inbox import inbox
from billhook.store.merchants import Merchant, merchants_of
from billhook.store.sources import Source, set_warning, sources_of
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


Result = tuple[Event, Outcome, Interpretation]


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

    def perform(self, events: Sequence[Event]) -> Sequence[Result]:
        results = [self._translate(event) for event in events]
        return self._ask_provider(results)

    def _translate(self, event: Event) -> Result:
        try:
            translation = _translation(event)
            of_other_mode = translation.livemode is not None and translation.livemode != event.source.livemode
            if of_other_mode or not (translation.changes or translation.facts or translation.related):
                return event, Done("ignored"), Interpretation()
            _refuse_unbillable(event, translation.facts)
        except Exception as error:
            return self._failed(event, error)
        return (
            event,
            Done("processed"),
            Interpretation(translation.changes, translation.facts, translation.changes, translation.related),
        )

    def _failed(self, event: Event, error: Exception) -> Result:
        outcome = after_failure(error, attempts=event.attempts, now=self._clock(), jitter=random.random())
        refused = error.__cause__ if isinstance(error.__cause__, KeyRefused) else None
        return event, outcome, Interpretation(warning=_warning(refused) if refused else None)

    def _ask_provider(self, results: Sequence[Result]) -> Sequence[Result]:
        """Fetch the objects that these events alone cannot settle: two states in one second, or lines left out."""
        entries = [
            _entry(event, change)
            for event, _, meaning in results
            if Asking.possible(event.source)
            for change in meaning.changes
        ]
        unsettled = {entry.key for entry in entries if not complete(entry.change.object)} | self._ties(entries)
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
        result: Result,
        unsettled: set[Key],
        answers: dict[Key, Fetched],
        asked_at: datetime,
    ) -> Result:
        event, outcome, meaning = result
        try:
            if meaning.related is not None:
                meaning = self._fetched(event, meaning.related, answers, asked_at)
            elif meaning.changes:
                meaning = self._settled(event, meaning, unsettled, answers, asked_at)
            waiting = [each for each in meaning.event_changes if _document_waits(event, each)]
        except Exception as error:
            return self._failed(event, error)
        if waiting:
            # The book and the merchant know what the event tells. Whoever replays it for the document doubles nothing.
            return event, Dead(_lines_missing(waiting[0].object, meaning.unanswered)), meaning
        return event, outcome, meaning

    def _settled(
        self,
        event: Event,
        meaning: Interpretation,
        unsettled: set[Key],
        answers: dict[Key, Fetched],
        asked_at: datetime,
    ) -> Interpretation:
        """What was told, with what the provider says of objects that events alone cannot settle."""
        for place, change in enumerate(meaning.event_changes):
            if change.object.deleted or _entry(event, change).key not in unsettled:
                continue  # of what is deleted, nothing is left to ask for
            answer = self._ask(event, change.object.kind, change.object.external_id, answers)
            if isinstance(answer, Unprocessable):
                # Gone at the provider: the event that says so has more to show than the answer, and the rank settles
                # the rest.
                warning = _warning(answer) if isinstance(answer, KeyRefused) else meaning.warning
                meaning = replace(meaning, warning=warning, unanswered=str(answer))
            else:
                meaning = replace(meaning, key_works=True)
                if not answer.deleted:
                    meaning = _answered(meaning, place, answer, asked_at)
        return meaning

    def _fetched(
        self, event: Event, related: Related, answers: dict[Key, Fetched], asked_at: datetime
    ) -> Interpretation:
        """What an event means that only names its object."""
        what = f"{event.type} only names its object, {related.kind} {related.external_id}"
        if not Asking.possible(event.source):
            raise Unprocessable(
                f"{what}. Give the source its provider's API key (`billhook sources set-api-key`) and replay this"
                " event, or have the provider send whole objects (at Stripe: the payload style `snapshot`)."
            )
        answer = self._ask(event, related.kind, related.external_id, answers)
        if isinstance(answer, KeyRefused):
            raise Unprocessable(f"{what}. {_warning(answer)} Then replay this event.") from answer
        if isinstance(answer, Unprocessable):
            raise Unprocessable(f"{what}, and that cannot be fetched. {answer}")
        change = Change(answer, related.at, asked_at=asked_at)
        silent = related.fact is None or (related.lone and getattr(answer, "payment", None) is not None)
        facts = () if silent else (Fact(str(related.fact), answer, related.at),)
        _refuse_unbillable(event, facts)
        return Interpretation((change,), facts, (change,), key_works=True)

    def _ask(self, event: Event, kind: str, external_id: str, answers: dict[Key, Fetched]) -> Fetched:
        key = (kind, event.source.id, event.account, external_id)
        if key not in answers:
            answers[key] = self._asking.ask(event.source, event.account, kind, external_id)
        return answers[key]

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        done = [(event, meaning) for event, _, meaning in results if meaning.changes]
        _mark_sources(tx, results)
        rings = record(tx, [_update(event, meaning) for event, meaning in done], now)
        paid = [
            paid_terms(tx, event.merchant, event.source, event.account, session, fact.at)
            for event, meaning in done
            for fact in meaning.facts
            if (session := unbilled(event.merchant, event.source, fact)) is not None
        ]
        return merged([rings, invoice_payments(tx, paid, now)])


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
    )


def _translation(event: Event) -> Translation:
    if event.type == OBSERVED and event.headers == UNSIGNED:
        return Translation((decode(event.body, Observed).change(KINDS),))
    headers = decode(event.headers, dict[str, str])
    return PROVIDERS[event.source.provider].translate(headers, event.body, event.received_at)


def _entry(event: Event, change: Change) -> book.Entry:
    return book.Entry(event.merchant_id, event.source.id, event.account, change)


def _answered(meaning: Interpretation, place: int, answer: BookObject, asked_at: datetime) -> Interpretation:
    """What the provider says goes into the book. Merchants and documents are told what happened, as it was then, and of
    the answer only what the event left out."""
    carried = list(meaning.event_changes)
    before, changes = carried[place].object, list(meaning.changes)
    whole = completed(before, answer)
    carried[place] = msgspec.structs.replace(carried[place], object=whole)
    changes[place] = Change(answer, carried[place].at, asked_at=asked_at)
    facts = tuple(
        msgspec.structs.replace(fact, object=whole) if fact.object == before else fact for fact in meaning.facts
    )
    return replace(meaning, changes=tuple(changes), event_changes=tuple(carried), facts=facts)


def _document_waits(event: Event, change: Change) -> bool:
    """Whether a document is to be made of an invoice of which nobody knows all lines."""
    value = change.object
    drawn = not PROVIDERS[event.source.provider].merchant_of_record
    return drawn and isinstance(value, Invoice) and not value.lines_complete and bool(documents_due(value))


def _refuse_unbillable(event: Event, facts: Sequence[Fact]) -> None:
    for fact in facts:
        if (session := unbilled(event.merchant, event.source, fact)) is not None:
            refuse_unbillable(session)


def _lines_missing(value: BookObject, unanswered: str | None) -> str:
    assert isinstance(value, Invoice)
    remedy = (
        "Give the source its provider's API key (`billhook sources set-api-key`)"
        if unanswered is None
        else f"They could not be fetched. {unanswered}. Mend that"
    )
    return (
        f"The event carries only the first {len(value.lines)} lines of invoice {value.number or value.external_id}, and"
        f" a document must show all: it waits, and nothing else does. {remedy}, then replay this event."
    )


def _warning(refused: KeyRefused) -> str:
    return f"{refused}. Set another key: `billhook sources set-api-key`."


def _mark_sources(tx: Tx, results: Sequence[Result]) -> None:
    """Say at a source whose key is refused that it is, and no longer once it works."""
    warnings = {event.source: meaning.warning for event, _, meaning in results if meaning.warning or meaning.key_works}
    for source, warning in warnings.items():
        if source.warning != warning:
            set_warning(tx, source.id, warning)


def _documents(event: Event, meaning: Interpretation) -> list[NewDocument]:
    """What the event calls for, showing what it told."""
    if PROVIDERS[event.source.provider].merchant_of_record:
        return []
    return [
        _document(event, _entry(event, change).id, change.object, kind)
        for change in meaning.event_changes
        if isinstance(change.object, Invoice) and not _document_waits(event, change)
        for kind in documents_due(change.object)
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
