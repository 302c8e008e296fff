"""How many calls a provider's account takes: one row an account, shared by all processes.

`permits` says from when on each permit to call is good (`billhook.rules.permits`). Work that is far more than the
account takes (a thousand attempts due at midnight) is planned a minute ahead, up to `booked`, and takes its permits
when it comes: so whoever has one question to ask waits for a moment, and not behind all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from billhook.rules.permits import Permit, Used, give_back, take
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, as_instant, metadata, to_micros

provider_limits = sa.Table(
    "provider_limits",
    metadata,
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("permits", sa.JSON),  # microseconds since 1970
    sa.Column("booked", Instant),  # up to when turns are planned
    sa.Column("paused_until", Instant),  # the provider asked for a pause (429)
    sa.PrimaryKeyConstraint("source_id", "account"),
)


GIVEN_AHEAD: Final = timedelta(minutes=1)
"""Turns are planned for so long: whoever has none by then asks again. What is further away was planned by a clock that
has been set back since."""

LONGEST_PAUSE: Final = timedelta(days=1)
"""As for turns: no provider asks for more."""


class Limit(NamedTuple):
    """The row of one account, locked."""

    source_id: str
    account: str
    permits: list[datetime]
    booked: datetime | None
    paused_until: datetime | None

    def pause_at(self, now: datetime) -> datetime | None:
        """Until when the provider has asked for a pause, if that is not over."""
        until = self.paused_until
        return until if until is not None and now < until <= now + LONGEST_PAUSE else None


def lock_limit(tx: Tx, source_id: str, account: str) -> Limit:
    tx.execute(insert_into(tx, provider_limits).values(source_id=source_id, account=account).on_conflict_do_nothing())
    c = provider_limits.c
    query = sa.select(c.permits, c.booked, c.paused_until).where(c.source_id == source_id, c.account == account)
    permits, booked, paused_until = tx.execute(query.with_for_update()).one()
    return Limit(source_id, account, [as_instant(at) for at in permits or []], booked, paused_until)


def exchange_permits(
    tx: Tx,
    limit: Limit,
    used: Sequence[Used],
    count: int,
    rate: float,
    now: datetime,
    *,
    within: timedelta,
    longest: timedelta,
    lasts: timedelta,
) -> list[Permit]:
    """Give back permits that were used, and take the first of `count` others, in no pause: those that are good within
    this time, or one that is within the `longest`. `now` is the time since the row was locked: who waited for the lock
    would come too late."""
    known = give_back(limit.permits, used, rate)
    start = limit.pause_at(now) or now
    taken, left = take(known, rate, count, start, within=now + within - start, lasts=lasts)
    if not taken:
        taken, left = take(known, rate, 1, start, within=now + longest - start, lasts=lasts)
    _change(tx, limit, permits=[to_micros(at) for at in left])
    return taken


def book_calls(tx: Tx, limit: Limit, count: int, rate: float, now: datetime) -> list[datetime]:
    """When to come for the calls of `count`: the first of them, within a minute."""
    booked = limit.booked
    if booked is not None and booked > now + GIVEN_AHEAD + timedelta(seconds=1 + 1 / rate):
        booked = None
    start = max([limit.pause_at(now) or now, *([booked] if booked is not None else [])])
    count = min(count, max(0, 1 + floor((now + GIVEN_AHEAD - start).total_seconds() * rate)))
    if count:
        _change(tx, limit, booked=start + timedelta(seconds=count / rate))
    return [start + timedelta(seconds=place / rate) for place in range(count)]


def pause_calls(tx: Tx, source_id: str, account: str, until: datetime) -> None:
    """Make no call for this account until then."""
    limit = lock_limit(tx, source_id, account)
    known = limit.paused_until
    if known is None or known < until or until < known - LONGEST_PAUSE:
        _change(tx, limit, paused_until=until)


def _change(tx: Tx, limit: Limit, **values: Any) -> None:
    c = provider_limits.c
    mine = sa.update(provider_limits).where(c.source_id == limit.source_id, c.account == limit.account)
    tx.execute(mine.values(**values))
