"""Paddle's own samples of every notification go through, in any order."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle_shapes import PADDLE, event, recorded, translate

from billhook.providers.paddle import EVENTS, IGNORED
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import BookObject
from billhook_testing.conformance import latest


def test_every_recorded_notification_has_an_effect_or_is_ignored_for_a_reason(recordings: Path) -> None:
    found = recorded(recordings)
    assert len(found) == 56
    for event_type, data in found.items():
        assert PADDLE.open({}, event(event_type, data)).type == event_type
        told = translate(event_type, data)
        assert bool(told.changes) == (event_type in EVENTS), event_type
        assert event_type in EVENTS or IGNORED[event_type.partition(".")[0]], event_type


def told(recordings: Path, event_type: str) -> list[Any]:
    return [change.object for change in translate(event_type, recorded(recordings)[event_type]).changes]


def test_a_completed_transaction_is_a_paid_invoice_its_payment_and_two_tries(recordings: Path) -> None:
    invoice, payment, declined, captured = told(recordings, "transaction.completed")
    assert isinstance(invoice, Invoice)
    assert (invoice.number, invoice.status, invoice.currency) == ("325-10566", "paid", "usd")
    assert (invoice.subtotal, invoice.tax, invoice.total) == (59900, 5315, 65215)
    assert (invoice.amount_due, invoice.amount_paid, invoice.amount_remaining) == (65215, 65215, 0)
    assert invoice.paid_at == datetime(2024, 4, 12, 10, 18, 47, 635628, UTC)
    assert [(line.description, line.quantity, line.unit_amount, line.amount) for line in invoice.lines] == [
        ("AeroEdit Pro", "10", "3000", 30000),
        ("Analytics addon", "1", "10000", 10000),
        ("Custom domains", "1", "19900", 19900),
    ]
    assert sum(line.amount - line.discount + line.tax for line in invoice.lines) == invoice.total
    assert (payment.status, payment.amount_received, payment.invoice) == ("succeeded", 65215, invoice.external_id)
    assert (declined.status, declined.failure_code, declined.amount_captured) == ("failed", "declined", 0)
    assert (captured.status, captured.amount_captured) == ("succeeded", 65215)
    assert {declined.payment, captured.payment} == {payment.external_id}


def test_an_issued_invoice_is_due_by_its_terms_and_its_cancellation_voids_it(recordings: Path) -> None:
    [issued] = told(recordings, "transaction.billed")
    assert (issued.status, issued.discount, issued.amount_remaining) == ("open", 281990, 2763149)
    assert issued.due_at == datetime(2024, 4, 26, 10, 30, 27, 198043, UTC)
    [canceled] = told(recordings, "transaction.canceled")
    assert (canceled.status, canceled.number, canceled.voided_at is not None) == ("void", "325-10567", True)


def test_a_subscription_is_read_whole(recordings: Path) -> None:
    [subscription] = told(recordings, "subscription.activated")
    assert (subscription.status, subscription.currency) == ("active", "usd")
    assert subscription.current_period_end == datetime(2024, 5, 12, 10, 18, 47, 635628, UTC)
    assert [item.quantity for item in subscription.items] == [10, 1]
    assert all(item.price and item.product for item in subscription.items)


def test_an_activation_stamped_before_the_creation_leaves_the_same_book(recordings: Path) -> None:
    samples = recorded(recordings)
    early, late = "2024-04-12T10:18:49.621022Z", "2024-04-12T10:18:49.638Z"
    activated = translate("subscription.activated", samples["subscription.activated"], occurred_at=early)
    created = translate("subscription.created", samples["subscription.created"], occurred_at=late)
    assert activated.changes == created.changes
    assert [fact.type for fact in (*activated.facts, *created.facts)] == ["subscription.created"]


@functools.cache
def all_changes(recordings: Path) -> list[Change]:
    return [
        change for event_type, data in recorded(recordings).items() for change in translate(event_type, data).changes
    ]


@given(st.data())
def test_any_permutation_and_repetition_ends_in_the_same_book(recordings: Path, data: st.DataObject) -> None:
    changes = all_changes(recordings)
    again = data.draw(st.lists(st.sampled_from(changes), max_size=20))
    shuffled = data.draw(st.permutations(changes + again))
    assert latest(shuffled) == latest(changes)


@pytest.mark.parametrize(
    ("kind", "external_id", "expected"),
    [
        ("invoice", "txn_01hv8wptq8987qeep44cyrewp9", {"status": "paid", "number": "325-10566"}),
        ("invoice", "txn_01hv8m0mnx3sj85e7gxc6kga03", {"status": "void"}),
        ("payment", "txn_01hv8wptq8987qeep44cyrewp9", {"status": "succeeded"}),
        ("subscription", "sub_01hv8x29kz0t586xy6zn1a62ny", {"status": "past_due"}),
    ],
)
def test_the_book_ends_with_the_last_state(
    recordings: Path, kind: str, external_id: str, expected: dict[str, Any]
) -> None:
    def of(change: Change) -> BookObject | None:
        value = change.object
        return value if (value.kind, value.external_id) == (kind, external_id) else None

    [value] = [value for change in latest(all_changes(recordings)) if (value := of(change)) is not None]
    assert {name: getattr(value, name) for name in expected} == expected
