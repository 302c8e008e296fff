"""What Stripe's events mean for the book, and what of it is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe_shapes import CHARGE, CREATED, INVOICE, NOW, STRIPE, SUBSCRIPTION, event, translate

from billhook.errors import Unprocessable
from billhook.events import DOMAIN_EVENTS
from billhook.providers.stripe import EVENTS
from billhook.rules.book.change import Translation, tied
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import DELETED
from billhook.rules.book.payment import Charge
from billhook.rules.book.subscription import Subscription

AT = datetime.fromtimestamp(CREATED, UTC)


def told(found: Translation) -> list[str]:
    return [fact.type for fact in found.facts]


def reason(event_type: str, value: Any, **fields: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        translate(event_type, value, **fields)
    return str(error.value)


def test_a_paid_invoice_changes_the_book_and_is_told_once() -> None:
    paid = {**INVOICE, "status": "paid", "amount_paid": 1190, "amount_remaining": 0}
    found = translate("invoice.paid", paid)
    assert [(change.object.external_id, change.at) for change in found.changes] == [("in_1", AT)]
    assert told(found) == ["invoice.paid"]
    assert found.facts[0].object == found.changes[0].object
    same = translate("invoice.payment_succeeded", paid)
    assert (same.changes, same.facts) == (found.changes, ())


def test_every_public_name_in_the_table_exists_and_carries_its_kind() -> None:
    for event_type, meaning in EVENTS.items():
        if meaning.fact:
            assert meaning.fact in DOMAIN_EVENTS, event_type


def test_an_unknown_type_is_kept_and_ignored_whatever_it_carries() -> None:
    assert translate("terminal.reader.exploded", {"id": None}) == Translation()
    assert translate("invoice.upcoming", {"object": "invoice", "status": "draft"}) == Translation()
    thin = b'{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.error","created":"2026-01-01T00:00:00Z"}'
    assert STRIPE.translate({}, thin, NOW) == Translation()


def test_old_and_new_invoices_give_the_same_entry() -> None:
    line = {"id": "il_1", "amount": 1000, "quantity": 2, "period": {"start": 1, "end": 2}}
    old = {
        **INVOICE,
        "subscription": "sub_1",
        "tax": 190,
        "total_tax_amounts": [{"amount": 190, "inclusive": False}],
        "total_discount_amounts": [{"amount": 10}],
        "lines": {
            "data": [
                {
                    **line,
                    "proration": True,
                    "price": {"id": "price_1", "product": "prod_1", "unit_amount": 500, "unit_amount_decimal": "500"},
                    "tax_amounts": [{"amount": 190, "inclusive": True}],
                    "discount_amounts": [{"amount": 10}],
                }
            ]
        },
    }
    new = {
        **INVOICE,
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": {"id": "sub_1"}}},
        "total_taxes": [{"amount": 190, "tax_behavior": "exclusive"}],
        "total_discount_amounts": [{"amount": 10}],
        "lines": {
            "data": [
                {
                    **line,
                    "parent": {"invoice_item_details": None, "subscription_item_details": {"proration": True}},
                    "pricing": {
                        "price_details": {"price": "price_1", "product": "prod_1"},
                        "unit_amount_decimal": "500",
                    },
                    "taxes": [{"amount": 190, "tax_behavior": "inclusive"}],
                    "discount_amounts": [{"amount": 10}],
                }
            ]
        },
    }
    before, after = translate("invoice.created", old), translate("invoice.created", new)
    assert before == after
    invoice = before.changes[0].object
    assert isinstance(invoice, Invoice)
    assert (invoice.subscription, invoice.tax, invoice.discount) == ("sub_1", 190, 10)
    (entry,) = invoice.lines
    assert (entry.price, entry.product, entry.unit_amount, entry.quantity) == ("price_1", "prod_1", "500", "2")
    assert (entry.tax, entry.tax_inclusive, entry.discount, entry.proration) == (190, True, 10, True)


def test_an_invoice_with_more_lines_than_the_event_says_so() -> None:
    (change,) = translate("invoice.created", {**INVOICE, "lines": {"data": [], "has_more": True}}).changes
    assert isinstance(change.object, Invoice)
    assert not change.object.lines_complete


def test_a_subscription_has_the_period_of_the_item_that_is_billed_next() -> None:
    items = [
        {"id": "si_year", "price": {"id": "p1"}, "current_period_start": 100, "current_period_end": 900},
        {
            "id": "si_month",
            "plan": {"id": "p2", "product": "prod"},
            "current_period_start": 200,
            "current_period_end": 300,
        },
    ]
    (change,) = translate("customer.subscription.updated", {**SUBSCRIPTION, "items": {"data": items}}).changes
    value = change.object
    assert isinstance(value, Subscription)
    assert (value.current_period_start, value.current_period_end) == tuple(
        datetime.fromtimestamp(seconds, UTC) for seconds in (200, 300)
    )
    assert [(item.price, item.product) for item in value.items] == [("p1", None), ("p2", "prod")]


def test_a_charge_speaks_for_itself_only_without_a_payment_behind_it() -> None:
    assert told(translate("charge.succeeded", CHARGE)) == ["charge.succeeded"]
    for intent in ("pi_1", {"id": "pi_1", "object": "payment_intent"}):
        found = translate("charge.succeeded", {**CHARGE, "payment_intent": intent})
        assert told(found) == []
        assert isinstance(found.changes[0].object, Charge)
        assert found.changes[0].object.payment == "pi_1"


def test_an_older_charge_brings_its_refunds_along() -> None:
    refund = {"id": "re_1", "charge": "ch_1", "currency": "eur", "amount": 90, "status": None}
    found = translate("charge.refunded", {**CHARGE, "amount_refunded": 90, "refunds": {"data": [refund]}})
    assert [change.object.kind for change in found.changes] == ["charge", "refund"]
    assert told(found) == ["charge.refunded"]
    assert found.facts[0].object.kind == "charge"


@pytest.mark.parametrize("event_type", ["customer.deleted", "product.deleted", "price.deleted", "plan.deleted"])
def test_what_is_left_of_a_deleted_object_is_enough(event_type: str) -> None:
    for left in ({"id": "x", "deleted": True}, {"id": "x"}, {"id": "x", "name": "n", "currency": "eur"}):
        (change,) = translate(event_type, left).changes
        assert change.object.deleted
        assert change.object.rank == DELETED


def test_a_deletion_is_never_a_tie_that_the_provider_must_settle() -> None:
    (alive,) = translate("product.updated", {"id": "p", "name": "n"}).changes
    (deleted,) = translate("product.deleted", {"id": "p", "name": "n"}).changes
    assert not tied(alive.version, deleted)
    assert not tied(deleted.version, alive)
    assert alive.version < deleted.version


def test_a_deleted_draft_is_deleted_whatever_its_status_is_called() -> None:
    for status in ("draft", "deleted"):
        (change,) = translate("invoice.deleted", {**INVOICE, "status": status}).changes
        assert isinstance(change.object, Invoice)
        assert (change.object.deleted, change.object.status) == (True, "draft")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"currency": "zzz"}, "'zzz' is not a currency"),
        ({"currency": "EUR"}, "`data.object.currency`"),
        ({"currency": "eur\n"}, "`data.object.currency`"),
        ({"status": 7}, "Expected `str`, got `int` - at `data.object.status`"),
        ({"total": "12"}, "Expected `int`, got `str` - at `data.object.total`"),
        ({"total": 2**63}, "`data.object.total`"),
        ({"total": 10**400}, "`data.object.total`"),
        ({"total": 1.5}, "`data.object.total`"),
        ({"attempt_count": -1}, "`data.object.attempt_count`"),
        ({"created": 10**12}, "`data.object.created`"),
        ({"due_date": -5}, "`data.object.due_date`"),
        ({"customer": {"object": "customer"}}, "missing required field `id` - at `data.object.customer`"),
        ({"customer": "c" * 256}, "`data.object.customer`"),
        ({"id": ""}, "`data.object.id`"),
        ({"metadata": {"a": 1}}, "`data.object.metadata[...]`"),
        ({"number": "A\0"}, "text without NUL characters expected - at `number`"),
        ({"metadata": {"a\0": "b"}}, "NUL"),
        ({"lines": {"data": [{"id": "il_1"}]}}, "missing required field `amount` - at `data.object.lines.data[0]`"),
        ({"total_taxes": [{"amount": 2**62}, {"amount": 2**62}]}, "`data.object.total_taxes[0].amount`"),
    ],
)
def test_what_cannot_be_understood_says_where_and_why(change: dict[str, Any], said: str) -> None:
    text = reason("invoice.paid", {**INVOICE, **change})
    assert text.startswith("invoice.paid: ")
    assert said in text


def test_a_missing_field_is_named() -> None:
    without = {name: value for name, value in INVOICE.items() if name != "currency"}
    assert "missing required field `currency`" in reason("invoice.paid", without)
    assert "missing required field `name`" in reason("product.updated", {"id": "prod_1"})
    assert "missing required field `currency`" in reason("price.created", {"id": "price_1"})
    assert "`created`" in reason("invoice.paid", INVOICE, created="2026-01-01")
    assert "`data`" in reason("invoice.paid", INVOICE, data=None)


def test_a_nul_that_billhook_does_not_read_hurts_nobody() -> None:
    assert told(translate("invoice.paid", {**INVOICE, "unread": "\0"})) == ["invoice.paid"]


def test_nesting_deeper_than_the_stack_is_a_reason_too() -> None:
    body = event("invoice.paid", INVOICE).replace(b'"in_1"', b'"in_1","x":' + b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(Unprocessable):
        STRIPE.translate({}, body, NOW)


def test_facts_do_not_depend_on_what_came_before() -> None:
    body = event("customer.subscription.deleted", {**SUBSCRIPTION, "status": "canceled"})
    assert STRIPE.translate({}, body, NOW) == STRIPE.translate({}, body, AT)
    assert told(STRIPE.translate({}, body, NOW)) == ["subscription.canceled"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def with_fields_of(event_type: str) -> st.SearchStrategy[tuple[str, Any]]:
    names = msgspec.structs.fields(EVENTS[event_type].read_as)
    whole = st.fixed_dictionaries({}, optional={field.encode_name: JSON for field in names})
    plausible = st.fixed_dictionaries(
        {"id": st.just("x"), "currency": st.sampled_from(["eur", "xxz"]), "amount": st.integers()},
        optional={"status": st.sampled_from(["paid", "active", "succeeded"]), "metadata": JSON, "created": JSON},
    )
    return st.tuples(st.just(event_type), JSON | whole | plausible)


@given(st.sampled_from(sorted(EVENTS)).flatmap(with_fields_of))
def test_any_json_is_either_understood_or_has_a_reason(sent: tuple[str, Any]) -> None:
    try:
        found = translate(*sent)
    except Unprocessable as error:
        assert str(error).startswith(f"{sent[0]}: ")  # noqa: PT017
    else:
        assert found.changes
        msgspec.json.encode(found)
