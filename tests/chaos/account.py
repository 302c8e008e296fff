"""The account: everything accepted, followed through the inbox, the book, the documents and out to the receiver.

`account` is pure: evidence in, findings out. `tests.chaos.evidence` gathers the evidence of a run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from billhook.rules.delivery import wants
from tests.chaos.ledger import Accepted
from tests.chaos.receiver import Arrival
from tests.chaos.traffic import Event

Identity = tuple[str, str]
"""Source and the event's or object's id there."""


@dataclass(frozen=True, slots=True)
class InboxRow:
    id: str
    event: Identity
    sha256: bytes
    state: str
    finished_at: float


@dataclass(frozen=True, slots=True)
class BookRow:
    id: str
    kind: str
    object: Identity
    event_id: str
    """Of the state that the book holds."""


@dataclass(frozen=True, slots=True)
class MessageRow:
    id: str
    inbox_id: str
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    id: str
    message_id: str
    endpoint: str
    state: str


@dataclass(frozen=True, slots=True)
class DocumentRow:
    id: str
    invoice_id: str
    kind: str
    state: str
    problem: str | None
    """What is wrong with its file in the object store, None where it is the one that was stored."""
    finished_at: float


@dataclass(frozen=True)
class Evidence:
    """All that a run left behind."""

    accepted: Sequence[Accepted]
    endpoints: Mapping[str, Collection[str]]
    """Name → the patterns of events it wants."""
    arrivals: Sequence[Arrival]
    inbox: Sequence[InboxRow]
    book: Sequence[BookRow]
    messages: Sequence[MessageRow]
    deliveries: Sequence[DeliveryRow]
    documents: Sequence[DocumentRow]
    conflicts: int = 0
    """Events kept because another body came under their id; the sender never sends one."""


@dataclass
class Account:
    """A sentence for each thing that is not as it must be."""

    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    arrivals: int = 0
    repeated: int = 0
    """Webhooks that arrived once more under a known id: allowed, receivers go by the id."""
    done_at: dict[Identity, float] = field(default_factory=dict)
    """When everything that follows from an event had happened."""
    refused: set[Identity] = field(default_factory=set)
    """Events with a webhook that an endpoint refused at first: they took as long as their schedule says."""

    @property
    def balanced(self) -> bool:
        return not self.lost and not self.doubled


def account(evidence: Evidence) -> Account:
    """Balance what was accepted against what came of it, and what came of it against what was accepted."""
    return _Auditor(evidence).audit()


class _Auditor:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._result = Account(arrivals=len(evidence.arrivals))
        self._inbox = _by(evidence.inbox, lambda row: row.event)
        self._messages = _by(evidence.messages, lambda row: row.inbox_id)
        self._deliveries = _by(evidence.deliveries, lambda row: (row.message_id, row.endpoint))
        self._arrivals = _by(evidence.arrivals, lambda arrival: (arrival.webhook_id, arrival.endpoint))
        self._book = _by(evidence.book, lambda row: (row.kind, row.object))
        self._documents = _by(evidence.documents, lambda row: (row.invoice_id, row.kind))

    def audit(self) -> Account:
        events = {(a.event.source, a.event.id): a.event for a in self._evidence.accepted}
        self._result.accepted = len(events)
        for event in events.values():
            self._event(event)
        self._objects(events.values())
        self._nothing_else(events)
        self._wire()
        return self._result

    def _event(self, event: Event) -> None:
        identity = (event.source, event.id)
        rows = self._inbox.get(identity, [])
        if not self._one(rows, f"{event.id}: row in the inbox"):
            return
        row = rows[0]
        if row.sha256 != event.sha256:
            self._lost(f"{event.id}: the inbox holds another body")
        expected = "processed" if event.fact else "ignored"
        if row.state != expected:
            self._lost(f"{event.id}: {row.state} in the inbox, not {expected}")
        self._done(identity, row.finished_at)
        messages = self._messages.get(row.id, [])
        if event.fact is None:
            if messages:
                self._doubled(f"{event.id}: is not to be told, and has {len(messages)} messages")
        elif self._one(messages, f"{event.id}: message"):
            self._message(event, messages[0])

    def _message(self, event: Event, message: MessageRow) -> None:
        said = json.loads(message.body)
        if (message.type, said["type"], said["data"]["metadata"]["event"]) != (event.fact, event.fact, event.id):
            self._lost(f"{event.id}: its message {message.id} says something else")
        for endpoint, patterns in self._evidence.endpoints.items():
            deliveries = self._deliveries.get((message.id, endpoint), [])
            if not wants(patterns, message.type):
                if deliveries:
                    self._doubled(f"{event.id}: delivered to {endpoint}, which does not want it")
                continue
            if self._one(deliveries, f"{event.id}: delivery to {endpoint}") and deliveries[0].state != "delivered":
                self._lost(f"{event.id}: its delivery to {endpoint} is {deliveries[0].state}")
            arrivals = self._arrivals.get((message.id, endpoint), [])
            arrived = [
                arrival.at
                for arrival in arrivals
                if arrival.verified and arrival.body == message.body and arrival.taken
            ]
            if not all(arrival.taken for arrival in arrivals):
                self._result.refused.add((event.source, event.id))
            if arrived:
                self._done((event.source, event.id), min(arrived))
            else:
                self._lost(f"{event.id}: {message.id} did not arrive at {endpoint}")

    def _objects(self, events: Iterable[Event]) -> None:
        """The book holds each object once, in the latest state that was accepted, and its documents once each."""
        for (kind, source, object_id), known in _by(
            [event for event in events if event.kind], lambda event: (event.kind, event.source, event.object_id)
        ).items():
            latest = max(known, key=lambda event: event.number)
            rows = self._book.get((kind, (source, object_id)), [])
            if not self._one(rows, f"{source} {object_id}: row in the book"):
                continue
            if rows[0].event_id != latest.id:
                self._lost(f"{source} {object_id}: the book stands at {rows[0].event_id}, not at {latest.id}")
            for document in sorted({name for event in known for name in event.documents}):
                found = self._documents.get((rows[0].id, document), [])
                what = f"{source} {object_id}: document `{document}`"
                if not self._one(found, what):
                    continue
                if found[0].state != "ready" or found[0].problem:
                    self._lost(f"{what} is {found[0].state}: {found[0].problem}")
                for event in known:
                    if document in event.documents:
                        self._done((source, event.id), found[0].finished_at)

    def _nothing_else(self, events: Mapping[Identity, Event]) -> None:
        """What is there and follows from nothing that was accepted was made twice or made up."""
        evidence = self._evidence
        inbox = {row.id for row in evidence.inbox}
        messages = {row.id for row in evidence.messages}
        objects = {(event.kind, (event.source, event.object_id)) for event in events.values()}
        invoices = {row.id: row.object for row in evidence.book if row.kind == "invoice"}
        documents = {((event.source, event.object_id), name) for event in events.values() for name in event.documents}
        strange = [
            *(f"{row.event}: in the inbox" for row in evidence.inbox if row.event not in events),
            *(f"{row.id}: message of no event" for row in evidence.messages if row.inbox_id not in inbox),
            *(f"{row.id}: delivery of no message" for row in evidence.deliveries if row.message_id not in messages),
            *(f"{row.object}: in the book" for row in evidence.book if (row.kind, row.object) not in objects),
            *(
                f"{row.id}: document {row.kind} of {row.invoice_id}"
                for row in evidence.documents
                if (invoices.get(row.invoice_id), row.kind) not in documents
            ),
            *(f"{a.webhook_id}: webhook of no message" for a in evidence.arrivals if a.webhook_id not in messages),
        ]
        self._result.doubled += [f"{what}, and nothing accepted asks for it" for what in strange]
        if evidence.conflicts:
            self._doubled(f"{evidence.conflicts} bodies kept as conflicts, and every id had one body")

    def _wire(self) -> None:
        """What the merchant sees, without looking into the database."""
        told = defaultdict(set)
        for (webhook_id, endpoint), arrivals in self._arrivals.items():
            accepted = sum(arrival.taken for arrival in arrivals)
            self._result.repeated += max(0, accepted - 1)
            if len({arrival.body for arrival in arrivals}) > 1:
                self._doubled(f"{webhook_id}: arrived with different bodies at {endpoint}")
            if not all(arrival.verified for arrival in arrivals):
                self._lost(f"{webhook_id}: arrived with a signature that does not verify at {endpoint}")
            said = json.loads(arrivals[0].body)
            told[said["data"]["source"], said["data"]["metadata"]["event"]].add(webhook_id)
        for (_, event_id), ids in told.items():
            if len(ids) > 1:
                self._doubled(f"{event_id}: told under {len(ids)} webhook-ids")

    def _one(self, rows: Sequence[object], what: str) -> bool:
        if not rows:
            self._lost(f"{what} is missing")
        elif len(rows) > 1:
            self._doubled(f"{what} is there {len(rows)} times")
        return bool(rows)

    def _done(self, identity: Identity, at: float) -> None:
        self._result.done_at[identity] = max(at, self._result.done_at.get(identity, 0.0))

    def _lost(self, sentence: str) -> None:
        self._result.lost.append(sentence)

    def _doubled(self, sentence: str) -> None:
        self._result.doubled.append(sentence)


R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


def _by(rows: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    found: dict[K, list[R]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found
