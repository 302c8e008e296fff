"""The circuit breaker of an endpoint: how many requests may be under way to it at once.

    closed ──TRIP failures in a row──▶ open ──its time is over──▶ half open (one probe)
      ▲                                 ▲                            │
      └──── the window doubles with each success ◀── success ────────┤
                                        └──────── failure ───────────┘

The window does both: it ramps up after an outage, and keeps what one slow endpoint can hold of a process small until it
has shown that it answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

FIRST_WINDOW: Final = 4
"""Requests to an endpoint of which nothing is known: enough for a good one to show itself within milliseconds, and so
few that fifty which hang leave room to the others."""

LARGEST_WINDOW: Final = 128

TRIP: Final = 5
"""Failures in a row that open it. A single bad answer among good ones says nothing; from the second on each halves the
window, so that the endpoints of somebody whose host hangs come back with fewer requests than hung before."""

OPEN_SECONDS: Final = 5.0
PATIENT_AFTER: Final = 12
OPEN_SECONDS_LIMIT: Final = 300.0
"""It stays open for 5 s a dozen times, so that an outage of a minute is over for us too when it is over; then for 10,
20 … 300 s. While an endpoint is down, messages wait for it without using up attempts."""

_LONGEST: Final = timedelta(seconds=OPEN_SECONDS_LIMIT)

MOST_PROBES: Final = 3
"""Under way at once, where they hang: as many as begin before the first has used up the time that a request has."""


@dataclass(frozen=True, slots=True)
class Breaker:
    window: int = FIRST_WINDOW
    failures: int = 0
    """In a row."""
    opened: int = 0
    """Times since the last success."""
    open_until: datetime | None = None

    def is_open(self, now: datetime) -> bool:
        # A time further away than that was set by a clock that has been set back since.
        return self.open_until is not None and now < self.open_until <= now + _LONGEST


WELL: Final = Breaker(LARGEST_WINDOW)
"""What an endpoint ends at that answers."""


SUSPECT: Final = Breaker(1, TRIP - 1, 1)
"""What an endpoint begins at whose last attempts failed, as its record says: with a probe. So a restart does not forget
who is down."""


def is_at_ease(breaker: Breaker) -> bool:
    """Whether it lets through at least what one does of which nothing is known."""
    return breaker.window >= FIRST_WINDOW and breaker.failures == 0 and breaker.opened == 0


def succeeded(breaker: Breaker, hanging: int = 0) -> Breaker:
    """After an answer. The window grows by one for each, which doubles it every time it was used up. Where it is the
    first after an outage, the probes that are still `hanging` take no place of it."""
    if breaker == WELL:
        return WELL
    return Breaker(min(breaker.window + 1 + (hanging if breaker.opened else 0), LARGEST_WINDOW))


def failed(breaker: Breaker, now: datetime, pause_seconds: float | None = None) -> Breaker:
    """After a failure. With `pause_seconds`, which the receiver asked for (`Retry-After`), it opens at once."""
    pause = timedelta(seconds=min(pause_seconds or 0.0, OPEN_SECONDS_LIMIT))
    if breaker.open_until is not None and breaker.is_open(now):
        # It was under way before, or is the probe that keeps it open.
        return replace(breaker, open_until=max(breaker.open_until, now + pause))
    failures = breaker.failures + 1
    if failures < TRIP and pause_seconds is None:
        window = breaker.window if failures == 1 else max(1, breaker.window // 2)
        return Breaker(window, failures, breaker.opened)
    return _opened(breaker, now, pause)


def probing(breaker: Breaker, now: datetime) -> Breaker:
    """While a probe is on its way to one that was down. Whether that comes back or hangs, the next one goes when its
    time has come."""
    return _opened(breaker, now, timedelta())


def _opened(breaker: Breaker, now: datetime, pause: timedelta) -> Breaker:
    seconds = min(OPEN_SECONDS * 2.0 ** max(0, breaker.opened - PATIENT_AFTER + 1), OPEN_SECONDS_LIMIT)
    # The exponent stays where the time does not grow any more.
    opened = min(breaker.opened + 1, PATIENT_AFTER + 10)
    return Breaker(1, TRIP, opened, now + max(timedelta(seconds=seconds), pause))
