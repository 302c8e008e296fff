"""How many calls a provider's account takes: one bucket an account, shared by all processes. A call gets its turn in
the transaction that claims its work."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from billhook.rules.bucket import reserve
from billhook.store.database import Tx
from billhook.store.schema import Instant, metadata

provider_limits = sa.Table(
    "provider_limits",
    metadata,
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("spent", Instant),  # see `billhook.rules.bucket`
    sa.Column("paused_until", Instant),  # the provider asked for a pause (429)
    sa.PrimaryKeyConstraint("source_id", "account"),
)


GIVEN_AHEAD: Final = timedelta(minutes=1)
"""Turns are given for so long: whoever has none by then asks again. What is further away was given by a clock that has
been set back since."""

LONGEST_PAUSE: Final = timedelta(days=1)
"""As for turns: no provider asks for more."""


def reserve_calls(tx: Tx, source_id: str, account: str, count: int, rate: float, now: datetime) -> list[datetime]:
    """When the first of `count` calls have their turns, none of them before the account may be called again."""
    spent, pause = _locked(tx, source_id, account)
    last = now + GIVEN_AHEAD
    if spent is not None and spent > last + timedelta(seconds=1 + 1 / rate):
        spent = None
    start = now if pause is None or pause > now + LONGEST_PAUSE else max(now, pause)
    free_at = start if spent is None else max(start, spent)
    count = min(count, max(0, 1 + floor((last - free_at).total_seconds() * rate)))
    if not count:
        return []
    turns, spent = reserve(spent, rate, count, start)
    _change(tx, source_id, account, spent=spent)
    return turns


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
    _, known = _locked(tx, source_id, account)
    if known is None or known < until or until < known - LONGEST_PAUSE:
        _change(tx, source_id, account, paused_until=until)


def _locked(tx: Tx, source_id: str, account: str) -> tuple[datetime | None, datetime | None]:
    insert = sqlite_insert if tx.dialect.name == "sqlite" else postgresql_insert
    tx.execute(insert(provider_limits).values(source_id=source_id, account=account).on_conflict_do_nothing())
    c = provider_limits.c
    query = sa.select(c.spent, c.paused_until).where(c.source_id == source_id, c.account == account)
    spent, pause = tx.execute(query.with_for_update()).one()
    return spent, pause


def _change(tx: Tx, source_id: str, account: str, **values: datetime) -> None:
    c = provider_limits.c
    tx.execute(sa.update(provider_limits).where(c.source_id == source_id, c.account == account).values(**values))
