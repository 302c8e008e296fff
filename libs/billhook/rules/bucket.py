"""A token bucket that is one instant: the time up to which tokens have been given out.

Tokens come at `rate` a second. Whoever holds the instant need store nothing else, and two processes that lock its row
share one bucket.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor
from typing import Final

BURST_SECONDS: Final = 1.0
"""A bucket holds a second's worth of tokens, and at least one."""


def take(spent: datetime | None, rate: float, wanted: int, now: datetime) -> tuple[int, datetime]:
    """How many of `wanted` tokens there are, and the instant after taking them."""
    granted, until = take_now(None if spent is None else (spent - now).total_seconds(), rate, wanted)
    return granted, now + timedelta(seconds=until)


def take_now(spent: float | None, rate: float, wanted: int) -> tuple[int, float]:
    """Likewise, with instants as seconds from now, which those that are past are less than."""
    start = -max(BURST_SECONDS, 1 / rate)
    # Never later than now, unless a clock was ahead when they were given and has been set back.
    spent = start if spent is None else min(max(spent, start), 0.0)
    # A microsecond is the resolution of an instant: without it the last token of a full bucket would be missing.
    granted = max(0, min(wanted, floor((1e-6 - spent) * rate)))
    return granted, spent + granted / rate


def next_at(spent: datetime, rate: float, ahead: int) -> datetime:
    """When the bucket will have given `ahead` more tokens after `spent`."""
    return spent + timedelta(seconds=ahead / rate)
