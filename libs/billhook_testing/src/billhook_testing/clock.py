"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ManualClock:
    """A `billhook.runtime.clock.Clock` for tests."""

    def __init__(self, at: datetime = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        """Forward, e.g. `clock.move(minutes=5)`."""
        self.at += timedelta(**by)
