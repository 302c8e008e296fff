"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

AWKWARD: Final = datetime(2026, 3, 2, 23, 58, 41, 734_561, tzinfo=timezone(timedelta(hours=-5)))
"""A moment as real ones are: in parts of a second, and close to a midnight, so that it is one day here and another in
UTC. Code that is right only at whole seconds or only in UTC shows itself."""


class ManualClock:
    """A `billhook.runtime.clock.Clock` for tests."""

    def __init__(self, at: datetime = AWKWARD) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        """Forward, e.g. `clock.move(minutes=5)`."""
        self.at += timedelta(**by)
