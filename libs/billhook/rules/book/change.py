"""What an event means for the book: changes of objects, each with its place in the order of their versions, and facts
for merchants to hear of."""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec
from msgspec.structs import replace

from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import DELETED, BookObject, Ref, Time
from billhook.rules.book.subscription import Subscription

FIRST = -1
"""The rank of a state in which an object was made: below every other of the same second."""


ASKED = 1000
"""The lowest rank of an answer of the provider's: above every state that an event of the same second told of."""


def complete(value: BookObject) -> bool:
    """Whether an event carried the whole object, and not only its first lines or items."""
    return all(getattr(value, f"{name}_complete", True) for name in ("lines", "items"))


def completed(partial: BookObject, answer: BookObject) -> BookObject:
    """The object of an event, with the lines or items that the event left out taken from the provider's answer."""
    if isinstance(partial, Invoice) and isinstance(answer, Invoice) and not partial.lines_complete:
        period = {"period_start": answer.period_start, "period_end": answer.period_end}
        return replace(partial, lines=answer.lines, lines_complete=answer.lines_complete, **period)
    if isinstance(partial, Subscription) and isinstance(answer, Subscription) and not partial.items_complete:
        return replace(partial, items=answer.items, items_complete=answer.items_complete)
    return partial


class Change(msgspec.Struct, frozen=True):
    """One object as it stood at `at`, on its way into the book."""

    object: BookObject
    at: Time
    asked_at: Time | None = None
    """When the provider was asked for the object. An answer settles a tie of two events of the same second, and of two
    answers the later one counts: an object may change again in the second in which it was first asked for."""
    before: str | None = None
    """The digest of the state that it took the place of, where the event says what it changed."""
    first: bool = False
    """The event tells that the object was made, so whatever else the same second had came later."""

    @property
    def digest(self) -> str:
        return digest_of(self.object)

    @property
    def version(self) -> Version:
        if self.asked_at is None or self.object.deleted:
            rank = FIRST if self.first and not self.object.deleted else self.object.rank
            return (self.at, rank, self.digest)
        later = int((self.asked_at - self.at).total_seconds() * 100)  # steps of 10 ms: they fit for eight months
        return (self.at, min(ASKED + max(later, 0), DELETED - 1), self.digest)


def digest_of(value: BookObject) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:32]


Version = tuple[datetime, int, str]
"""When, how far along, and (only to make the order total) a digest of the content."""


class Fact(msgspec.Struct, frozen=True):
    """Something that happened, for merchants to hear of, under its public name (`billhook.events`)."""

    type: str
    object: BookObject
    at: Time


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """An object that an event only names: its provider has to be asked for it."""

    kind: str
    external_id: Ref
    at: Time
    fact: str | None = None
    """What to tell of it."""
    lone: bool = False
    """Told only where no payment stands behind it."""


class Translation(msgspec.Struct, frozen=True):
    """What one provider event means. With nothing in it, the event is kept and marked `ignored`."""

    changes: tuple[Change, ...] = ()
    facts: tuple[Fact, ...] = ()
    related: Related | None = None
    livemode: bool | None = None
    """Whether real money moved; None where the provider does not say."""


def tied(known: Version, change: Change) -> bool:
    """Two different states of one object with one timestamp: only the provider can say which is the later.

    A deletion never ties with anything: nothing comes after it, and the provider may not know the object any more.
    """
    at, rank, digest = known
    final = rank == DELETED or change.object.deleted
    return change.at == at and change.digest != digest and change.asked_at is None and not final
