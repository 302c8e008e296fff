"""When an endpoint that keeps failing is given up: by time and spread, never by a count of failures.

A blip of an hour may fail a thousand deliveries of a busy endpoint and none of a quiet one, so counting them tells
nothing. What counts is that nothing has arrived for days, and that it was tried over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

DISABLED_AFTER: Final = timedelta(days=5)
HALF_TIME: Final = DISABLED_AFTER / 2
SPREAD: Final = timedelta(hours=12)
"""Two failures at least so far apart, and no success between them, are the first sign."""

SILENCE: Final = HALF_TIME
"""After so long without any attempt the past says nothing. No wait of the schedule is as long, and it makes sure that
whoever is disabled has failed, and was told, within the second half of the time too."""

RESOLUTION: Final = timedelta(hours=1)
"""How exactly the last failure is remembered: one write an hour, not one a failure."""


class Notice(IntEnum):
    """What a merchant is told about its endpoint, in this order."""

    FIRST_SIGN = 1
    HALF_TIME = 2
    DISABLED = 3


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    failing_since: datetime | None = None
    last_failure_at: datetime | None = None
    notices: int = 0
    """The last notice given while failing: see `Notice`."""


def health_after_failure(health: EndpointHealth, now: datetime) -> tuple[EndpointHealth, Notice | None]:
    """The health after a failed attempt, and what is to be told now; the same `health` if nothing need be written."""
    since, last = health.failing_since, health.last_failure_at
    if since is None or last is None or now - last > SILENCE:
        return EndpointHealth(now, now), None
    due = _due(now - since)
    if due > health.notices:
        return EndpointHealth(since, now, due), Notice(due)
    return (replace(health, last_failure_at=now) if now - last >= RESOLUTION else health), None


def _due(failing: timedelta) -> int:
    steps = ((DISABLED_AFTER, Notice.DISABLED), (HALF_TIME, Notice.HALF_TIME), (SPREAD, Notice.FIRST_SIGN))
    return next((int(notice) for after, notice in steps if failing >= after), 0)
