"""Turns at the providers' accounts: each call waits for its own, right before it is made. All processes share the
permits to call (`billhook.store.provider_limits`), and a pause that the provider asks for (429) is kept by all of them.

Those who wait for the same account in this process stand in one line. Whoever is at its head fetches permits for all,
giving back those that were used since, and goes when the first is good.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from billhook.errors import NotYet
from billhook.rules.permits import FASTEST, Permit, Used
from billhook.runtime.clock import Clock
from billhook.store.database import Database
from billhook.store.provider_limits import exchange_permits, lock_limit, pause_calls

USUAL_PAUSE_SECONDS: Final = 1.0
"""Of a provider that limits us and does not say for how long."""

HELD: Final = 0.5
"""Seconds for which permits are fetched ahead: when half of them is over, for as long again."""

LASTS: Final = 0.1
"""Seconds within which a permit is used. Where all were too late, twice as long, and so on: the slowest machine gets
its turn."""

MOST_LINES: Final = 1000
"""Accounts whose unused permits are kept."""

_Place = tuple[int, int]
"""In a line: the rank, and the number of the one who waits."""


@dataclass
class _Held:
    """A permit, by this process's own clock."""

    start: float
    until: float
    permit: Permit


@dataclass
class _Line:
    """One account's: who waits, and the permits that were fetched for them."""

    source_id: str
    account: str
    waiting: list[_Place] = field(default_factory=list)
    conditions: dict[_Place, threading.Condition] = field(default_factory=dict)
    held: deque[_Held] = field(default_factory=deque)
    used: list[Used] = field(default_factory=list)
    fetching: bool = False
    lasts: float = LASTS
    looked_at: float = float("-inf")
    """When it was seen that there is no pause, where that is all that is asked."""

    def unused(self, held: Iterable[_Held]) -> None:
        """Have these given back as they are."""
        self.used += [(one.permit, None) for one in held]

    def wake_head(self) -> None:
        if self.waiting:
            self.conditions[self.waiting[0]].notify()


class Turns:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        calls_per_second: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limit = calls_per_second
        self._monotonic = monotonic
        self._wait = wait
        self._lines: dict[tuple[str, str], _Line] = {}
        self._lock = threading.Lock()
        self._numbers = count()
        self._here = threading.local()

    def take(self, source_id: str, account: str, longest_wait: timedelta) -> None:
        """Wait for a turn. Whose turn comes later than that takes none, and hears `NotYet`: it comes again."""
        patience = longest_wait.total_seconds()
        until = self._monotonic() + patience
        with self._lock:
            line = self._line(source_id, account)
            if len(line.waiting) > patience * self._limit:
                raise _not_yet(patience)
            place = (getattr(self._here, "rank", 1), next(self._numbers))
            line.conditions[place] = threading.Condition(self._lock)
            insort(line.waiting, place)
            try:
                held = self._stand(line, place, until)
            finally:
                line.waiting.remove(place)
                del line.conditions[place]
                line.wake_head()
            if held is not None:
                # As late as can be: the call is made now.
                made = held.permit.start + timedelta(seconds=self._monotonic() - held.start)
                line.used.append((held.permit, made))

    def pause(self, source_id: str, account: str, seconds: float | None) -> None:
        """Make no call before then: the provider wants to be left alone."""
        with self._lock:
            line = self._line(source_id, account)
            line.unused(line.held)
            line.held.clear()
            line.looked_at = float("-inf")
        until = self._clock() + timedelta(seconds=USUAL_PAUSE_SECONDS if seconds is None else seconds)
        with self._database.begin() as tx:
            pause_calls(tx, source_id, account, until)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Within the block, the calls of this thread go before those of others here: what was seen a moment ago is to
        be acted upon."""
        self._here.rank = 0
        try:
            yield
        finally:
            self._here.rank = 1

    def _line(self, source_id: str, account: str) -> _Line:
        if len(self._lines) > MOST_LINES:
            self._lines = {key: line for key, line in self._lines.items() if line.waiting}
        return self._lines.setdefault((source_id, account), _Line(source_id, account))

    def _stand(self, line: _Line, place: _Place, until: float) -> _Held | None:
        """Wait until the call may be made; returns the permit for it, where there is a limit."""
        while True:
            now = self._monotonic()
            _drop_late(line, now)
            head = line.waiting[0] == place and not line.fetching
            if head and _is_good(line, now):
                return self._taken(line)
            if now > until:
                raise _not_yet(1 / self._limit)
            if head and len(line.held) < len(line.waiting) and (not line.held or line.held[-1].start < now + HELD / 2):
                self._fetch(line, until - now)
                now = self._monotonic()
                if _is_good(line, now):
                    return self._taken(line)
            at = line.held[0].start if head and line.held else until
            if at > now:
                self._wait(line.conditions[place], at - now)

    def _taken(self, line: _Line) -> _Held | None:
        line.lasts = LASTS
        return line.held.popleft() if self._limit <= FASTEST else None

    def _both_clocks(self) -> tuple[float, datetime]:
        """One moment by this process's own clock and by the one of all. A machine that was busy between the two is
        asked again: permits would be used too early by as much."""
        for _ in range(10):
            before, now = self._monotonic(), self._clock()
            if self._monotonic() - before < 0.001:
                break
        return before, now

    def _fetch(self, line: _Line, patience: float) -> None:
        """Take permits for all in the line, without keeping others from joining it."""
        wanted, used = len(line.waiting) - len(line.held), line.used
        longest = timedelta(seconds=min(HELD, patience) if line.held else patience)
        line.used = []
        line.fetching = True
        fetched: list[_Held] = []
        self._lock.release()
        try:
            with self._database.begin(durable=False) as tx:
                limit = lock_limit(tx, line.source_id, line.account)
                began, now = self._both_clocks()
                pause = limit.pause_at(now)
                if self._limit <= FASTEST:
                    permits = exchange_permits(
                        tx,
                        limit,
                        used,
                        wanted,
                        self._limit,
                        now,
                        within=timedelta(seconds=min(HELD, patience)),
                        longest=longest,
                        lasts=timedelta(seconds=line.lasts),
                    )
                    at = [(began + (one.start - now).total_seconds(), one) for one in permits]
                    fetched = [_Held(start, start + line.lasts, permit) for start, permit in at]
        finally:
            self._lock.acquire()
            line.fetching = False
            line.held.extend(fetched)
            line.wake_head()
        if self._limit > FASTEST and pause is None:
            line.looked_at = began
        elif not line.held:
            raise _not_yet(patience if pause is None else (pause - now).total_seconds())


def _is_good(line: _Line, now: float) -> bool:
    """Whether the next call may be made now."""
    if line.held:
        return line.held[0].start <= now <= line.held[0].until
    return now < line.looked_at + HELD


def _drop_late(line: _Line, now: float) -> None:
    late = [held for held in line.held if held.until < now]
    if late:
        line.held = deque(held for held in line.held if held.until >= now)
        line.unused(late)
        if not line.held:
            line.lasts = 2 * line.lasts


def _not_yet(seconds: float) -> NotYet:
    return NotYet("the provider's account takes no calls now", after_seconds=seconds)
