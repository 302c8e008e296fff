"""How many calls a provider's account takes: one bucket an account, shared by all processes. A call gets its turn in
the transaction that claims its work."""

from __future__ import annotations

from datetime import datetime

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


def reserve_calls(tx: Tx, source_id: str, account: str, count: int, rate: float, now: datetime) -> list[datetime]:
    """When each of `count` calls has its turn, none of them before the account may be called again."""
    spent, paused_until = _locked(tx, source_id, account)
    start = now if paused_until is None else max(now, paused_until)
    turns, spent = reserve(spent, rate, count, start)
    _change(tx, source_id, account, spent=spent)
    return turns


def is_paused(tx: Tx, source_id: str, account: str, now: datetime) -> bool:
    """Whether the provider has asked for a pause that is not over."""
    c = provider_limits.c
    query = sa.select(c.paused_until).where(c.source_id == source_id, c.account == account)
    until = tx.execute(query).scalar()
    return until is not None and until > now


def pause_calls(tx: Tx, source_id: str, account: str, until: datetime) -> None:
    """Make no call for this account until then."""
    _, paused_until = _locked(tx, source_id, account)
    if paused_until is None or paused_until < until:
        _change(tx, source_id, account, paused_until=until)


def _locked(tx: Tx, source_id: str, account: str) -> tuple[datetime | None, datetime | None]:
    insert = sqlite_insert if tx.dialect.name == "sqlite" else postgresql_insert
    tx.execute(insert(provider_limits).values(source_id=source_id, account=account).on_conflict_do_nothing())
    c = provider_limits.c
    query = sa.select(c.spent, c.paused_until).where(c.source_id == source_id, c.account == account)
    spent, paused_until = tx.execute(query.with_for_update()).one()
    return spent, paused_until


def _change(tx: Tx, source_id: str, account: str, **values: datetime) -> None:
    c = provider_limits.c
    tx.execute(sa.update(provider_limits).where(c.source_id == source_id, c.account == account).values(**values))
