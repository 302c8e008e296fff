"""A customer's standing: whether they may have what they pay for, which a product asks on every request of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from billhook.rules.dunning import Stage

StandingState = Literal["active", "grace", "suspended"]


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """A case that counts: its invoice is not paid."""

    case: str
    invoice: str
    stage: Stage
    opened_at: datetime
    grace_until: datetime


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    state: StandingState
    since: datetime | None = None
    until: datetime | None = None
    """The end of the grace, while that runs."""
    reason: str | None = None
    invoices: tuple[str, ...] = ()


ACTIVE = Standing(state="active")


def standing_of(debts: Sequence[Debt], now: datetime) -> Standing:
    """The worst standing that any debt leads to. It is computed from the cases' times and not from a stored state: a
    grace period is over at its end, whether or not a worker has got to it."""
    if not debts:
        return ACTIVE
    ordered = sorted(debts, key=lambda debt: (debt.grace_until, debt.case))
    over = [debt for debt in ordered if debt.grace_until <= now or debt.stage == "exhausted"]
    invoices = tuple(debt.invoice for debt in ordered)
    if over:
        since = over[0].grace_until
        given_up = any(debt.stage == "exhausted" for debt in over)
        return Standing(
            state="suspended", since=since, reason="exhausted" if given_up else "grace_over", invoices=invoices
        )
    return Standing(
        state="grace",
        since=min(debt.opened_at for debt in ordered),
        until=ordered[0].grace_until,
        reason="payment_failed",
        invoices=invoices,
    )


def etag(standing: Standing) -> str:
    return hashlib.sha256(msgspec.json.encode(standing)).hexdigest()[:16]
