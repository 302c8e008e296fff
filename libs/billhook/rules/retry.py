"""When failed work is tried again, and when it is given up. Delivery to merchants has its own schedule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from billhook.errors import NotYet, TryAgain, Unprocessable

SCHEDULE_SECONDS = (1, 5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)
"""Waits after the 1st, 2nd, … failure. The first ones outlive a restart; the sum is 16 hours, so that an outage that
begins in the evening is over before work is given up in the morning."""

MAX_ATTEMPTS = len(SCHEDULE_SECONDS) + 1


@dataclass(frozen=True, slots=True)
class Done:
    """The work is finished; its row ends in `state`."""

    state: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again at `at`."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Defer:
    """Fall due later. Not tried at all, and not counted as an attempt: what it needs was not there."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """A person has to look: a dead letter."""

    reason: str


GAVE_UP: Final = "gave up after"
NEVER_SETTLED: Final = "times and never settled"
NOT_WRITTEN: Final = "it was done, and what came of it cannot be written"

REFUSED: Final = "refused"
REASON_CLASSES: Final = {
    "attempts_used_up": f"{GAVE_UP} %",
    "kills_its_worker": f"claimed % {NEVER_SETTLED}%",
    "cannot_be_written": f"{NOT_WRITTEN}%",
}
"""What dead letters are counted by, and what their reasons look like (SQL's LIKE). All others are `REFUSED`: work that
can never succeed as it is."""

_NEW_LINE: Final = "\n"
_PATH: Final = re.compile(r"(?<![\w:/.])(?:/[\w.@+~-]+){2,}/?")


Outcome = Done | Retry | Defer | Dead


def after_failure(error: Exception, *, attempts: int, now: datetime, jitter: float) -> Retry | Dead | Defer:
    """What a failure of one piece of work leads to. `attempts` counts this one; `jitter` in 0…1 spreads retries that
    failed together, upwards only, by at most a fifth. What was not tried has not failed, however often."""
    reason = describe(error)
    if isinstance(error, NotYet):
        wait = max(SCHEDULE_SECONDS[0], error.after_seconds or 0.0)
        return Defer(now + timedelta(seconds=wait * (1 + 0.2 * jitter)), reason)
    if isinstance(error, Unprocessable):
        return Dead(reason)
    if attempts >= MAX_ATTEMPTS:
        return Dead(f"{GAVE_UP} {attempts} attempts: {reason}")
    wait = float(SCHEDULE_SECONDS[attempts - 1])
    if isinstance(error, TryAgain) and error.after_seconds is not None:
        wait = max(wait, error.after_seconds)
    return Retry(now + timedelta(seconds=wait * (1 + 0.2 * jitter)), reason)


def describe(error: BaseException) -> str:
    """An error as a line for people: at most 500 characters, without what a column of text cannot hold.

    Merchants read it. An unexpected error may name files of the server, so paths are left out of those."""
    if isinstance(error, (Unprocessable, TryAgain)):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {_PATH.sub('…', str(error).partition(_NEW_LINE)[0])}"
    return said.replace("\0", "\\0")[:500].encode(errors="replace").decode()  # half a surrogate pair, from hostile JSON
