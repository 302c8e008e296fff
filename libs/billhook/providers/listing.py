"""Going through a provider's lists page by page, newest first, and never without an end.

A cursor is text, so that it can be stored in a row and the walk goes on after a crash. It holds where the page ended,
so a list that repeats itself is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Generic, TypeVar

import msgspec

from billhook.decoding import decode
from billhook.errors import Unprocessable
from billhook.rules.book.objects import BookObject

T = TypeVar("T")

MOST_PAGES: Final = 100_000
"""Ten million objects: a list that is longer than this has no end."""


class PlaceLost(Unprocessable):
    """The object after which the page was to begin is not there any more: somebody deleted it meanwhile."""


class ListedEvent(msgspec.Struct, frozen=True):
    """One event of the provider's own log, with the body that its webhook would have."""

    external_id: str
    type: str
    happened_at: datetime
    body: bytes
    account: str = ""


class ListedObject(msgspec.Struct, frozen=True):
    """An object as the provider shows it now."""

    value: BookObject
    changed_at: datetime | None = None
    """When the provider says that it last changed. None: it does not say."""


class Unread(msgspec.Struct, frozen=True):
    """Something of a list that billhook cannot read: of an API version it does not know, or broken."""

    external_id: str
    reason: str


class Page(msgspec.Struct, Generic[T], frozen=True):
    items: tuple[T, ...]
    unread: tuple[Unread, ...] = ()
    cursor: str | None = None
    """Where the next page begins. None: this was the last."""


class _Cursor(msgspec.Struct, array_like=True):
    after: str
    place: str
    pages: int


def after(cursor: str | None, what: str) -> str | None:
    """The id after which the page begins that a cursor asks for."""
    return None if cursor is None else _read(cursor, what).after


def next_cursor(cursor: str | None, shown: Sequence[tuple[str, str]], *, more: bool, what: str) -> str | None:
    """The cursor of the page after this one. `shown` has the id and the place (text that only falls) of each object.

    Raises `Unprocessable` for a list that repeats itself and would never end.
    """
    if not more:
        return None
    before = None if cursor is None else _read(cursor, what)
    if not shown:
        raise Unprocessable(f"{what}: the list says that more follows, and shows nothing")
    places = [place for _, place in shown]
    if before is not None:
        places.insert(0, before.place)
    turned_back = any(later > earlier for earlier, later in pairwise(places))
    if turned_back or (before is not None and before.after in [external_id for external_id, _ in shown]):
        raise Unprocessable(f"{what}: the list goes in circles: it shows again what it had shown")
    pages = 1 if before is None else before.pages + 1
    if pages >= MOST_PAGES:
        raise Unprocessable(f"{what}: the list did not end after {pages} pages")
    last_id, last_place = shown[-1]
    return msgspec.json.encode(_Cursor(last_id, last_place, pages)).decode()


def _read(cursor: str, what: str) -> _Cursor:
    try:
        return decode(cursor, _Cursor)
    except msgspec.DecodeError:
        raise Unprocessable(f"{what}: {cursor!r} is no cursor of ours") from None
