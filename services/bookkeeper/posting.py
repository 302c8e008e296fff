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
class Posted:
    """What an event means."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    told: tuple[Change, ...] = ()
    """The changes as the event told them. A provider that is asked may have moved on, and a document has not."""
    related: Related | None = None
    warning: str | None = None
    """What is wrong with the source, if anything turned out to be."""
    key_works: bool = False
    unanswered: str | None = None
    """Why the provider had nothing to say of an object."""


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
            meaning = _meaning(event)
            of_other_mode = meaning.livemode is not None and meaning.livemode != event.source.livemode
            if of_other_mode or not (meaning.changes or meaning.facts or meaning.related):
                return event, Done("ignored"), Posted()
            _refuse_unbillable(event, meaning.facts)
        except Exception as error:
            return self._failed(event, error)
        return event, Done("processed"), Posted(meaning.changes, meaning.facts, meaning.changes, meaning.related)

    def _failed(self, event: Event, error: Exception) -> tuple[Event, Outcome, Posted]:
        outcome = after_failure(error, attempts=event.attempts, now=self._clock(), jitter=random.random())
        refused = error.__cause__ if isinstance(error.__cause__, KeyRefused) else None
        return event, outcome, Posted(warning=_warning(refused) if refused else None)

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
        result: tuple[Event, Outcome, Posted],
        unsettled: set[Key],
        answers: dict[Key, Fetched],
        asked_at: datetime,
    ) -> tuple[Event, Outcome, Posted]:
        event, outcome, posted = result
        try:
            if posted.related is not None:
                posted = self._fetched(event, posted.related, answers, asked_at)
            elif posted.changes:
                posted = self._settled(event, posted, unsettled, answers, asked_at)
            waiting = [each for each in posted.told if _document_waits(event, each)]
        except Exception as error:
            return self._failed(event, error)
        if waiting:
            # The book and the merchant know what the event tells. Whoever replays it for the document doubles nothing.
            return event, Dead(_lines_missing(waiting[0].object, posted.unanswered)), posted
        return event, outcome, posted

    def _settled(
        self, event: Event, posted: Posted, unsettled: set[Key], answers: dict[Key, Fetched], asked_at: datetime
    ) -> Posted:
        """What was told, with what the provider says of objects that events alone cannot settle."""
        for place, change in enumerate(posted.told):
            if change.object.deleted or _entry(event, change).key not in unsettled:
                continue  # of what is deleted, nothing is left to ask for
            answer = self._ask(event, change.object.kind, change.object.external_id, answers)
            if isinstance(answer, Unprocessable):
                # Gone at the provider: the event that says so has more to show than the answer, and the rank settles
                # the rest.
                warning = _warning(answer) if isinstance(answer, KeyRefused) else posted.warning
                posted = replace(posted, warning=warning, unanswered=str(answer))
            else:
                posted = replace(posted, key_works=True)
                if not answer.deleted:
                    posted = _answered(posted, place, answer, asked_at)
        return posted

    def _fetched(self, event: Event, related: Related, answers: dict[Key, Fetched], asked_at: datetime) -> Posted:
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
        return Posted((change,), facts, (change,), key_works=True)

    def _ask(self, event: Event, kind: str, external_id: str, answers: dict[Key, Fetched]) -> Fetched:
        key = (kind, event.source.id, event.account, external_id)
        if key not in answers:
            answers[key] = self._asking.ask(event.source, event.account, kind, external_id)
        return answers[key]

    def effects(self, tx: Tx, results: Sequence[tuple[Event, Outcome, Posted]], now: datetime) -> Rings:
        done = [(event, posted) for event, _, posted in results if posted.changes]
        _mark_sources(tx, results)
        rings = record(tx, [_update(event, posted) for event, posted in done], now)
        paid = [
            paid_terms(tx, event.merchant, event.source, event.account, session, fact.at)
            for event, posted in done
            for fact in posted.facts
            if (session := unbilled(event.merchant, event.source, fact)) is not None
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
        event.source.livemode,
        event.id,
    )


def _meaning(event: Event) -> Translation:
    if event.type == OBSERVED and event.headers == UNSIGNED:
        return Translation((msgspec.json.decode(event.body, type=Observed).change(KINDS),))
    headers = msgspec.json.decode(event.headers, type=dict[str, str])
    return PROVIDERS[event.source.provider].translate(headers, event.body, event.received_at)


def _entry(event: Event, change: Change) -> book.Entry:
    return book.Entry(event.merchant_id, event.source.id, event.account, change)


def _answered(posted: Posted, place: int, answer: BookObject, asked_at: datetime) -> Posted:
    """What the provider says goes into the book. Merchants and documents are told what happened, as it was then, and of
    the answer only what the event left out."""
    told = list(posted.told)
    before, changes = told[place].object, list(posted.changes)
    whole = completed(before, answer)
    told[place] = msgspec.structs.replace(told[place], object=whole)
    changes[place] = Change(answer, told[place].at, asked_at=asked_at)
    facts = tuple(
        msgspec.structs.replace(fact, object=whole) if fact.object == before else fact for fact in posted.facts
    )
    return replace(posted, changes=tuple(changes), told=tuple(told), facts=facts)


def _document_waits(event: Event, told: Change) -> bool:
    """Whether a document is to be made of an invoice of which nobody knows all lines."""
    value = told.object
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


def _mark_sources(tx: Tx, results: Sequence[tuple[Event, Outcome, Posted]]) -> None:
    """Say at a source whose key is refused that it is, and no longer once it works."""
    warnings = {event.source: posted.warning for event, _, posted in results if posted.warning or posted.key_works}
    for source, warning in warnings.items():
        if source.warning != warning:
            set_warning(tx, source.id, warning)


def _documents(event: Event, posted: Posted) -> list[NewDocument]:
    """What the event calls for, showing what it told."""
    if PROVIDERS[event.source.provider].merchant_of_record:
        return []
    return [
        _document(event, _entry(event, change).id, change.object, kind)
        for change in posted.told
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
