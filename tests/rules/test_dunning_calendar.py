"""Policies and their calendars, over every zone of the world and every day of the year."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.rules.dunning_calendar import Calendar, Progress, attempt_times, ends_at, grace_until
from billhook.rules.dunning_policy import PRESETS, Policy, Reminder, refusals, scope_refusal

ZONES = sorted(available_timezones())
openings = st.integers(631_152_000, 2_208_988_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
days = st.lists(st.integers(0, 60), max_size=12, unique=True).map(sorted).map(tuple)
times = st.none() | st.times().map(lambda at: f"{at:%H:%M}")


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    attempts = draw(days)
    end = max([*attempts, draw(st.integers(0, 60))])
    reminders = draw(st.lists(st.integers(-10, end), max_size=5, unique=True))
    return Policy(
        attempts=attempts,
        time_of_day=draw(times),
        grace_days=draw(st.integers(0, end)),
        reminders=tuple(Reminder(day=day) for day in reminders),
        remind_days_before_attempt=draw(st.none() | st.integers(1, 5)),
        last_attempt_after_hard_decline=draw(st.booleans()),
        end_day=end,
    )


def begin(policy: Policy, opened_at: datetime, zone: ZoneInfo) -> Progress:
    return Progress(
        stage="grace",
        opened_at=opened_at,
        grace_until=grace_until(policy, opened_at, zone),
        ends_at=ends_at(policy, opened_at, zone),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_set(name: str) -> None:
    assert refusals(PRESETS[name]) == []
    assert PRESETS[name].name == name


def test_the_published_calendars() -> None:
    opened = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

    def dates(name: str) -> list[str]:
        return [f"{at:%m-%d %H:%M}" for at in attempt_times(PRESETS[name], opened, ZoneInfo("UTC"))]

    assert dates("polar") == ["02-02 09:30", "02-07 09:30", "02-14 09:30", "02-21 09:30"]
    assert dates("kill-bill") == ["02-08 09:30", "02-16 09:30", "02-24 09:30"]
    assert len(dates("stripe-recommended")) == 8
    assert dates("stripe-recommended")[-1] == "02-14 09:30"
    assert dates("reminders-only") == dates("provider-retries") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attempts": (3, 2)}, "go up"),
        ({"attempts": (3, 3)}, "go up"),
        ({"attempts": (-1, 3)}, "from 0 on"),
        ({"attempts": (3, 31)}, "before the last attempt"),
        ({"zone": "Mars/Olympus"}, "IANA"),
        ({"reminders": (Reminder(day=31),)}, "after the end"),
        ({"reminders": (Reminder(day=1), Reminder(day=1))}, "two things at once"),
        ({"grace_days": 31}, "`grace_days`"),
        ({"owner": "provider", "attempts": (1,)}, "charge twice"),
        ({"owner": "provider", "final_action": "cancel_subscription"}, "one of its own"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_reason(changes: dict[str, object], said: str) -> None:
    found = refusals(msgspec.structs.replace(Policy(), **changes))
    assert any(said in reason for reason in found), found


@pytest.mark.parametrize(
    "text", ['{"attempts": [1.5]}', '{"final_action": "explode"}', '{"time_of_day": "24:00"}', '{"end_day": 9999}',
             f'{{"attempts": {list(range(21))}}}', '{"owner": "nobody"}']
)  # fmt: skip
def test_what_is_no_policy_is_not_read(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Policy)


def test_scopes() -> None:
    assert scope_refusal("merchant", "") is None
    assert scope_refusal("price", "price_1") is None
    assert None not in (scope_refusal("merchant", "x"), scope_refusal("price", ""), scope_refusal("planet", "earth"))


@given(policies(), openings, st.sampled_from(ZONES))
@settings(max_examples=400)
def test_due_times_go_up_and_stay_between_opening_and_end(policy: Policy, opened_at: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    due = attempt_times(policy, opened_at, zone)
    assert due == sorted(set(due))
    assert len(due) == len(policy.attempts)
    assert all(opened_at <= at <= ends_at(policy, opened_at, zone) for at in due)
    assert opened_at <= grace_until(policy, opened_at, zone) <= ends_at(policy, opened_at, zone)


@given(policies(), openings, st.sampled_from(ZONES))
@settings(max_examples=200)
def test_attempts_keep_their_time_of_day_across_changes_of_clocks(
    policy: Policy, opened_at: datetime, name: str
) -> None:
    zone = ZoneInfo(name)
    wanted = policy.at or opened_at.astimezone(zone).time()
    for day, at in zip(policy.attempts, attempt_times(policy, opened_at, zone), strict=True):
        if day == 0:
            continue  # at once, where the time of day has passed
        local = at.astimezone(zone).replace(tzinfo=None)
        date = opened_at.astimezone(zone).date() + timedelta(days=day)
        # Only where a change of clocks leaves that time out, or a day, it is another; by as much as is left out.
        assert abs(local - datetime.combine(date, wanted)) <= timedelta(days=1, hours=1)
        if policy.at is not None and timedelta(0) != local - datetime.combine(date, wanted):
            before, after_ = (at + step for step in (-timedelta(days=2), timedelta(days=2)))
            moved = before.astimezone(zone).utcoffset() != after_.astimezone(zone).utcoffset()
            assert moved or len(set(attempt_times(policy, opened_at, zone))) == len(policy.attempts)


def test_nine_in_the_morning_stays_nine_in_the_morning_when_the_clocks_change() -> None:
    policy = Policy(attempts=(1, 2, 3), time_of_day="09:00")
    opened = datetime(2026, 3, 27, 20, 0, tzinfo=UTC)  # Europe's clocks go forward on the 29th
    times = attempt_times(policy, opened, ZoneInfo("Europe/Berlin"))
    assert [f"{at:%d %H:%M}" for at in times] == ["28 08:00", "29 07:00", "30 07:00"]


def test_a_day_that_a_zone_skipped_is_no_second_attempt_at_one_moment() -> None:
    policy = Policy(attempts=(1, 2, 3), time_of_day="09:00")
    times = attempt_times(policy, datetime(2011, 12, 29, 20, 0, tzinfo=UTC), ZoneInfo("Pacific/Apia"))
    assert times == sorted(set(times))


@given(policies(), openings, st.sampled_from(ZONES), st.data())
@settings(max_examples=300)
def test_walking_a_calendar_ends_and_makes_no_more_attempts_than_the_policy(
    policy: Policy, opened_at: datetime, name: str, data: st.DataObject
) -> None:
    calendar = Calendar(policy, opened_at, ZoneInfo(name))
    progress, now, made = begin(policy, opened_at, calendar.zone), opened_at, []
    for _ in range(200):
        step = calendar.next(progress)
        assert step is not None
        now = max(now, step.at) + timedelta(days=data.draw(st.sampled_from([0, 0, 0, 9])))  # at times nobody is there
        match step.kind:
            case "attempt":
                made.append(step.at)
                progress = replace(progress, attempts=calendar.passed(progress, now))
            case "reminder":
                progress = replace(progress, reminders=calendar.passed_reminders(progress, now))
            case "attempt_reminder":
                progress = replace(progress, attempt_reminders=step.index + 1)
            case "grace_over":
                progress = replace(progress, stage="retrying", suspended=True)
            case "end":
                break
    else:
        raise AssertionError("a case that never ends")
    assert made == sorted(set(made))
    assert len(made) <= len(policy.attempts)


def test_what_nobody_made_in_an_outage_is_not_made_up_for() -> None:
    policy = PRESETS["polar"]
    opened = datetime(2026, 1, 1, tzinfo=UTC)
    calendar = Calendar(policy, opened, ZoneInfo("UTC"))
    assert calendar.passed(begin(policy, opened, calendar.zone), opened + timedelta(days=15)) == 3


def test_after_a_hard_decline_only_the_last_attempt_is_left() -> None:
    policy = PRESETS["polar"]
    opened = datetime(2026, 1, 1, tzinfo=UTC)
    calendar = Calendar(policy, opened, ZoneInfo("UTC"))
    waiting = replace(begin(policy, opened, calendar.zone), stage="awaiting_customer", attempts=1, suspended=True)
    assert [(step.kind, step.index) for step in calendar.steps(waiting)] == [("attempt", 3), ("end", 0)]
    never = Calendar(msgspec.structs.replace(policy, last_attempt_after_hard_decline=False), opened, calendar.zone)
    assert [step.kind for step in never.steps(waiting)] == ["end"]


def test_nothing_is_tried_and_nothing_ends_while_an_attempt_is_under_way() -> None:
    policy = PRESETS["polar"]
    opened = datetime(2026, 1, 1, tzinfo=UTC)
    calendar = Calendar(policy, opened, ZoneInfo("UTC"))
    busy = replace(begin(policy, opened, calendar.zone), in_flight=True)
    assert [step.kind for step in calendar.steps(busy)] == ["grace_over"]
