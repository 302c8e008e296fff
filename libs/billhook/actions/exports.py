"""Exporting invoices and credit notes: what the desk and the commands do alike."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Final

from billhook.errors import Refused
from billhook.rules.days import zone_of
from billhook.rules.export import PLAIN, Format, Kind, Mode, Style, csv_header, csv_row, json_line
from billhook.runtime.env import Env
from billhook.store.exports import exported_ids, exported_rows
from billhook.store.merchants import get_merchant

PAGE: Final = 500
"""Invoices in memory at once: a megabyte or so."""


def period(env: Env, merchant_id: str | None, since: str | None, until: str | None) -> tuple[datetime | None, ...]:
    """Both ends as times. A day begins in the merchant's zone, as the years of its numbers do; of all merchants' in
    UTC. Raises `Refused`."""
    zone = _zone(env, merchant_id)
    return tuple(_instant(name, text, zone) for name, text in (("from", since), ("to", until)))


def _zone(env: Env, merchant_id: str | None) -> str:
    if merchant_id is None:
        return "UTC"
    with env.database.read() as tx:
        merchant = get_merchant(tx, merchant_id)
    return "UTC" if merchant is None else merchant.invoicing.zone


def _instant(name: str, text: str | None, zone: str) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-01"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=zone_of(zone)).astimezone(UTC)
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Refused("period_invalid", f"`{name}` must be a day, 2026-01-31, or a time with its offset from UTC.")


def export(
    env: Env,
    kind: Kind,
    merchant_id: str | None,
    form: Format,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    status: str | None = None,
    mode: Mode = "live",
    style: Style = PLAIN,
) -> Iterator[bytes]:
    """The file, a page at a time. Which are in it is settled when it begins; each page is a transaction of its own, so
    that a slow reader holds nothing up."""
    zone = _zone(env, merchant_id)
    with env.database.read() as tx:
        ids = exported_ids(tx, kind, merchant_id, since=since, until=until, status=status, livemode=mode == "live")
    if form == "csv":
        yield csv_header(kind, style)
    for place in range(0, len(ids), PAGE):
        with env.database.read() as tx:
            page = exported_rows(tx, kind, merchant_id, ids[place : place + PAGE])
        yield b"".join(csv_row(kind, row, zone, style) if form == "csv" else json_line(kind, row) for row in page)
