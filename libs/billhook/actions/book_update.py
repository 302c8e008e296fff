"""What one event of a provider, or one verb of our own, brings to the book."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from billhook.queue.handler import Rings
from billhook.rules.book.change import Change, Fact
from billhook.store.documents import NewDocument
from billhook.store.merchants import Merchant


@dataclass(frozen=True, slots=True)
class BookUpdate:
    """Objects as they are now, and what happened to them: alike for mirrored objects and for our own."""

    merchant: Merchant
    source_id: str
    """`OWN` for objects that no provider has."""
    account: str
    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    """In the order in which they happened. A provider's events come in any order, so what a fact says of its object
    may be older than what the book holds."""
    documents: tuple[NewDocument, ...] = ()
    """That the state of the objects calls for; the ones that exist already are asked for again in vain."""
    livemode: bool = True
    """Whether real money moved. Objects of our own are never a test."""
    event_id: str | None = None
    """The event of the inbox that it came with. None: a verb of our own."""
    traceparent: str | None = None
    """The trace that what follows belongs to."""


def merged(rings: Iterable[Rings]) -> Rings:
    """All of them as one."""
    ids_of: dict[str, list[str]] = defaultdict(list)
    for part in rings:
        for bell, ids in part.items():
            ids_of[bell] += ids
    return dict(ids_of)
