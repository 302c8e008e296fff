"""What a policy would do, played through in a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.dunning import ended
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.dunning_simulation import PAID, simulate, timeline

OPENED = datetime(2026, 3, 1, 10, 17, 3, tzinfo=UTC)
HERE = ZoneInfo("Europe/Berlin")


def test_a_policy_that_nothing_helps() -> None:
    moments = simulate(PRESETS["polar"], OPENED, HERE)
    assert [moment.what for moment in moments] == [
        "opened",
        "attempt 1: insufficient_funds",
        "attempt 2: insufficient_funds",
        "grace is over",
        "attempt 3: insufficient_funds",
        "attempt 4: insufficient_funds",
        "final action: cancel_subscription",
    ]
    assert timeline(moments, HERE) == "o.x....x......x......!"


def test_the_bank_says_yes_in_the_end() -> None:
    moments = simulate(PRESETS["polar"], OPENED, HERE, ["insufficient_funds", PAID])
    assert (moments[-1].what, moments[-1].stage) == ("recovered by attempt 2", "recovered")
    assert timeline(moments, HERE).endswith("+")


def test_a_stolen_card_is_tried_once_more() -> None:
    whats = [moment.what for moment in simulate(PRESETS["polar"], OPENED, HERE, ["stolen_card"])]
    assert [what for what in whats if what.startswith("attempt")] == [
        "attempt 1: stolen_card",
        "attempt 2: stolen_card",
    ]


def test_money_that_comes_by_itself_ends_it() -> None:
    moments = simulate(PRESETS["kill-bill"], OPENED, HERE, paid_at=OPENED + timedelta(days=9))
    assert [moment.stage for moment in moments] == ["grace", "grace", "recovered"]


@pytest.mark.parametrize("name", PRESETS)
@given(
    codes=st.lists(st.sampled_from(["insufficient_funds", "stolen_card", "authentication_required", PAID]), max_size=9)
)
def test_every_simulation_ends_and_keeps_to_its_policy(name: str, codes: list[str]) -> None:
    moments = simulate(PRESETS[name], OPENED, HERE, codes)
    assert ended(moments[-1].stage)
    assert [moment.at for moment in moments] == sorted(moment.at for moment in moments)
    assert sum(moment.mark == "x" for moment in moments) <= len(PRESETS[name].attempts)
    assert timeline(moments, HERE)[-1] in "+!"
