"""What is for a part of a period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.rules.proration import change_of_price, prorate
from billhook.rules.terms import Discount, LineTerms, Party, TaxRate, Terms
from billhook.rules.totals import totals

QUICK = settings(max_examples=60, deadline=None)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
amounts = st.integers(-(10**9), 10**9)
MONTH = 30 * 86400
seconds = st.integers(0, MONTH)


def moment(second: int) -> datetime:
    return APRIL + timedelta(seconds=second)


@given(amounts, seconds, st.sampled_from([1, 100]))
@QUICK
def test_used_and_unused_are_the_whole(amount: int, second: int, step: int) -> None:
    used, unused = prorate(amount * step, APRIL, MAY, moment(second), step)
    assert used + unused == amount * step
    assert used % step == unused % step == 0
    assert abs(used) <= abs(amount * step)
    assert used * amount >= 0


@given(amounts, st.lists(seconds, max_size=6))
@QUICK
def test_a_period_cut_in_many_places_is_still_the_whole(amount: int, cuts: list[int]) -> None:
    used = [0, *(prorate(amount, APRIL, MAY, moment(cut))[0] for cut in sorted(cuts)), amount]
    parts = [later - earlier for earlier, later in pairwise(used)]
    assert sum(parts) == amount
    assert all(part * amount >= 0 for part in parts)


@given(st.lists(st.tuples(st.integers(0, MONTH - 1), st.integers(0, 10**6)), max_size=6))
@QUICK
def test_after_any_changes_each_price_was_charged_for_the_time_it_was_used(changes: list[tuple[int, int]]) -> None:
    plans = [(0, 3000), *sorted(changes)]
    charged = [3000] + [0] * len(changes)
    for number, ((_, old), (second, new)) in enumerate(pairwise(plans)):
        lines = (LineTerms(description="plan", unit_amount=str(price)) for price in (old, new))
        back, rest = change_of_price(*lines, currency="eur", start=APRIL, end=MAY, at=moment(second))
        charged[number] += int(back.unit_amount)
        charged[number + 1] += int(rest.unit_amount)
    ends = [second for second, _ in plans[1:]] + [MONTH]
    for (begin, price), end, amount in zip(plans, ends, charged, strict=True):
        used_before, used = (prorate(price, APRIL, MAY, moment(second))[0] for second in (begin, end))
        assert amount == used - used_before


def test_a_change_in_the_middle_of_the_month() -> None:
    old = LineTerms(description="Basic", unit_amount="1000", quantity="2", tax=TaxRate(percent="19"))
    new = LineTerms(
        description="Pro", unit_amount="5000", discounts=(Discount(percent="10"),), tax=TaxRate(percent="19")
    )
    lines = change_of_price(old, new, currency="eur", start=APRIL, end=MAY, at=moment(86400 * 20))
    assert [(line.description, line.unit_amount) for line in lines] == [("Basic", "-667"), ("Pro", "1500")]
    assert all((line.proration, line.period_end) == (True, MAY) for line in lines)
    invoice = totals(Terms(currency="eur", buyer=Party(name="Ada"), lines=lines))
    assert (invoice.subtotal, invoice.tax, invoice.total) == (833, 158, 991)


def test_amounts_that_end_in_00_still_do() -> None:
    assert prorate(10000, APRIL, MAY, moment(86400 * 10), step=100) == (3300, 6700)


def test_a_day_on_which_clocks_change_is_as_long_as_it_was() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start, noon, end = (datetime(2026, 3, day, hour, tzinfo=berlin) for day, hour in ((29, 0), (29, 12), (30, 0)))
    assert prorate(2300, start, end, noon) == (1100, 1200)  # 2 o'clock was skipped: 11 hours of 23


def test_times_outside_the_period_are_refused() -> None:
    for at in (APRIL - timedelta(seconds=1), MAY + timedelta(seconds=1)):
        with pytest.raises(ValueError, match="not within 2026-04-01"):
            prorate(100, APRIL, MAY, at)
    with pytest.raises(ValueError, match="not within"):
        prorate(100, APRIL, APRIL, APRIL)
    line = LineTerms(description="plan", unit_amount="100")
    with pytest.raises(ValueError, match="next one"):
        change_of_price(line, line, currency="eur", start=APRIL, end=MAY, at=MAY)
