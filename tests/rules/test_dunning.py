"""The life of a dunning case as a table: what may follow what, and that every case can end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.book.invoice import Invoice
from billhook.rules.dunning import AFTER, CAUSES, OPEN, STAGES, Cause, Stage, after, ended, invoice_cause, picture
from billhook.rules.dunning_policy import PRESETS

CLOSING = ("paid", "credited", "voided", "written_off", "subscription_ended", "customer_deleted", "stopped")


def invoice(**fields: object) -> Invoice:
    amounts = {"subtotal": 100, "total": 100, "amount_due": 100, "amount_paid": 0, "amount_remaining": 100}
    return Invoice(**{"external_id": "in_1", "status": "open", "currency": "eur", **amounts, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", OPEN)
@pytest.mark.parametrize("cause", CLOSING)
def test_what_settles_the_invoice_ends_a_case_whatever_it_is_at(stage: Stage, cause: Cause) -> None:
    follows = after(stage, cause)
    assert follows == ("recovered" if cause == "paid" else "canceled")
    assert ended(follows)


@given(st.lists(st.sampled_from(CAUSES)))
def test_an_end_is_an_end(causes: list[Cause]) -> None:
    stage: Stage = "grace"
    closed: Stage | None = None
    for cause in causes:
        stage = after(stage, cause) or stage
        assert closed in (None, stage)
        closed = stage if ended(stage) else None
        assert ended(stage) or after(stage, "deadline") == "exhausted"


def test_every_stage_is_reached_and_every_cause_does_something() -> None:
    reached = {"scheduled", "grace"} | {stage for row in AFTER.values() for stage in row.values()}
    assert reached == set(STAGES)
    assert {cause for row in AFTER.values() for cause in row} == set(CAUSES)


def test_only_the_customer_ends_waiting_for_the_customer() -> None:
    waits = AFTER["awaiting_customer"]
    assert [cause for cause, stage in waits.items() if stage == "retrying"] == ["method_added"]


def test_an_invoice_says_whether_there_is_still_something_to_collect() -> None:
    assert invoice_cause(invoice()) is None
    assert invoice_cause(invoice(status="paid", amount_paid=100, amount_remaining=0)) == "paid"
    assert invoice_cause(invoice(status="paid", amount_due=0, amount_remaining=0)) == "credited"
    assert invoice_cause(invoice(status="void")) == "voided"
    assert invoice_cause(invoice(status="uncollectible")) == "written_off"
    assert invoice_cause(invoice(status="draft", deleted=True)) == "invoice_deleted"


def test_the_documentation_shows_the_table_and_the_presets_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dunning.md").read_text()
    assert picture() in page
    assert all(stage in picture() for stage in STAGES)
    for name, policy in PRESETS.items():
        days = ", ".join(map(str, policy.attempts)) or "none"
        reminders = ", ".join(str(reminder.day) for reminder in policy.reminders) or "none"
        row = f"| `{name}` | {policy.owner} | {days} | {reminders} | {policy.grace_days} | {policy.end_day} |"
        assert f"{row} {policy.final_action} |" in page
