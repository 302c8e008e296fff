"""Consequences: the work that follows from what the book is told. This is the place where work for consumers is made.

Everything that changes the book, be it a provider's event or a verb of our own, calls `record`. It writes the book and
then walks `CONSEQUENCES`, all in the transaction of its caller: work is there exactly when what it follows from is.

A new consumer adds a line to the list (docs/add-a-consumer.md): a function that looks at the updates, adds rows of
work, and returns their ids under the name of the bell that its consumer listens to (the table's name, see
`store/queues.py`). A replayed event goes through the list again, so a function must add nothing twice: a unique key in
its table has to prevent that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from billhook.actions.book_update import BookUpdate, merged
from billhook.actions.dunning import dunning
from billhook.queue.handler import Rings
from billhook.rules.book.objects import book_id
from billhook.rules.webhook_body import about, body_of
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.deliveries import address
from billhook.store.documents import add_documents, undocumented
from billhook.store.messages import Message, add_messages
from billhook.store.schema import new_id

Consequence = Callable[[Tx, Sequence[BookUpdate], datetime], Rings]
"""Adds the work that follows from updates, which the book has taken in by then, and says what to ring for."""


def record(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
    """Write updates into the book, with all that follows from them. The caller rings after its commit."""
    entries = [
        book.Entry(update.merchant.id, update.source_id, update.account, change, update.livemode)
        for update in updates
        for change in update.changes
    ]
    book.apply(tx, entries, now)
    return merged(consequence(tx, updates, now) for consequence in CONSEQUENCES)


def deliveries(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
    """A message of each fact, and a delivery of it to each endpoint that wants it."""
    said = add_messages(tx, [message for update in updates for message in _messages(update)], now)
    return {"deliveries": address(tx, said, now)}


def _messages(update: BookUpdate) -> Iterator[Message]:
    for place, fact in enumerate(update.facts):
        message_id = new_id("msg")
        # An event's messages are unique by its id and their number, so processing it again adds none. What no event
        # caused is a verb of our own: its message has an id of its own, and a verb does nothing twice.
        inbox_id, number = (message_id, 0) if update.event_id is None else (update.event_id, place)
        yield Message(
            message_id,
            update.merchant.id,
            fact.type,
            fact.object.kind,
            book_id(update.source_id, update.account, fact.object),
            body_of(fact.type, fact.at, update.source_id, update.account, fact.object, livemode=update.livemode),
            inbox_id,
            number,
            fact.at,
            **about(fact.object),
            traceparent=update.traceparent,
        )


def documents(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
    """The documents to make, of which each is made once."""
    wanted = [replace(document, traceparent=update.traceparent) for update in updates for document in update.documents]
    return {"documents": add_documents(tx, undocumented(tx, wanted), now)}


CONSEQUENCES: Final[tuple[Consequence, ...]] = (
    deliveries,
    documents,
    dunning,
)
"""Called in this order."""
