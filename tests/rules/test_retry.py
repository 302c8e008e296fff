"""When failed work is tried again, and when it is given up."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.errors import LONGEST_PAUSE_SECONDS, TryAgain, Unprocessable
from billhook.rules.retry import MAX_ATTEMPTS, SCHEDULE_SECONDS, Dead, Retry, after_failure, describe

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
jitters = st.floats(0, 1)
attempts_left = st.integers(1, MAX_ATTEMPTS - 1)


def wait(error: Exception, *, attempts: int, jitter: float = 0.0) -> float:
    outcome = after_failure(error, attempts=attempts, now=NOW, jitter=jitter)
    assert isinstance(outcome, Retry)
    return (outcome.at - NOW).total_seconds()


@pytest.mark.parametrize("attempts, seconds", list(enumerate(SCHEDULE_SECONDS, start=1)))
def test_each_failure_waits_its_step_of_the_schedule(attempts: int, seconds: int) -> None:
    assert wait(ValueError("x"), attempts=attempts) == seconds


def test_the_schedule_only_grows_and_outlives_a_night() -> None:
    assert all(a < b for a, b in itertools.pairwise(SCHEDULE_SECONDS))
    assert timedelta(hours=12) < timedelta(seconds=sum(SCHEDULE_SECONDS)) < timedelta(hours=24)


@given(attempts_left, jitters)
def test_jitter_only_adds_and_at_most_a_fifth(attempts: int, jitter: float) -> None:
    step = SCHEDULE_SECONDS[attempts - 1]
    assert step <= wait(ValueError(), attempts=attempts, jitter=jitter) <= step * 1.2


def test_the_last_attempt_ends_in_a_dead_letter_that_says_so() -> None:
    outcome = after_failure(KeyError("id"), attempts=MAX_ATTEMPTS, now=NOW, jitter=0)
    assert outcome == Dead("gave up after 11 attempts: KeyError: 'id'")


@pytest.mark.parametrize("attempts", [1, 5, MAX_ATTEMPTS])
def test_what_cannot_be_understood_is_not_tried_again(attempts: int) -> None:
    assert after_failure(Unprocessable("no currency"), attempts=attempts, now=NOW, jitter=1) == Dead("no currency")


def test_who_asks_for_patience_gets_it_and_never_less_than_the_schedule() -> None:
    assert wait(TryAgain("busy", after_seconds=90), attempts=1) == 90
    assert wait(TryAgain("busy", after_seconds=1), attempts=5) == SCHEDULE_SECONDS[4]
    assert wait(TryAgain("busy"), attempts=2) == SCHEDULE_SECONDS[1]
    assert wait(TryAgain("busy", after_seconds=-5), attempts=1) == SCHEDULE_SECONDS[0]


@given(attempts_left, st.floats(allow_nan=True, allow_infinity=True), jitters)
def test_no_request_for_patience_puts_work_off_for_more_than_an_hour(
    attempts: int, after_seconds: float, jitter: float
) -> None:
    waited = wait(TryAgain("busy", after_seconds=after_seconds), attempts=attempts, jitter=jitter)
    assert SCHEDULE_SECONDS[attempts - 1] <= waited <= max(LONGEST_PAUSE_SECONDS, SCHEDULE_SECONDS[attempts - 1]) * 1.2


def test_an_hour_is_the_limit() -> None:
    assert wait(TryAgain("busy", after_seconds=math.inf), attempts=1) == LONGEST_PAUSE_SECONDS
    assert TryAgain("busy", after_seconds=950_400).after_seconds == LONGEST_PAUSE_SECONDS


def test_an_error_is_described_by_its_name_unless_it_is_ours() -> None:
    assert describe(ValueError("bad")) == "ValueError: bad"
    assert describe(TryAgain("the provider is busy")) == "the provider is busy"
    assert describe(Unprocessable("no id")) == "no id"


def test_what_nobody_foresaw_tells_nothing_of_the_machine() -> None:
    gone = FileNotFoundError(2, "No such file or directory", "/var/lib/billhook/objects/ab/cd.pdf")
    assert describe(gone) == "FileNotFoundError: [Errno 2] No such file or directory: '…'"
    trace = 'it broke\nTraceback (most recent call last):\n  File "/opt/billhook/x.py"'
    assert describe(RuntimeError(trace)) == "RuntimeError: it broke"
    assert describe(TryAgain("https://api.example/v1/invoices/in_1 is busy")).endswith("/v1/invoices/in_1 is busy")
    assert describe(ValueError("https://api.example/v1/invoices is none")).endswith("example/v1/invoices is none")


@given(st.text())
def test_a_description_fits_a_column_of_text(words: str) -> None:
    line = describe(ValueError(words + "\0\ud800"))
    assert len(line) <= 500
    assert "\0" not in line
    line.encode()
