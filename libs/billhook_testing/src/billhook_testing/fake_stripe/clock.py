"""The fake's own time: it stands still or follows a source, and jumps forward when told to."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
"""Where a fake's time begins unless told otherwise: a day that half of the months do not have."""


class FakeClock:
    """`now()` is the source plus everything that was jumped over. Whole seconds, as Stripe's timestamps."""

    def __init__(self, source: Callable[[], datetime]) -> None:
        self._source = source
        self._shift = timedelta()

    @classmethod
    def standing(cls, at: datetime = START) -> FakeClock:
        """A clock that moves only when it is jumped: every test run sees the same times."""
        return cls(lambda: at)

    @classmethod
    def running(cls) -> FakeClock:
        """A clock that follows the system's, for a demo."""
        return cls(lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return (self._source() + self._shift).replace(microsecond=0)

    def timestamp(self) -> int:
        return int(self.now().timestamp())

    def jump_to(self, timestamp: int) -> None:
        """Be at least at `timestamp`; a clock never goes back."""
        behind = timestamp - self.timestamp()
        if behind > 0:
            self._shift += timedelta(seconds=behind)


def period_end(anchor: int, interval: str, interval_count: int, k: int) -> int:
    """The end of the k-th period (k = 1 is the first) after `anchor`.

    Months are counted from the anchor and clamped to the month's last day, so a subscription that began on the 31st
    renews on the 28th of February and again on the 31st of March.
    """
    start = datetime.fromtimestamp(anchor, UTC)
    steps = interval_count * k
    if interval in ("day", "week"):
        return anchor + int(timedelta(days=steps * (7 if interval == "week" else 1)).total_seconds())
    months = start.year * 12 + start.month - 1 + steps * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())
