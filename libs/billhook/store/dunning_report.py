"""The figures of dunning: what was recovered and lost, by what attempt, after which declines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.rules.dunning import OPEN
from billhook.store.database import Tx
from billhook.store.dunning_cases import dunning_cases
from billhook.store.payment_attempts import payment_attempts
from billhook.store.work import DUE


@dataclass(frozen=True)
class Money:
    """Of the cases that ended in the time, in one currency."""

    currency: str
    recovered: int
    recovered_cases: int
    lost: int
    lost_cases: int


@dataclass(frozen=True)
class Rate:
    """How often it came out well."""

    of: str
    tried: int
    recovered: int


@dataclass(frozen=True)
class Report:
    money: list[Money]
    by_attempt: list[Rate]
    """Attempts by their number within a case, and how many of them brought the money."""
    by_decline_code: list[Rate]
    """Ended cases by the last decline, and how many of them were recovered."""
    open_cases: dict[str, int]
    """Now, by stage."""
    oldest_due_attempt_seconds: float
    """How long the attempt that waits for longest has been due."""


def dunning_report(tx: Tx, *, merchant_id: str | None, since: datetime, until: datetime, now: datetime) -> Report:
    """Of one merchant, or of all (None)."""
    c, a = dunning_cases.c, payment_attempts.c
    case_of = () if merchant_id is None else (c.merchant_id == merchant_id,)
    attempt_of = () if merchant_id is None else (a.merchant_id == merchant_id,)
    ended = (*case_of, c.stage.in_(("recovered", "exhausted")), c.closed_at >= since, c.closed_at < until)

    def where(column: sa.ColumnElement[Any], condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, column), else_=0)), 0)

    one = sa.literal(1)
    recovered, lost = c.stage == "recovered", c.stage == "exhausted"
    money = sa.select(
        c.currency, where(c.amount, recovered), where(one, recovered), where(c.amount, lost), where(one, lost)
    )
    attempts = sa.select(a.number, sa.func.count(), where(one, a.status == "succeeded")).where(
        *attempt_of, a.status.in_(("succeeded", "failed")), a.created_at >= since, a.created_at < until
    )
    codes = sa.select(sa.func.coalesce(c.decline_code, "none"), sa.func.count(), where(one, recovered))
    stages = sa.select(c.stage, sa.func.count()).where(*case_of, c.stage.in_(OPEN)).group_by(c.stage)
    oldest = sa.select(sa.func.min(a.due_at)).where(*attempt_of, a.state == DUE, a.due_at <= now)
    due_at = tx.execute(oldest).scalar()
    return Report(
        [
            Money(row[0], *(int(value) for value in row[1:]))
            for row in tx.execute(money.where(*ended).group_by(c.currency).order_by(c.currency))
        ],
        [
            Rate(str(number), tried, int(well))
            for number, tried, well in tx.execute(attempts.group_by(a.number).order_by(a.number))
        ],
        [
            Rate(code, tried, int(well))
            for code, tried, well in tx.execute(codes.where(*ended).group_by(sa.text("1")).order_by(sa.text("1")))
        ],
        {row[0]: int(row[1]) for row in tx.execute(stages)},
        (now - due_at).total_seconds() if due_at is not None else 0.0,
    )
