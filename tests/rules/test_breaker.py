"""How many requests may be under way to an endpoint, from what came of the last ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.breaker import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    OPEN_SECONDS,
    OPEN_SECONDS_LIMIT,
    TRIP,
    Breaker,
    failed,
    probing,
    succeeded,
)

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def tripped(now: datetime = NOW) -> Breaker:
    breaker = Breaker()
    for _ in range(TRIP):
        breaker = failed(breaker, now)
    return breaker


def seconds_open(breaker: Breaker, now: datetime) -> float:
    assert breaker.open_until is not None
    return (breaker.open_until - now).total_seconds()


def test_failures_in_a_row_open_it_and_failures_between_successes_do_not() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(TRIP - 1):
            breaker = failed(breaker, NOW)
        breaker = succeeded(breaker)
    assert not breaker.is_open(NOW)
    assert tripped().is_open(NOW)


def test_after_its_time_one_probe_decides() -> None:
    later = NOW + timedelta(seconds=OPEN_SECONDS)
    breaker = tripped()
    assert not breaker.is_open(later)
    assert breaker.window == 1
    assert seconds_open(failed(breaker, later), later) == OPEN_SECONDS
    assert not succeeded(breaker).is_open(later)


def test_a_probe_that_hangs_keeps_the_next_from_nothing() -> None:
    breaker, now = tripped(), NOW
    for _ in range(5):
        assert breaker.open_until is not None
        now = breaker.open_until
        breaker = probing(breaker, now)
        assert seconds_open(breaker, now) == OPEN_SECONDS
    assert failed(breaker, now) == breaker  # by then the next one's time is known
    assert seconds_open(failed(breaker, now, 60.0), now) == 60.0
    assert seconds_open(failed(breaker, now, 1e9), now) == OPEN_SECONDS_LIMIT
    assert succeeded(breaker).opened == 0


def test_it_ramps_up_after_an_outage() -> None:
    breaker, windows = tripped(), []
    for _ in range(4):
        for _ in range(breaker.window):
            breaker = succeeded(breaker)
        windows.append(breaker.window)
    assert windows == [2, 4, 8, 16]


def test_probes_come_every_five_seconds_for_a_minute_and_then_the_waits_double_up_to_five_minutes() -> None:
    breaker, now, waits = tripped(), NOW, []
    for _ in range(20):
        waits.append(seconds_open(breaker, now))
        assert breaker.open_until is not None
        now = breaker.open_until
        breaker = failed(breaker, now)
    assert waits == [*[5] * 12, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize("asked, given_", [(0.0, OPEN_SECONDS), (60.0, 60.0), (1e9, OPEN_SECONDS_LIMIT)])
def test_a_receiver_that_asks_for_patience_is_left_alone_at_once(asked: float, given_: float) -> None:
    assert seconds_open(failed(Breaker(), NOW, asked), NOW) == given_


def test_a_clock_that_was_ahead_and_is_set_back_keeps_nobody_waiting() -> None:
    assert not tripped(NOW + timedelta(hours=1)).is_open(NOW)


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = tripped()
    assert failed(breaker, NOW + timedelta(seconds=1)) == breaker


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000), st.none() | st.floats(0, 1e12)), max_size=200))
def test_whatever_happens_some_request_may_go_out_in_at_most_five_minutes(
    history: list[tuple[bool, float, float | None]],
) -> None:
    breaker, now = Breaker(), NOW
    for success, wait, pause in history:
        now += timedelta(seconds=wait)
        breaker = succeeded(breaker) if success else failed(breaker, now, pause)
        assert 1 <= breaker.window <= LARGEST_WINDOW
        assert breaker.open_until is None or seconds_open(breaker, now) <= OPEN_SECONDS_LIMIT
    assert FIRST_WINDOW <= LARGEST_WINDOW
