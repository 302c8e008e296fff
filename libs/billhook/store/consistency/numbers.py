"""The numbers of a series against 1..n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from billhook.rules.reconcile import Drift, drift_of
from billhook.store.bulk import among
from billhook.store.consistency.check import PAGE, Difference, Page, Scope
from billhook.store.database import Tx
from billhook.store.own_credit_notes import own_credit_notes
from billhook.store.own_invoices import own_invoices
from billhook.store.series import number_series

_MOST_NUMBERS: Final = 100
"""Missing numbers of a series that are named one by one."""

_NUMBERED: Final = (own_invoices, own_credit_notes)


def series(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = number_series.c
    query = sa.select(c.series).where(c.merchant_id == scope.merchant_id, c.series > (cursor or ""))
    found = list(tx.execute(query.order_by(c.series).limit(PAGE)).scalars())
    # Two merchants may have series of one name.
    return Page([f"{scope.merchant_id} {name}" for name in found], found[-1] if len(found) == PAGE else None)


def gaps(tx: Tx, scope: Scope, subjects: Sequence[str]) -> list[Difference]:
    series = [subject.partition(" ")[2] for subject in subjects]
    last = number_series.c.last
    query = sa.select(number_series.c.series, last).where(
        number_series.c.merchant_id == scope.merchant_id, among(tx, number_series.c.series, series)
    )
    found: list[Difference] = []
    for name, counted in list(tx.execute(query)):
        taken = [(table.c.merchant_id == scope.merchant_id, table.c.series == name, table) for table in _NUMBERED]
        known = sa.union_all(*(sa.select(table.c.sequence).where(mine, own) for mine, own, table in taken)).subquery()
        count, most = tx.execute(sa.select(sa.func.count(), sa.func.max(known.c.sequence)).select_from(known)).one()
        if count == counted == (most or 0):
            continue
        there = set(tx.execute(sa.select(known.c.sequence)).scalars())
        highest, whose = most or 0, f"{scope.merchant_id} {name}"
        # What was counted behind the last document that is there is a gap too: somebody took documents away.
        gaps = [number for number in range(1, max(highest, counted) + 1) if number not in there]
        told: list[Drift | None] = [
            drift_of("number", f"{whose} {number}", {"number": (None, number)}) for number in gaps[:_MOST_NUMBERS]
        ]
        if highest > counted:
            told.append(drift_of("number_series", f"{whose} last", {"last": (counted, highest)}))
        found += [Difference(drift) for drift in told if drift]
    return found
