"""What the book holds: one frozen value for each kind of billing object, in the field's own words.

Amounts are integers in the currency's minor unit, currencies are lower-case ISO 4217 codes, times are aware and UTC.
Other objects are named by the provider's id (`customer`, `subscription`, `invoice`…), so no object has to wait for
another one to arrive first.

`rank` orders two states of one object that carry the same timestamp (Stripe stamps to the second, and one API call
makes several events within it): the state further along its life is the later one.
"""

from __future__ import annotations

import functools
import hashlib
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

Ref = Annotated[str, Meta(min_length=1, max_length=255)]
"""A provider's id of an object."""

Amount = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Minor units, within what a 64-bit column holds."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

Time = Annotated[datetime, Meta(tz=True)]
"""An aware time; what has no offset is refused when it is decoded."""


DELETED = 2**31 - 1
"""The rank of a deleted object: above every state it had, and above every answer from before it was deleted."""


# A status is text, not an enumeration: providers add new ones, and an object must not be lost for a status that
# billhook does not know. The examples list the known ones; an unknown one has the rank of an object under way.


class BookObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object as a provider last described it."""

    kind: ClassVar[str]
    """The object's name in tables, ids and documentation."""
    prefix: ClassVar[str]
    """The prefix of billhook's own id for it."""

    external_id: Ref
    """The provider's id of the object."""
    created: Time | None = None
    """When the provider made the object."""
    deleted: bool = False
    metadata: dict[str, str] = {}

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else 0


def book_id(source_id: str, account: str, value: BookObject) -> str:
    """billhook's id of a provider's object: derived from the provider's, so that events in any order, in any process,
    give an object the same id without asking the database."""
    return id_of(type(value), source_id, account, value.external_id)


@functools.lru_cache(maxsize=4096)  # of each object several rows and messages ask, one after the other
def id_of(kind: type[BookObject], source_id: str, account: str, external_id: str) -> str:
    """The same, of an object of which only the provider's id is known."""
    identity = "\0".join((source_id, account, kind.kind, external_id))
    return f"{kind.prefix}_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
