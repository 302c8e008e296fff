"""What Paddle's notifications mean for the book, and under which names merchants hear of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from paddle_shapes import adjustment, transaction, translate, tried

from billhook.errors import Unprocessable
from billhook.events import DOMAIN_EVENTS
from billhook.providers.paddle import EVENTS
from billhook.providers.paddle_transactions import Terms, after
from billhook.rules.book.objects import BookObject

DECLINED = tried("error", error_code="declined")
CAPTURED = tried("captured", "try_2", created_at="2026-03-01T11:40:00Z", captured_at="2026-03-01T11:41:00.25Z")
PAID = transaction(
    "paid",
    payments=[CAPTURED, DECLINED],
    details=transaction()["details"]
    | {
        "totals": {
            "subtotal": "1000",
            "discount": "100",
            "tax": "171",
            "total": "1071",
            "grand_total": "1071",
            "balance": "0",
        }
    },
)


def told(event_type: str, data: Any) -> list[str]:
    return [fact.type for fact in translate(event_type, data).facts]


def objects(event_type: str, data: Any) -> dict[str, BookObject]:
    """The last of each kind."""
    return {change.object.kind: change.object for change in translate(event_type, data).changes}


def test_every_name_it_is_told_under_is_public() -> None:
    assert {name for meaning in EVENTS.values() for name in meaning.facts} <= DOMAIN_EVENTS.keys()


def test_a_renewal_is_told_in_the_words_merchants_know() -> None:
    assert told("transaction.created", transaction("billed")) == ["invoice.created"]
    assert told("transaction.billed", transaction("billed")) == ["invoice.finalized"]
    failed = transaction("billed", payments=[DECLINED])
    assert told("transaction.payment_failed", failed) == ["payment.failed", "invoice.payment_failed"]
    assert told("transaction.past_due", transaction("past_due", payments=[DECLINED])) == ["invoice.overdue"]
    assert told("transaction.paid", PAID) == ["payment.succeeded"]
    assert told("transaction.completed", PAID | {"status": "completed"}) == ["invoice.paid"]


def test_a_transaction_for_nothing_is_paid_without_a_payment() -> None:
    totals = {"subtotal": "0", "tax": "0", "total": "0", "grand_total": "0", "balance": "0"}
    free = transaction("completed", billed_at="2026-03-01T11:00:00Z", details={"totals": totals})
    assert told("transaction.paid", free) == []
    assert told("transaction.completed", free) == ["invoice.paid"]
    invoice = objects("transaction.completed", free)["invoice"]
    assert invoice.paid_at == datetime(2026, 3, 1, 11, tzinfo=UTC)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "payments", "expected"),
    [
        ("ready", [DECLINED], ("requires_payment_method", 0, "declined")),
        ("ready", [tried("action_required")], ("requires_action", 0, None)),
        ("ready", [tried("authorized")], ("requires_capture", 0, None)),
        ("billed", [tried("pending_no_action_required")], ("processing", 0, None)),
        ("billed", [tried("a_status_of_tomorrow")], ("processing", 0, None)),
        ("paid", [CAPTURED, DECLINED], ("succeeded", 1071, None)),
        ("canceled", [DECLINED], ("canceled", 0, None)),
        ("billed", [tried("captured", amount="71")], ("processing", 71, None)),
    ],
)
def test_the_last_try_says_what_a_payment_waits_for(status: str, payments: list[Any], expected: Any) -> None:
    payment: Any = objects("transaction.updated", transaction(status, payments=payments))["payment"]
    assert (payment.status, payment.amount_received, payment.failure_code) == expected


def test_a_try_to_pay_is_a_later_state_though_the_transaction_keeps_its_time() -> None:
    before = translate("transaction.ready", transaction("ready")).changes[0]
    failed = translate("transaction.payment_failed", transaction("ready", payments=[DECLINED])).changes[0]
    assert failed.version > before.version
    assert failed.at == datetime(2026, 3, 1, 11, 30, 0, 500_000, UTC)


def test_credit_lowers_what_is_due_and_not_the_total() -> None:
    totals = {"subtotal": "1000", "tax": "0", "total": "1000", "credit": "300", "grand_total": "700", "balance": "700"}
    invoice: Any = objects("transaction.billed", transaction("billed", details={"totals": totals}))["invoice"]
    assert (invoice.total, invoice.amount_due, invoice.amount_paid, invoice.amount_remaining) == (1000, 700, 0, 700)


@pytest.mark.parametrize(
    ("action", "status", "created", "updated"),
    [
        ("refund", "pending_approval", ["refund.created"], ["refund.updated"]),
        ("refund", "approved", ["refund.created", "credit_note.created"], ["refund.updated", "credit_note.created"]),
        ("refund", "rejected", ["refund.created"], ["refund.failed"]),
        ("refund", "reversed", ["refund.created", "credit_note.created"], ["refund.updated", "credit_note.voided"]),
        ("credit", "approved", ["credit_note.created"], ["credit_note.updated"]),
        ("credit", "reversed", ["credit_note.created"], ["credit_note.voided"]),
        ("chargeback", "approved", ["dispute.created"], ["dispute.updated"]),
        ("chargeback", "reversed", ["dispute.created"], ["dispute.closed"]),
        ("chargeback_warning", "approved", ["dispute.created"], ["dispute.updated"]),
        ("chargeback_reverse", "approved", [], []),
        ("an_action_of_tomorrow", "approved", [], []),
    ],
)
def test_adjustments_are_refunds_credit_notes_and_disputes(
    action: str, status: str, created: list[str], updated: list[str]
) -> None:
    assert told("adjustment.created", adjustment(action, status)) == created
    assert told("adjustment.updated", adjustment(action, status)) == updated


def test_an_approved_refund_names_its_payment_and_is_noted_on_its_invoice() -> None:
    found: Any = objects("adjustment.updated", adjustment("refund", "approved"))
    refund, note = found["refund"], found["credit_note"]
    assert (refund.payment, refund.amount, refund.currency, refund.status) == ("txn_1", 100, "eur", "succeeded")
    assert (note.invoice, note.refund, note.subtotal, note.tax, note.total) == ("txn_1", "adj_1", 92, 8, 100)


@pytest.mark.parametrize(
    ("terms", "due"),
    [
        (Terms("day", 14), datetime(2026, 2, 14, 9, tzinfo=UTC)),
        (Terms("week", 2), datetime(2026, 2, 14, 9, tzinfo=UTC)),
        (Terms("month", 1), datetime(2026, 2, 28, 9, tzinfo=UTC)),
        (Terms("month", 12), datetime(2027, 1, 31, 9, tzinfo=UTC)),
        (Terms("year", 2), datetime(2028, 1, 31, 9, tzinfo=UTC)),
        (Terms("day", 0), datetime(2026, 1, 31, 9, tzinfo=UTC)),
    ],
)
def test_terms_count_from_the_day_it_was_billed(terms: Terms, due: datetime) -> None:
    assert after(datetime(2026, 1, 31, 9, tzinfo=UTC), terms) == due


def test_a_change_that_is_scheduled_is_a_cancellation_only_if_it_says_so() -> None:
    def subscription(action: str) -> Any:
        change = {"action": action, "effective_at": "2026-04-01T00:00:00Z"}
        return objects(
            "subscription.updated",
            {"id": "sub_1", "status": "active", "items": [], "scheduled_change": change, "currency_code": "EUR"},
        )["subscription"]

    assert subscription("cancel").cancel_at_period_end
    assert subscription("cancel").cancel_at == datetime(2026, 4, 1, tzinfo=UTC)
    assert not subscription("pause").cancel_at_period_end


def test_custom_data_of_any_shape_is_kept_as_text() -> None:
    custom = {"order": "A-1", "seats": 3, "features": {"b": True, "a": None}, "nothing": None}
    customer = objects("customer.created", {"id": "ctm_1", "email": "ada@example.com", "custom_data": custom})[
        "customer"
    ]
    assert customer.metadata == {"order": "A-1", "seats": "3", "features": '{"a":null,"b":true}'}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (transaction(currency_code="ZZZ"), "transaction.updated: 'zzz' is not a currency"),
        (transaction(currency_code="usd"), "currency_code"),
        (
            transaction(details={"totals": {"subtotal": "1.5", "tax": "0", "total": "0"}}),
            "data.details.totals.subtotal",
        ),
        (transaction(details={"totals": {"subtotal": 15, "tax": "0", "total": "0"}}), "data.details.totals.subtotal"),
        (transaction(details={"totals": {"subtotal": "9" * 19, "tax": "0", "total": "0"}}), "totals.subtotal"),
        (transaction(origin="a\0b"), "NUL"),
        (transaction(updated_at="2026-03-01T11:00:00"), "data.updated_at"),
        (transaction(updated_at="9999-12-31T23:59:59Z"), "data.updated_at"),
        (transaction("a_status_of_tomorrow"), "data.status"),
        ({}, "data"),
    ],
)
def test_what_cannot_be_understood_says_what_and_where(data: Any, reason: str) -> None:
    with pytest.raises(Unprocessable) as error:
        translate("transaction.updated", data)
    assert reason in str(error.value)
    assert str(error.value).startswith("transaction.updated")


def test_a_type_that_nobody_knows_is_ignored() -> None:
    assert translate("galaxy.collided", {"id": 1}).changes == ()
