"""A database that is known to be silent, so that not everybody has to find that out.

Whoever asks a silent database stands in lines: for a thread, for a connection or a turn to write, for an answer. Each
of these waits ends, but one comes after the other: of eighty requests at once the last was told three times as late as
the first. So as soon as one has waited in vain, those behind it are told the same. From then on one tries every now and
then, all others are told at once, and the first answer is the end of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from billhook.errors import StoreAway

_OF_AN_ANSWER: Final = 8
"""Somebody tries eight times in the time that an answer may take: nobody waits for long once it is back, and of what
stood in line when it fell silent all is told before."""


class Silence:
    """Used by all threads that ask one database."""

    def __init__(self, answer_seconds: float | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`answer_seconds`: how long an answer may take; None, and it is never taken for silent."""
        self._answer_seconds = answer_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: float | None = None
        self._answered_at = float("-inf")
        self._next_try = 0.0
        self._asking = threading.local()

    def ask(self) -> None:
        """Before anything is asked. Raises `StoreAway` where it is silent and somebody else tries."""
        self._asking.since = now = self._monotonic()
        if self._since is None or self._answer_seconds is None:
            return
        with self._lock:
            if self._since is None:
                return
            if now < self._next_try:
                raise self._told()
            self._next_try = now + self._answer_seconds / _OF_AN_ANSWER

    def still(self) -> None:
        """After each wait of whoever asks. Raises `StoreAway` where it was found silent meanwhile."""
        since = self._since
        if since is not None and getattr(self._asking, "since", since) < since:
            raise self._told()

    def waited(self) -> None:
        """Whoever asks was not answered. That says nothing of the next one where it took no time, or where others were
        answered meanwhile. Say it before anybody else has the place of whoever waited."""
        with self._lock:
            now = self._monotonic()
            began = getattr(self._asking, "since", now)
            if self._answer_seconds is None or now - began < self._answer_seconds / 2 or self._answered_at > began:
                return
            if self._since is None:
                self._since, self._next_try = now, now + self._answer_seconds / _OF_AN_ANSWER

    def answered(self) -> None:
        """Somebody was."""
        self._answered_at = self._monotonic()
        self._since = None

    def _told(self) -> StoreAway:
        return StoreAway("the database did not answer a moment ago, and has not since")
