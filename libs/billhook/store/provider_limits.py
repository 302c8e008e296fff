"""How many calls a provider's account takes: one bucket an account, shared by all processes.

`spent` is up to when turns were given to calls that are made at once or within seconds, by whomever. Work that is far
more than the account takes (a thousand attempts due at midnight) books turns a minute ahead, up to `booked`, and takes
its real one when it comes: so whoever has one question to ask waits for a moment, and not behind all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Final, NamedTuple

import sqlalchemy as sa

from billhook.rules.bucket import reserve
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, metadata

provider_limits = sa.Table(
    "provider_limits",
    metadata,
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("spent", Instant),  # see `billhook.rules.bucket`
    sa.Column("booked", Instant),  # the same, of turns that are only meant to be taken
    sa.Column("paused_until", Instant),  # the provider asked for a pause (429)
    sa.PrimaryKeyConstraint("source_id", "account"),
)


GIVEN_AHEAD: Final = timedelta(minutes=1)
"""Turns are given for so long: whoever has none by then asks again. What is further away was given by a clock that has
been set back since."""

CATCHING_UP: Final = 1.2
"""How much faster than the account likes turns come that are late."""

LONGEST_PAUSE: Final = timedelta(days=1)
"""As for turns: no provider asks for more."""


def reserve_calls(
    tx: Tx,
    source_id: str,
    account: str,
    count: int,
    rate: float,
    now: datetime,
    *,
    within: timedelta = GIVEN_AHEAD,
) -> list[datetime]:
    """When the first of `count` calls have their turns: those that come within this time, and none before the account
    may be called again."""
    known = _locked(tx, source_id, account)
    turns, spent = _turns(known, known.spent, count, rate, now, within)
    if turns:
        _change(tx, source_id, account, spent=spent)
    return turns


def take_booked(
    tx: Tx, source_id: str, account: str, slots: Sequence[datetime], rate: float, now: datetime, until: datetime
) -> list[datetime]:
    """The real turns of those whose booked ones (in order) come now: the booked ones, unless others have called
    meanwhile. Of turns after `until` none is taken. Who comes late makes up for it little by little, never at once."""
    known = _locked(tx, source_id, account)
    turns: list[datetime] = []
    spent = None if known.spent is not None and known.spent > until + GIVEN_AHEAD else known.spent
    for slot in slots:
        turn = max(slot, now) if spent is None else max(slot, now, spent)
        if turn > until:
            break
        turns.append(turn)
        spent = turn + timedelta(seconds=1 / (rate * CATCHING_UP))
    if turns:
        _change(tx, source_id, account, spent=spent)
    return turns


def book_calls(tx: Tx, source_id: str, account: str, count: int, rate: float, now: datetime) -> list[datetime]:
    """When to come for the turns of `count` calls: the first of them, within a minute."""
    known = _locked(tx, source_id, account)
    after = max((one for one in (known.spent, known.booked) if one is not None), default=None)
    turns, booked = _turns(known, after, count, rate, now, GIVEN_AHEAD)
    if turns:
        _change(tx, source_id, account, booked=booked)
    return turns


def _turns(
    known: _Bucket, after: datetime | None, count: int, rate: float, now: datetime, within: timedelta
) -> tuple[list[datetime], datetime | None]:
    last = now + within
    if after is not None and after > now + GIVEN_AHEAD + timedelta(seconds=1 + 1 / rate):
        after = None  # given by a clock that was ahead
    pause = known.paused_until
    start = now if pause is None or pause > now + LONGEST_PAUSE else max(now, pause)
    free_at = start if after is None else max(start, after)
    count = min(count, max(0, 1 + floor((last - free_at).total_seconds() * rate)))
    return reserve(after, rate, count, start) if count else ([], after)


def paused_until(tx: Tx, source_id: str, account: str, now: datetime) -> datetime | None:
    """Until when the provider has asked for a pause, if that is not over."""
    c = provider_limits.c
    query = sa.select(c.paused_until).where(c.source_id == source_id, c.account == account)
    until: datetime | None = tx.execute(query).scalar()
    return until if until is not None and now < until <= now + LONGEST_PAUSE else None


def is_paused(tx: Tx, source_id: str, account: str, now: datetime) -> bool:
    """Whether the provider has asked for a pause that is not over."""
    return paused_until(tx, source_id, account, now) is not None


def pause_calls(tx: Tx, source_id: str, account: str, until: datetime) -> None:
    """Make no call for this account until then."""
    known = _locked(tx, source_id, account).paused_until
    if known is None or known < until or until < known - LONGEST_PAUSE:
        _change(tx, source_id, account, paused_until=until)


class _Bucket(NamedTuple):
    spent: datetime | None
    booked: datetime | None
    paused_until: datetime | None


def _locked(tx: Tx, source_id: str, account: str) -> _Bucket:
    tx.execute(insert_into(tx, provider_limits).values(source_id=source_id, account=account).on_conflict_do_nothing())
    c = provider_limits.c
    query = sa.select(c.spent, c.booked, c.paused_until).where(c.source_id == source_id, c.account == account)
    return _Bucket(*tx.execute(query.with_for_update()).one())


def _change(tx: Tx, source_id: str, account: str, **values: datetime | None) -> None:
    c = provider_limits.c
    tx.execute(sa.update(provider_limits).where(c.source_id == source_id, c.account == account).values(**values))
