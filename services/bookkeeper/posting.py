"""Posting: a batch of inbox events becomes changes of the book, messages to merchants, documents to make, and invoices
of payments that have none.

prepare   read the events' sources and merchants
perform   translate (pure); ask the provider for objects that events alone cannot settle: two states in one second,
          lines left out, an event that only names its object
effects   the book, what follows from it and own invoices (`actions/inbox_events.py`), in the transaction that marks the
          events processed
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from billhook.actions.inbox_events import (
    Event,
    Interpretation,
    check_billable,
    document_waits,
    entry_of,
    events_of,
    interpret,
    take_effect,
)
from billhook.errors import KeyRefused, Unprocessable
from billhook.queue.handler import Rings
from billhook.rules.book.change import Change, Fact, Related, complete, completed, tied
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import BookObject
from billhook.rules.retry import MAX_ATTEMPTS, Dead, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_be_asked
from billhook.store import book
from billhook.store.database import Database, Tx
from billhook.store.inbox import inbox
from billhook.store.sources import set_warning
from billhook.store.work import Row
from services.bookkeeper.asking import Asking, Fetched

Key = tuple[str, str, str, str]
"""Kind, source, account and the provider's id: see `book.Entry.key`."""


Result = tuple[Event, Outcome, Interpretation]


class Posting:
    """The handler of the inbox."""

    table: sa.Table = inbox
    batch = 200
    lease = timedelta(seconds=5)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, database: Database, apis: ProviderApis, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asking = Asking(apis, clock)

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Event]:
        return events_of(tx, rows)

    def perform(self, events: Sequence[Event]) -> Sequence[Result]:
        results = [self._translate(event) for event in events]
        return self._ask_provider(results)

    def _translate(self, event: Event) -> Result:
        try:
            meaning = interpret(event)
        except Exception as error:
            return self._failed(event, error)
        return (event, Done("ignored"), Interpretation()) if meaning is None else (event, Done("processed"), meaning)

    def _failed(self, event: Event, error: Exception) -> Result:
        outcome = after_failure(error, attempts=event.attempts, now=self._clock(), jitter=random.random())
        refused = error.__cause__ if isinstance(error.__cause__, KeyRefused) else None
        return event, outcome, Interpretation(warning=_warning(refused) if refused else None)

    def _ask_provider(self, results: Sequence[Result]) -> Sequence[Result]:
        """Fetch the objects that these events alone cannot settle: two states in one second, or lines left out."""
        entries = [
            entry_of(event, change)
            for event, _, meaning in results
            if can_be_asked(event.source)
            for change in meaning.changes
        ]
        unsettled = {entry.key for entry in entries if not complete(entry.change.object)} | self._ties(entries)
        answers: dict[Key, Fetched] = {}
        asked_at = self._clock()  # an answer is at least as new as the moment before its question
        return [self._settle_by_asking(result, unsettled, answers, asked_at) for result in results]

    def _ties(self, entries: Sequence[book.Entry]) -> set[Key]:
        if not entries:
            return set()
        with self._database.glance() as tx:
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
            waiting = [each for each in meaning.event_changes if document_waits(event, each)]
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
            if change.object.deleted or entry_of(event, change).key not in unsettled:
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
        if not can_be_asked(event.source):
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
        check_billable(event, facts)
        return Interpretation((change,), facts, (change,), key_works=True)

    def _ask(self, event: Event, kind: str, external_id: str, answers: dict[Key, Fetched]) -> Fetched:
        key = (kind, event.source.id, event.account, external_id)
        if key not in answers:
            answers[key] = self._asking.ask(event.source, event.account, kind, external_id)
        return answers[key]

    def about(self, event: Event, meaning: Interpretation) -> dict[str, Any]:
        facts = [fact.type for fact in meaning.facts]
        return {"event_id": event.id, "source_id": event.source.id, "type": event.type, "facts": facts}

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        done = [(event, meaning) for event, _, meaning in results if meaning.changes]
        _mark_sources(tx, results)
        return take_effect(tx, done, now)


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
