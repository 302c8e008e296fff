"""When an endpoint that keeps failing is given up, and how often its merchant hears of it first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.delivery import LONGEST_WAIT_SECONDS, SCHEDULE_SECONDS
from billhook.rules.endpoint_health import (
    DISABLED_AFTER,
    HALF_TIME,
    SILENCE,
    SPREAD,
    EndpointHealth,
    Notice,
    health_after_failure,
)

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def told(hours: Sequence[float]) -> list[tuple[float, Notice]]:
    """What a merchant hears when its endpoint fails at these hours and never succeeds."""
    health, heard = EndpointHealth(), []
    for hour in hours:
        health, notice = health_after_failure(health, START + timedelta(hours=hour))
        if notice is not None:
            heard.append((hour, notice))
    return heard


def test_a_merchant_hears_three_times_before_an_endpoint_is_given_up() -> None:
    assert told(range(130)) == [
        (12, Notice.FIRST_SIGN),
        (60, Notice.HALF_TIME),
        (120, Notice.DISABLED),
    ]


def test_a_thousand_failures_within_an_hour_are_a_blip() -> None:
    assert told([n / 1000 for n in range(1000)]) == []


def test_one_message_that_is_tried_by_the_default_schedule_disables_nothing() -> None:
    hours = [0.0]
    for wait in SCHEDULE_SECONDS:
        hours.append(hours[-1] + wait / 3600)
    assert [notice for _, notice in told(hours)] == [Notice.FIRST_SIGN, Notice.HALF_TIME]


def test_after_days_without_an_attempt_the_clock_starts_anew() -> None:
    assert told([0, 13, 13 + 61, 200]) == [(13, Notice.FIRST_SIGN)]


def test_the_last_failure_is_not_written_more_than_once_an_hour() -> None:
    health, _ = health_after_failure(EndpointHealth(), START)
    assert health_after_failure(health, START + timedelta(minutes=59)) == (health, None)
    assert health_after_failure(health, START + timedelta(minutes=60))[0].last_failure_at == START + timedelta(
        minutes=60
    )


def test_no_wait_between_two_attempts_is_taken_for_silence() -> None:
    assert timedelta(seconds=LONGEST_WAIT_SECONDS * 1.1) < SILENCE


@given(st.lists(st.floats(0, 80), min_size=1, max_size=80))
def test_nobody_is_given_up_without_having_been_told_after_half_of_the_time(gaps: list[float]) -> None:
    hours = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    health, since_half = EndpointHealth(), False
    for hour in hours:
        now = START + timedelta(hours=hour)
        health, notice = health_after_failure(health, now)
        assert health.failing_since is not None
        if health.failing_since == now:
            since_half = False
        if notice is Notice.DISABLED:
            assert since_half
            assert now - health.failing_since >= DISABLED_AFTER
            return
        if notice is Notice.FIRST_SIGN:
            assert now - health.failing_since >= SPREAD
        since_half = since_half or notice is Notice.HALF_TIME
        assert notice is not Notice.HALF_TIME or now - health.failing_since >= HALF_TIME
