"""Attempts: who may make one, what a bank's answer means, and that each ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

from billhook.rules.payment_attempts import (
    AFTER,
    COUNTS,
    IN_FLIGHT,
    KEY_LIFE,
    Status,
    Trigger,
    ask_at,
    may_follow,
    may_send_again,
)
from billhook.rules.standing import ACTIVE, Debt, etag, standing_of

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def test_every_trigger_says_whether_it_counts() -> None:
    assert set(COUNTS) == set(get_args(Trigger)), "Say in COUNTS whether attempts of the new trigger use up the policy."
    assert {trigger for trigger, counts in COUNTS.items() if counts} == {"cycle", "dunning"}


def test_every_status_is_in_the_table_and_can_end() -> None:
    assert set(AFTER) == set(get_args(Status))
    assert set(IN_FLIGHT) == {"created", "submitted", "unknown", "requires_action"}
    for status in IN_FLIGHT:
        assert may_follow(status, "failed")
    assert not any(may_follow("succeeded", following) for following in get_args(Status))


def test_the_provider_is_asked_after_five_minutes_an_hour_a_day_and_daily() -> None:
    waits = [ask_at(asked, NOW) - NOW for asked in range(5)]
    assert waits == [timedelta(minutes=5), timedelta(hours=1), *[timedelta(days=1)] * 3]


def test_the_same_key_goes_out_again_only_while_the_provider_knows_it() -> None:
    assert may_send_again(1, NOW, NOW + timedelta(hours=1))
    assert not may_send_again(1, NOW, NOW + KEY_LIFE)
    assert not may_send_again(3, NOW, NOW + timedelta(hours=1))


def debt(case: str, days: int, stage: str = "grace") -> Debt:
    return Debt(
        case=case,
        invoice=f"inv_{case}",
        stage=stage,  # type: ignore[arg-type]
        opened_at=NOW,
        grace_until=NOW + timedelta(days=days),
    )


def test_the_standing_is_that_of_the_worst_debt() -> None:
    assert standing_of([], NOW) == ACTIVE
    grace = standing_of([debt("a", 7), debt("b", 3)], NOW)
    assert (grace.state, grace.until) == ("grace", NOW + timedelta(days=3))
    late = standing_of([debt("a", 7), debt("b", 3)], NOW + timedelta(days=3))
    assert (late.state, late.since) == ("suspended", NOW + timedelta(days=3))
    assert late.invoices == ("inv_b", "inv_a")
    assert standing_of([debt("a", 0, "exhausted")], NOW).reason == "exhausted"


def test_the_tag_changes_with_the_standing_and_not_with_the_order() -> None:
    one = standing_of([debt("a", 7), debt("b", 3)], NOW)
    assert etag(one) == etag(standing_of([debt("b", 3), debt("a", 7)], NOW + timedelta(days=1)))
    assert etag(one) != etag(standing_of([debt("a", 7)], NOW))
