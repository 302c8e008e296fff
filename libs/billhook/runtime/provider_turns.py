"""Turns at the providers' accounts: one bucket of calls an account, in SQL, that all processes share, and a pause that
the provider asks for (429) is kept by all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from billhook.errors import NotYet
from billhook.runtime.clock import Clock
from billhook.store.database import Database
from billhook.store.provider_limits import pause_calls, paused_until, reserve_calls

USUAL_PAUSE_SECONDS: Final = 1.0
"""Of a provider that limits us and does not say for how long."""


class Turns:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        calls_per_second: float,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rate = calls_per_second
        self._sleep = sleep
        self._here = threading.local()

    def take(self, source_id: str, account: str, longest_wait: timedelta) -> None:
        """Wait for a turn. Whose turn comes later than that takes none, and hears `NotYet`: it comes again."""
        left: int = getattr(self._here, "given", 0)
        if left:
            self._here.given = left - 1
            return
        now = self._clock()
        with self._database.begin(durable=False) as tx:
            turns = reserve_calls(tx, source_id, account, 1, self._rate, now, within=longest_wait)
            pause = None if turns else paused_until(tx, source_id, account, now)
        if not turns:
            wait = longest_wait if pause is None else pause - now
            raise NotYet("the provider's account takes no calls now", after_seconds=wait.total_seconds())
        if turns[0] > now:
            self._sleep((turns[0] - now).total_seconds())

    def pause(self, source_id: str, account: str, seconds: float | None) -> None:
        """Make no call before then: the provider wants to be left alone."""
        until = self._clock() + timedelta(seconds=USUAL_PAUSE_SECONDS if seconds is None else seconds)
        with self._database.begin() as tx:
            pause_calls(tx, source_id, account, until)

    @contextmanager
    def given(self, calls: int) -> Iterator[None]:
        """Within the block, so many calls of this thread had their turns given before, in the claim of the work."""
        self._here.given = calls
        try:
            yield
        finally:
            self._here.given = 0
