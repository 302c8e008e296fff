"""Proration: what part of a price is for a part of its period.

By time, to the microsecond, and between instants: a day on which clocks change is as long as it was. Periods are
half-open: what ends at noon and what begins at noon share nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from billhook.rules.money import quantum
from billhook.rules.rounding import round_half_up
from billhook.rules.terms import LineTerms
from billhook.rules.totals import priced

_TICK = timedelta(microseconds=1)


def prorate(amount: int, start: datetime, end: datetime, at: datetime, step: int = 1) -> tuple[int, int]:
    """What of an amount for [start, end) is for the time before `at`, and what for the time from then on.

    Together they are the amount. A period cut in several places may be cut one after the other: what is for the time
    between two cuts is the difference of what was before them. Raises ValueError when `at` is not within the period.
    """
    # Two times of one zone subtract by the clock on the wall; those of UTC by what passed.
    start, end, at = (moment.astimezone(UTC) for moment in (start, end, at))
    if not start <= at <= end or start == end:
        raise ValueError(
            f"{at:%Y-%m-%d %H:%M:%S} UTC is not within {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}."
        )
    used = round_half_up(amount * ((at - start) // _TICK), (end - start) // _TICK, step)
    return used, amount - used


def change_of_price(
    old: LineTerms, new: LineTerms, *, currency: str, start: datetime, end: datetime, at: datetime
) -> tuple[LineTerms, LineTerms]:
    """The lines that change a price in the middle of a period: one gives back the old price for the time that is left,
    the other charges the new one for it.

    `old` and `new` are lines for the whole period; their discounts count, and are within the amounts that come out.
    After any number of changes, what was charged for each price is what was used of it, to the minor unit.
    """
    if at.astimezone(UTC) == end.astimezone(UTC):
        raise ValueError("nothing is left of the period: the new price begins with the next one.")
    step = quantum(currency)

    def left_of(line: LineTerms) -> int:
        amount, discount = priced(line, currency)
        return prorate(amount - discount, start, end, at, step)[1]

    def rest(line: LineTerms, amount: int) -> LineTerms:
        return LineTerms(
            description=line.description,
            unit_amount=str(amount),
            tax=line.tax,
            period_start=at,
            period_end=end,
            proration=True,
        )

    return rest(old, -left_of(old)), rest(new, left_of(new))
