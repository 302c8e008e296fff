"""Who wants a message, and what an endpoint's answer means."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.events import DOMAIN_EVENTS
from billhook.rules.delivery import (
    RETRY_AFTER_LIMIT_SECONDS,
    SCHEDULE_SECONDS,
    after_attempt,
    answers,
    as_told,
    outcome_class,
    subject_of,
    wants,
)
from billhook.rules.retry import Dead, Done, Outcome, Retry

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
PATIENT = (429, 502, 503, 504)
MAX_ATTEMPTS = len(SCHEDULE_SECONDS) + 1


def answer(
    status_code: int | None = 500,
    *,
    error: str | None = None,
    retry_after: float | None = None,
    attempts: int = 1,
    jitter: float = 0.0,
    schedule: Sequence[float] = SCHEDULE_SECONDS,
) -> Outcome:
    return after_attempt(
        status_code=status_code,
        error=error,
        retry_after_seconds=retry_after,
        attempts=attempts,
        now=NOW,
        jitter=jitter,
        schedule=schedule,
    )


def wait(outcome: Outcome) -> float:
    assert isinstance(outcome, Retry)
    return (outcome.at - NOW).total_seconds()


@pytest.mark.parametrize("status_code", [200, 201, 202, 204, 299])
@pytest.mark.parametrize("attempts", [1, MAX_ATTEMPTS])
def test_a_2xx_is_delivered(status_code: int, attempts: int) -> None:
    assert answer(status_code, attempts=attempts) == Done("delivered")


@pytest.mark.parametrize("status_code", [100, 199, 301, 302, 304, 307, 400, 401, 404, 422, 499, 500, 501, 599, 999])
def test_anything_else_is_tried_again_and_a_redirect_too(status_code: int) -> None:
    assert answer(status_code) == Retry(
        NOW + timedelta(seconds=SCHEDULE_SECONDS[0]), f"the endpoint answered {status_code}"
    )


SAID = "broke off"

TABLE = [
    # outcome, status, error, what follows (the wait in seconds), and whether the endpoint is up
    ("2xx", 200, None, "delivered", True),
    ("2xx", 204, None, "delivered", True),
    ("2xx", 299, None, "delivered", True),
    ("3xx", 301, None, 5, True),
    ("3xx", 304, None, 5, True),
    ("3xx", 308, None, 5, True),
    ("4xx", 400, None, 5, True),
    ("4xx", 401, None, 5, True),
    ("4xx", 403, None, 5, True),
    ("4xx", 404, None, 5, True),
    ("4xx", 408, None, 5, True),
    ("4xx", 410, None, "held", True),
    ("4xx", 413, None, 5, True),
    ("4xx", 422, None, 5, True),
    ("4xx", 429, None, 600, False),
    ("5xx", 500, None, 5, False),
    ("5xx", 501, None, 5, False),
    ("5xx", 502, None, 600, False),
    ("5xx", 503, None, 600, False),
    ("5xx", 504, None, 600, False),
    ("5xx", 599, None, 5, False),
    ("timeout", None, SAID, 5, False),
    ("timeout", 200, SAID, 5, False),  # a 2xx whose body did not end in time is no success
    ("dns", None, SAID, 5, False),
    ("refused", None, SAID, 5, False),
    ("connect", None, SAID, 5, False),
    ("tls", None, SAID, 5, False),
    ("reset", None, SAID, 5, False),
    ("reset", 200, SAID, 5, False),
    ("protocol", None, SAID, 5, False),
    ("protocol", 999, SAID, 5, False),
    ("url", None, SAID, 5, False),
]


@pytest.mark.parametrize("outcome, status_code, error, follows, up", TABLE)
def test_each_class_of_answer_has_its_meaning(
    outcome: str, status_code: int | None, error: str | None, follows: str | int, up: bool
) -> None:
    meant = answer(status_code, error=error, retry_after=600)
    assert meant == Done(follows) if isinstance(follows, str) else wait(meant) == follows
    assert answers(outcome, status_code) is up


def test_an_endpoint_may_have_a_schedule_of_its_own() -> None:
    assert wait(answer(schedule=[60, 90], attempts=2)) == 90
    assert answer(schedule=[60, 90], attempts=3) == Dead("gave up after 3 attempts: the endpoint answered 500")
    assert answer(schedule=[], attempts=1) == Dead("gave up after 1 attempts: the endpoint answered 500")


def test_a_subject_is_what_the_endpoint_wants_things_in_order_by() -> None:
    assert subject_of("none", "cus_1", "sub_1") is None
    assert subject_of("customer", "cus_1", "sub_1") == "cus_1"
    assert subject_of("subscription", "cus_1", "sub_1") == "sub_1"
    assert subject_of("subscription", "cus_1", None) is None


def test_no_answer_at_all_is_tried_again_with_the_reason() -> None:
    assert answer(None, error="no answer in 15 s") == Retry(NOW + timedelta(seconds=5), "no answer in 15 s")


@pytest.mark.parametrize("attempts, seconds", list(enumerate(SCHEDULE_SECONDS, start=1)))
def test_each_failure_waits_its_step_of_the_schedule(attempts: int, seconds: int) -> None:
    assert wait(answer(attempts=attempts)) == seconds


def test_the_schedule_only_grows_and_lasts_three_days() -> None:
    assert all(a < b for a, b in itertools.pairwise(SCHEDULE_SECONDS))
    assert sum(SCHEDULE_SECONDS) / 3600 == pytest.approx(75.6, abs=0.05)


def test_the_last_attempt_ends_in_a_dead_letter_that_says_so() -> None:
    assert answer(503, attempts=MAX_ATTEMPTS, retry_after=5) == Dead(
        "gave up after 10 attempts: the endpoint answered 503"
    )


@given(st.integers(1, MAX_ATTEMPTS - 1), st.floats(0, 1))
def test_jitter_only_adds_and_at_most_a_tenth(attempts: int, jitter: float) -> None:
    step = SCHEDULE_SECONDS[attempts - 1]
    assert step <= wait(answer(attempts=attempts, jitter=jitter)) <= step * 1.1


@pytest.mark.parametrize("status_code", PATIENT)
def test_a_busy_endpoint_that_asks_for_patience_gets_it(status_code: int) -> None:
    assert wait(answer(status_code, retry_after=600)) == 600
    assert wait(answer(status_code, retry_after=1)) == SCHEDULE_SECONDS[0]
    assert wait(answer(status_code, retry_after=10**9)) == RETRY_AFTER_LIMIT_SECONDS


@given(
    st.sampled_from([400, 500, *PATIENT]),
    st.integers(1, MAX_ATTEMPTS - 1),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1),
)
def test_no_header_shortens_the_schedule_or_puts_a_message_off_for_ever(
    status_code: int, attempts: int, retry_after: float, jitter: float
) -> None:
    step = SCHEDULE_SECONDS[attempts - 1]
    longest = max(step, RETRY_AFTER_LIMIT_SECONDS) if status_code in PATIENT else step
    assert step <= wait(answer(status_code, attempts=attempts, retry_after=retry_after, jitter=jitter)) <= longest * 1.1


@pytest.mark.parametrize("status_code", [400, 404, 500])
def test_only_a_busy_endpoint_may_ask_for_patience(status_code: int) -> None:
    assert wait(answer(status_code, retry_after=600)) == SCHEDULE_SECONDS[0]


@pytest.mark.parametrize("status_code, name", [(200, "2xx"), (302, "3xx"), (404, "4xx"), (503, "5xx")])
def test_outcomes_are_told_apart_by_class(status_code: int, name: str) -> None:
    assert outcome_class(status_code) == name


@pytest.mark.parametrize(
    "patterns, event_type, wanted",
    [
        (["*"], "invoice.paid", True),
        (["invoice.paid"], "invoice.paid", True),
        (["invoice.paid"], "invoice.paid_twice", False),
        (["invoice.*"], "invoice.paid", True),
        (["invoice.*"], "invoice_payment.paid", False),
        (["invoice.*"], "invoice", False),
        (["customer.*", "invoice.voided"], "invoice.voided", True),
        (["invoice*"], "invoice.paid", False),
        (["invoice"], "invoice.paid", False),
        ([""], "invoice.paid", False),
        ([], "invoice.paid", False),
    ],
)
def test_an_endpoint_hears_what_its_patterns_name(patterns: list[str], event_type: str, wanted: bool) -> None:
    assert wants(patterns, event_type) is wanted


@given(st.sampled_from(sorted(DOMAIN_EVENTS)))
def test_every_event_is_reached_by_its_name_by_its_family_and_by_all(event_type: str) -> None:
    family = event_type.partition(".")[0]
    for pattern in (event_type, f"{family}.*", "*"):
        assert wants([pattern], event_type)


def test_a_name_that_leads_inside_reads_like_one_that_nobody_knows() -> None:
    unknown = as_told("https://nobody.example/in", "dns", "nobody.example was not found: NXDOMAIN")
    inner = as_told("https://db.corp.example/in", "refused", "db.corp.example resolves to a private address")
    assert unknown == inner
    assert "private" not in str(inner)
    literal = ("refused", "10.0.0.1 is a private address")
    assert as_told("https://10.0.0.1/in", *literal) == literal, "that says only what the URL says"
    for other in (("2xx", None), ("timeout", "no complete answer within 15 s"), ("tls", "no"), ("5xx", None)):
        assert as_told("https://nobody.example/in", *other) == other
