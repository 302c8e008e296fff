"""Of two states of one object, which is the later one."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.events import DOMAIN_EVENTS
from billhook.rules.book.change import Change, tied
from billhook.rules.book.checkout import CheckoutSession
from billhook.rules.book.customer import Customer
from billhook.rules.book.invoice import CreditNote, Invoice, InvoicePayment, InvoiceStatus
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import DELETED
from billhook.rules.book.payment import Charge, Dispute, Payment, Refund
from billhook.rules.book.subscription import Subscription
from billhook_testing.conformance import latest

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def invoice(status: str = "open", **fields: Any) -> Invoice:
    amounts = {"subtotal": 1, "total": 1, "amount_due": 1, "amount_paid": 0, "amount_remaining": 1}
    return Invoice(external_id="in_1", status=status, currency="eur", **{**amounts, **fields})  # type: ignore[arg-type]


def payment(status: str, **fields: Any) -> Payment:
    return Payment(external_id="pi_1", status=status, currency="eur", amount=1, **fields)  # type: ignore[arg-type]


def charge(status: str = "succeeded", **fields: Any) -> Charge:
    return Charge(external_id="ch_1", status=status, currency="eur", amount=1, **fields)  # type: ignore[arg-type]


def subscription(status: str) -> Subscription:
    return Subscription(external_id="sub_1", status=status)  # type: ignore[arg-type]


def dispute(status: str) -> Dispute:
    return Dispute(external_id="dp_1", currency="eur", amount=1, status=status)


LIVES: dict[str, list[Any]] = {
    "an invoice": [
        invoice("draft"),
        invoice("open"),
        invoice("open", attempt_count=1),
        invoice("open", attempt_count=4),
        invoice("uncollectible", attempt_count=4),
        invoice("paid", attempt_count=1),
        invoice("void"),
    ],
    "a subscription": [subscription(s) for s in ("incomplete", "trialing", "active", "past_due", "unpaid", "canceled")],
    "a payment": [
        payment("requires_payment_method"),
        payment("requires_confirmation"),
        payment("requires_action"),
        payment("processing"),
        payment("requires_payment_method", failure_code="card_declined"),
        payment("requires_capture"),
        payment("canceled"),
        payment("succeeded"),
    ],
    "a charge": [
        charge("pending"),
        charge(),
        charge(amount_captured=1),
        charge(amount_captured=1, disputed=True),
        charge(amount_captured=1, amount_refunded=1),
        charge(amount_captured=1, amount_refunded=1, disputed=True),
    ],
    "an invoice payment": [
        InvoicePayment(external_id="inpay_1", invoice="in_1", currency="eur", status=s)
        for s in ("open", "canceled", "paid")
    ],
    "a refund": [
        Refund(external_id="re_1", currency="eur", amount=1, status=s)
        for s in ("pending", "requires_action", "succeeded", "failed")
    ],
    "a credit note": [
        CreditNote(external_id="cn_1", invoice="in_1", status=s, currency="eur", subtotal=1, total=1)
        for s in ("issued", "void")
    ],
    "a dispute": [dispute(s) for s in ("warning_needs_response", "needs_response", "under_review", "lost")],
    "a checkout": [CheckoutSession(external_id="cs_1", status=s) for s in ("open", "expired", "complete")],
}


@pytest.mark.parametrize("life", list(LIVES.values()), ids=list(LIVES))
def test_within_one_second_the_state_further_along_is_the_later_one(life: list[Any]) -> None:
    for earlier, later in itertools.pairwise(life):
        assert Change(earlier, NOW).version < Change(later, NOW).version
    for state in life:
        gone = msgspec.structs.replace(state, deleted=True)
        assert gone.rank == DELETED
        assert Change(state, NOW).version < Change(gone, NOW).version


def test_every_state_an_invoice_can_have_stays_below_deleted() -> None:
    statuses = get_args(InvoiceStatus)
    assert max(invoice(status, attempt_count=10**6).rank for status in statuses) < DELETED
    assert invoice("open", attempt_count=10**6).rank < invoice("uncollectible").rank


def test_a_status_nobody_knows_ranks_lowest_and_breaks_nothing() -> None:
    assert dispute("invented_tomorrow").rank == 0


def test_what_was_fetched_settles_its_second_and_no_later_one() -> None:
    fetched = Change(invoice("open"), NOW, asked_at=NOW)
    assert fetched.version > Change(invoice("void"), NOW).version
    assert fetched.version < Change(invoice("draft"), NOW, asked_at=NOW + SECOND).version
    assert fetched.version < Change(invoice("draft", deleted=True), NOW).version
    assert fetched.version < Change(invoice("draft"), NOW + SECOND).version


def test_two_states_of_one_second_are_tied_and_only_then() -> None:
    known = Change(invoice("open"), NOW)
    other = invoice("open", description="changed")
    assert tied(known.version, Change(other, NOW))
    assert not tied(known.version, known)
    assert not tied(known.version, Change(other, NOW + SECOND))
    assert not tied(known.version, Change(other, NOW, asked_at=NOW))


def test_a_deletion_is_nobodys_tie() -> None:
    here, gone = Customer(external_id="cus_1"), Customer(external_id="cus_1", deleted=True)
    assert not tied(Change(here, NOW).version, Change(gone, NOW))
    assert not tied(Change(gone, NOW).version, Change(here, NOW))


def test_equal_content_has_an_equal_digest_whatever_the_order_of_its_metadata() -> None:
    one, two = (
        Customer(external_id="cus_1", metadata=dict(pairs))
        for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")])
    )
    assert Change(one, NOW).version == Change(two, NOW).version


customers = st.builds(Customer, external_id=st.sampled_from(["a", "b"]), name=st.sampled_from([None, "x", "y"]))
changes = st.builds(
    Change,
    customers,
    st.integers(0, 2).map(lambda n: NOW + n * SECOND),
    st.sampled_from([None, NOW + 2 * SECOND, NOW + 3 * SECOND]),
)


@given(st.lists(changes, max_size=8), st.randoms())
def test_the_latest_states_do_not_depend_on_the_order_they_came_in(happened: list[Change], rng: Any) -> None:
    shuffled = [*happened, *happened]
    rng.shuffle(shuffled)
    kept = latest(shuffled)
    assert kept == latest(happened)
    assert [change.object.external_id for change in kept] == sorted({c.object.external_id for c in happened})
    for change in happened:
        [newest] = [k for k in kept if k.object.external_id == change.object.external_id]
        assert newest.version >= change.version


def test_every_kind_that_events_speak_of_is_in_the_book_under_its_own_prefix() -> None:
    assert {kind for kind, _ in DOMAIN_EVENTS.values()} <= set(KINDS)
    assert len({value.prefix for value in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("broken", ['{"external_id": ""}', '{"external_id": "x", "created": "2026-01-05T09:00:00"}'])
def test_an_empty_id_and_a_time_without_a_zone_are_refused(broken: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(broken, type=Customer)
