"""Days: a moment is a day only in some zone, and on documents that is the merchant's."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from billhook.errors import Refused


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises `Refused` when there is none."""
    if name == "UTC":
        return UTC  # always there, even where no zones are installed
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # a path, a directory such as "Europe", an unknown name
        raise Refused(
            "zone_unknown", f"`zone`: no time zone is called {name[:64]!r}. Use an IANA name such as `Europe/Berlin`."
        ) from None


def day_of(at: datetime, zone: str) -> date:
    """The day that a moment (aware) is in a zone."""
    return at.astimezone(zone_of(zone)).date()


def days_later(at: datetime, days: int, zone: str) -> datetime:
    """So many days of a calendar later, at the same time of day there, whatever the clocks did meanwhile."""
    return (at.astimezone(zone_of(zone)) + timedelta(days=days)).astimezone(UTC)
