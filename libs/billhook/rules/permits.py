"""Permits to call somebody who takes so many calls a second, and in no second more.

There are as many permits as calls a second. One call uses one, and from the moment in which it is made nobody uses that
permit again for a second (and `MARGIN`, for the way to the provider). So within any second each permit has one call at
most, however late callers are, and however many processes they are in. The price is the margin: about 1 % of the rate.

A permit is taken before the call, to be used within a while; whoever has used it says when, and gives it back. One that
is not given back (its process died) is good again as if it had been used in the last moment in which it could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Final, NamedTuple

MARGIN: Final = 0.012
"""Seconds that the way of one call to the provider may take longer than that of the next."""

FASTEST: Final = 5000.0
"""A limit above that is none: no process makes so many calls a second."""

PLANNED: Final = 0.998
"""Of the calls that permits allow, what plans count on: what is left makes up for callers that are late, so that plans
hold."""

LONGEST: Final = timedelta(minutes=1)
"""No permit is taken for longer. What is further away was said by a clock that was ahead, and has been set back."""


class Permit(NamedTuple):
    start: datetime
    """From when on it may be used."""
    until: datetime


def permits_of(limit: float) -> int:
    return max(1, floor(limit))


def period_of(limit: float) -> timedelta:
    """For how long nobody uses a permit again."""
    return timedelta(seconds=(1 / limit if limit < 1 else 1.0) + MARGIN)


def planned_per_second(limit: float) -> float:
    if limit > FASTEST:
        return limit
    return permits_of(limit) / period_of(limit).total_seconds() * PLANNED


def take(
    known: Iterable[datetime], limit: float, count: int, now: datetime, *, within: timedelta, lasts: timedelta
) -> tuple[list[Permit], list[datetime]]:
    """The first of `count` permits that are good within this time, each to be used within `lasts`, and what is known
    after that. `known` is from when on each permit is good; what it leaves out is good now. Those that are good already
    are spread over the period, so that calls do not come in bursts."""
    size, period = permits_of(limit), period_of(limit)
    # Of a limit that was lowered the permits go that are good first.
    good = sorted(at if at <= now + LONGEST + period else now for at in known)[-size:]
    good = sorted([*good, *[now] * (size - len(good))])
    taken: list[Permit] = []
    for place, at in enumerate(good[:count]):
        start = max(at, now + place * (period / size))
        if start > now + within:
            break
        taken.append(Permit(start, start + lasts))
    return taken, [*(permit.until + period for permit in taken), *good[len(taken) :]]


Used = tuple[Permit, datetime | None]
"""A permit, and when the call was made; None: there was none."""


def give_back(known: Sequence[datetime], used: Iterable[Used], limit: float) -> list[datetime]:
    """What is known after these permits were used, or were not."""
    period, left = period_of(limit), list(known)
    for permit, at in used:
        if permit.until + period in left:  # else the limit was changed, or it came back too late
            left.remove(permit.until + period)
            left.append(permit.start if at is None else at + period)
    return left
