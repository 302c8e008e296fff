"""What a merchant reads when its endpoint fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.notices import failing_notice

SINCE = datetime(2026, 11, 21, 11, 30, tzinfo=UTC)
GIVEN: dict[str, Any] = {
    "merchant_name": "Acme Ltd",
    "url": "https://hooks.acme.test:8443/billing",
    "endpoint_id": "ep_1",
    "failing_since": SINCE,
    "last_error": "the endpoint answered 503",
    "disables_at": SINCE + timedelta(days=5),
}
STAGES = {
    "first": timedelta(hours=12, minutes=1),
    "half": timedelta(days=2, hours=12),
    "disabled": timedelta(days=5),
    "gone": timedelta(0),
}


def notice(stage: str, **changed: Any) -> tuple[str, str]:
    return failing_notice(**{**GIVEN, "stage": stage, "now": SINCE + STAGES[stage], **changed})


def flowing(text: str) -> str:
    return " ".join(text.split())


def test_a_notice_reads_like_a_letter() -> None:
    assert notice("half") == (
        "Webhook endpoint is still failing: hooks.acme.test:8443",
        """\
Hello Acme Ltd,

Your webhook endpoint has been failing for 2 days 12 hours, which is
half of the time it is given.

  Endpoint:       https://hooks.acme.test:8443/billing
  Id:             ep_1
  Failing since:  2026-11-21 11:30 UTC
  Last error:     the endpoint answered 503

What happens next: If nothing has arrived by 2026-11-26 11:30 UTC, the
endpoint will be disabled.

What you can do: Make it answer with a 2xx status, and promptly. The
first message that arrives ends the alarm.
""",
    )


@pytest.mark.parametrize(
    "stage, subject, said",
    [
        ("first", "is failing", ["failing for 12 hours 1 minute.", "by 2026-11-26 11:30 UTC, the endpoint will be"]),
        ("half", "is still failing", ["by 2026-11-26 11:30 UTC, the endpoint will be disabled"]),
        ("disabled", "was disabled", ["disabled at 2026-11-26 11:30 UTC: it has been failing for 5 days.", "replay"]),
        ("gone", "was disabled", ["disabled at 2026-11-21 11:30 UTC: it answered 410 Gone", "/ep_1/enable"]),
    ],
)
def test_each_stage_says_what_happened_and_what_follows(stage: str, subject: str, said: list[str]) -> None:
    headline, text = notice(stage)
    assert headline == f"Webhook endpoint {subject}: hooks.acme.test:8443"
    for words in [*said, "https://hooks.acme.test:8443/billing", "ep_1", "the endpoint answered 503"]:
        assert words in flowing(text)
    assert max(map(len, text.splitlines())) <= 72


def test_times_are_in_utc_wherever_they_come_from() -> None:
    there = timezone(timedelta(hours=-8))
    changed = {name: value.astimezone(there) for name, value in GIVEN.items() if isinstance(value, datetime)}
    assert notice("half", **changed) == notice("half")


def test_a_query_is_not_shown_since_it_may_hold_a_token() -> None:
    for stage in STAGES:
        assert "hunter2" not in " ".join(notice(stage, url="https://hooks.acme.test/billing?token=hunter2#hunter2"))


@given(st.text(max_size=400), st.text(max_size=4000), st.sampled_from(sorted(STAGES)))
def test_names_and_errors_of_others_stay_on_their_line(name: str, error: str, stage: str) -> None:
    subject, text = notice(stage, merchant_name=name, last_error=error)
    ordinary_subject, ordinary = notice(stage)
    assert subject == ordinary_subject
    assert len(text.splitlines()) == len(ordinary.splitlines())
    assert len(text) < len(ordinary) + len(name) + 300
