"""Which of several states of one second is the last, where the provider cannot be asked.

An event that changed something may say what it changed it from (Stripe's `previous_attributes`). So each state has its
own digest and perhaps that of the state before it, and a second's states form a chain: its end is the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from billhook.rules.book.change import FIRST


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A state of an object in one second, as an event told of it."""

    digest: str
    rank: int
    before: str | None = None
    """The digest of the state that it took the place of."""
    object: dict[str, Any] | None = None
    """Its fields; None for the state that the book shows, which has them in its columns."""

    @property
    def key(self) -> tuple[str, str | None, int]:
        return (self.digest, self.before, self.rank)


def together(states: Iterable[Seen]) -> list[Seen]:
    """Each state once, sorted. Of a state that is there twice, the one with its fields counts."""
    found: dict[tuple[str, str | None, int], Seen] = {}
    for state in states:
        if state.key not in found or found[state.key].object is None:
            found[state.key] = state
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] or "", key[2]))]


def last(states: Iterable[Seen]) -> Seen:
    """The state that no other replaced. Where the chain has gaps, or events do not say what was before, it is the state
    furthest along the object's life (`rank`). Where that is equal too the digest decides: it means nothing, but makes
    every order of events end the same."""
    known = list(states)
    links = {(state.before, state.digest) for state in known if state.before not in (None, state.digest)}
    left = {before for before, _ in links}
    # An object may return to a state: that is the end if it was reached more often than left. The creation of an object
    # counts as reaching its first state.
    reached = [digest for _, digest in links] + list({state.digest for state in known if state.rank == FIRST})
    times_left = [before for before, _ in links]
    ends = [
        state
        for state in known
        if state.digest not in left or max(1, reached.count(state.digest)) > times_left.count(state.digest)
    ]
    return max(ends or known, key=lambda state: (state.rank, state.digest))
