"""A token bucket in one instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.bucket import next_at, take

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
RATES = st.floats(0.01, 1000)


def test_a_full_bucket_holds_a_second_of_its_rate_and_at_least_one() -> None:
    assert take(None, 10, 100, NOW)[0] == 10
    assert take(None, 0.1, 100, NOW)[0] == 1
    assert take(NOW - timedelta(days=9), 10, 100, NOW)[0] == 10


def test_tokens_come_back_with_time() -> None:
    _, spent = take(None, 10, 10, NOW)
    assert take(spent, 10, 5, NOW)[0] == 0
    granted, spent = take(spent, 10, 5, NOW + timedelta(seconds=0.3))
    assert granted == 3
    assert take(spent, 10, 5, NOW + timedelta(seconds=0.35))[0] == 0


@pytest.mark.parametrize("rate", [0.5, 1, 7, 250])
def test_whoever_comes_when_it_was_told_finds_a_token(rate: float) -> None:
    _, spent = take(None, rate, 1000, NOW)
    for ahead in (1, 2, 5):
        assert take(spent, rate, 1000, next_at(spent, rate, ahead))[0] <= max(ahead, rate)
    assert take(spent, rate, 1, max(NOW, next_at(spent, rate, 1)))[0] == 1


@given(RATES, st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), max_size=60))
def test_no_more_are_given_than_the_rate_and_one_burst_allow(rate: float, calls: list[tuple[float, int]]) -> None:
    spent, now, total = None, NOW, 0
    for wait, wanted in calls:
        now += timedelta(seconds=wait)
        granted, spent = take(spent, rate, wanted, now)
        assert 0 <= granted <= wanted
        total += granted
        elapsed = (now - NOW).total_seconds()
        assert total <= max(1.0, rate) + elapsed * rate + 1e-3 * rate + 1


def test_a_clock_that_was_ahead_and_is_set_back_keeps_nobody_waiting() -> None:
    _, spent = take(None, 5.0, 5, NOW + timedelta(hours=1))
    _, spent = take(spent, 5.0, 1, NOW)
    assert take(spent, 5.0, 1, NOW + timedelta(seconds=0.2))[0] == 1
