"""The fake's billing, told through the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import pytest
import stripe

from billhook_testing.fake_stripe import ApiError, FakeClock, FakeStripe, Policy


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


def subscribed(fake: FakeStripe, card: str = "pm_card_visa", **fields: object) -> stripe.Subscription:
    """A customer who holds a card and a subscription of 19.00 a month."""
    v1 = fake.client().v1
    customer = v1.customers.create({"email": "ada@example.com", "name": "Ada"})
    method = v1.payment_methods.attach(card, {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    price = monthly(fake, 1900)
    params = {"customer": customer.id, "items": [{"price": price.id}], **fields}
    return v1.subscriptions.create(params)  # type: ignore[arg-type]


def monthly(fake: FakeStripe, amount: int) -> stripe.Price:
    v1 = fake.client().v1
    product = v1.products.create({"name": "Pro"})
    return v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": amount, "recurring": {"interval": "month"}}
    )


def types(fake: FakeStripe, after: int = 0) -> list[str]:
    return [event["type"] for event in fake.events[after:]]


def test_a_life_from_first_payment_to_credit_note(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake)
    assert subscription.status == "active"
    customer = str(subscription.customer)

    # The card stops working before the second period: the renewal fails.
    fake.decline(customer, "insufficient_funds")
    fake.advance(days=29)
    assert v1.subscriptions.retrieve(subscription.id).status == "past_due"
    invoice = v1.invoices.list({"customer": customer, "status": "open"}).data[0]
    assert (invoice.attempt_count, invoice.amount_remaining) == (1, 1900)
    assert invoice.next_payment_attempt == invoice.created + 3600 + 3 * 86_400

    # The customer calls their bank, and the invoice is paid by hand.
    fake.accept(customer)
    paid = v1.invoices.pay(invoice.id)
    assert (paid.status, paid.amount_paid, paid.next_payment_attempt) == ("paid", 1900, None)
    assert v1.subscriptions.retrieve(subscription.id).status == "active"

    # Part of it is refunded, the rest credited.
    payment = v1.invoice_payments.list({"invoice": invoice.id, "status": "paid"}).data[0]
    intent = str(payment.payment.payment_intent)
    refund = v1.refunds.create({"payment_intent": intent, "amount": 500})
    charge = v1.charges.retrieve(str(refund.charge))
    assert (charge.amount_refunded, charge.refunded) == (500, False)
    note = v1.credit_notes.create({"invoice": invoice.id, "amount": 1400, "refund_amount": 1400})
    assert (note.type, note.post_payment_amount) == ("post_payment", 1400)
    assert v1.charges.retrieve(charge.id).refunded
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.refunds.create({"payment_intent": intent})
    assert refused.value.code == "charge_already_refunded"


def test_the_first_payment_comes_in_stripes_order_within_one_second(fake: FakeStripe) -> None:
    before = len(fake.events)
    subscribed(fake)
    story = types(fake, before)
    assert story[story.index("customer.subscription.created") :] == [
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "customer.subscription.updated",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice_payment.paid",
    ]
    assert len({event["created"] for event in fake.events}) == 1


def test_months_are_counted_from_the_anchor_and_clamped() -> None:
    start = datetime(2027, 12, 31, 9, 30, tzinfo=UTC)
    with FakeStripe(clock=FakeClock.standing(start)) as fake:
        subscription = subscribed(fake)
        fake.advance(days=150)
        invoices = fake.client().v1.invoices.list({"subscription": subscription.id}).data
    starts = [datetime.fromtimestamp(invoice.lines.data[0].period.start, UTC) for invoice in reversed(invoices)]
    assert [(at.month, at.day) for at in starts] == [(12, 31), (1, 31), (2, 29), (3, 31), (4, 30)]
    assert {(at.hour, at.minute) for at in starts} == {(9, 30)}


def test_a_renewal_is_a_draft_for_an_hour(fake: FakeStripe) -> None:
    subscription = subscribed(fake)
    fake.advance(days=28)
    v1 = fake.client().v1
    newest = v1.invoices.list({"subscription": subscription.id}).data[0]
    assert (newest.status, newest.billing_reason, newest.number) == ("draft", "subscription_cycle", None)
    fake.advance(hours=1)
    assert v1.invoices.retrieve(newest.id).status == "paid"


@pytest.mark.parametrize("after_retries", ["past_due", "unpaid", "canceled"])
def test_tries_follow_the_policy_and_then_its_last_word(
    after_retries: Literal["past_due", "unpaid", "canceled"],
) -> None:
    with FakeStripe(policy=Policy(retry_days=(1, 2), after_retries=after_retries)) as fake:
        subscription = subscribed(fake, "pm_card_visa")
        fake.decline(str(subscription.customer))
        fake.advance(days=35)
        v1 = fake.client().v1
        invoice = v1.invoices.list({"subscription": subscription.id}).data[0]
        assert (invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == ("open", 3, None)
        assert v1.subscriptions.retrieve(subscription.id).status == after_retries
        failed = v1.charges.list({"customer": str(subscription.customer)}).data[:3]
        assert [charge.failure_code for charge in failed] == ["card_declined"] * 3


def test_without_retries_somebody_else_collects() -> None:
    with FakeStripe(policy=Policy(retry_days=())) as fake:
        subscription = subscribed(fake)
        fake.decline(str(subscription.customer), "lost_card")
        fake.advance(days=40)
        v1 = fake.client().v1
        invoice = v1.invoices.list({"subscription": subscription.id, "status": "open"}).data[0]
        assert (invoice.attempt_count, invoice.next_payment_attempt) == (1, None)
        with pytest.raises(stripe.CardError) as declined:
            v1.invoices.pay(invoice.id)
        assert (declined.value.code, declined.value.error.decline_code) == ("card_declined", "lost_card")
        assert v1.invoices.retrieve(invoice.id).attempt_count == 2


def test_a_declined_first_payment_leaves_the_subscription_incomplete_and_then_expired(fake: FakeStripe) -> None:
    subscription = subscribed(fake, "pm_card_chargeCustomerFail")
    assert subscription.status == "incomplete"
    fake.advance(hours=23)
    v1 = fake.client().v1
    assert v1.subscriptions.retrieve(subscription.id).status == "incomplete_expired"
    assert v1.invoices.retrieve(str(subscription.latest_invoice)).status == "void"
    with pytest.raises(stripe.CardError):
        subscribed(fake, "pm_card_chargeCustomerFail", payment_behavior="error_if_incomplete")


def test_a_first_payment_confirmed_by_hand_completes_the_subscription(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake, payment_behavior="default_incomplete", expand=["latest_invoice.payments"])
    assert subscription.status == "incomplete"
    invoice = subscription.latest_invoice
    assert isinstance(invoice, stripe.Invoice)
    assert invoice.payments is not None
    intent = str(invoice.payments.data[0].payment.payment_intent)
    v1.payment_intents.confirm(intent, {"payment_method": "pm_card_visa"})
    assert v1.subscriptions.retrieve(subscription.id).status == "active"
    assert v1.invoices.retrieve(invoice.id).status == "paid"


def test_a_trial_costs_nothing_until_it_ends(fake: FakeStripe) -> None:
    subscription = subscribed(fake, trial_period_days=14)
    v1 = fake.client().v1
    assert subscription.status == "trialing"
    assert v1.invoices.retrieve(str(subscription.latest_invoice)).total == 0
    fake.advance(days=11)
    assert types(fake)[-1] == "customer.subscription.trial_will_end"
    fake.advance(days=4)
    assert v1.subscriptions.retrieve(subscription.id).status == "active"
    assert v1.invoices.list({"subscription": subscription.id}).data[0].amount_paid == 1900


def test_a_subscription_ends_at_its_period_end_or_now(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    first, second = subscribed(fake), subscribed(fake)
    v1.subscriptions.update(first.id, {"cancel_at_period_end": True})
    assert v1.subscriptions.cancel(second.id).status == "canceled"
    assert v1.subscriptions.retrieve(first.id).status == "active"
    fake.advance(days=28)
    assert v1.subscriptions.retrieve(first.id).status == "canceled"
    assert types(fake)[-1] == "customer.subscription.deleted"
    assert v1.subscriptions.list().data == []
    assert {one.id for one in v1.subscriptions.list({"status": "canceled"}).data} == {first.id, second.id}


def test_more_seats_in_mid_period_are_prorated_onto_the_next_invoice(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake)
    item = v1.subscriptions.retrieve(subscription.id)["items"].data[0]
    fake.advance(days=14)
    changed = v1.subscriptions.update(subscription.id, {"items": [{"id": item.id, "quantity": 3}]})
    assert changed["items"].data[0].quantity == 3
    fake.advance(days=15)
    invoice = v1.invoices.list({"subscription": subscription.id}).data[0]
    # Half of February is left: half a seat's price back, half of three seats' price to pay, then three seats.
    assert [line.amount for line in invoice.lines.data] == [-950, 2850, 5700]
    assert invoice.amount_paid == 7600


def test_another_interval_begins_a_new_cycle_at_once(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake)
    yearly = v1.prices.create(
        {
            "product": v1.products.create({"name": "Yearly"}).id,
            "currency": "usd",
            "unit_amount": 19_000,
            "recurring": {"interval": "year"},
        }
    )
    item = subscription["items"].data[0]
    fake.advance(days=14)
    v1.subscriptions.update(subscription.id, {"items": [{"id": item.id, "price": yearly.id}]})
    invoice = v1.invoices.list({"subscription": subscription.id}).data[0]
    assert (invoice.billing_reason, invoice.amount_paid) == ("subscription_update", 19_000 - 950)


def test_fewer_seats_leave_a_credit_that_lowers_later_invoices(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake)
    item = subscription["items"].data[0].id
    v1.subscriptions.update(
        subscription.id, {"items": [{"id": item, "quantity": 10}], "proration_behavior": "always_invoice"}
    )
    fake.advance(days=14)
    v1.subscriptions.update(
        subscription.id, {"items": [{"id": item, "quantity": 1}], "proration_behavior": "always_invoice"}
    )
    below_zero = v1.invoices.list().data[0]
    assert (below_zero.total, below_zero.amount_due, below_zero.status) == (-8550, 0, "paid")
    assert v1.customers.retrieve(str(subscription.customer)).balance == -8550
    fake.advance(days=15)
    renewal = v1.invoices.list().data[0]
    assert (renewal.total, renewal.amount_due, renewal.ending_balance) == (1900, 0, -6650)


def test_an_invoice_by_hand_takes_items_and_pages_its_lines(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    customer = v1.customers.create({"email": "bob@example.com"})
    invoice = v1.invoices.create({"customer": customer.id, "metadata": {"order": "7"}})
    for amount in range(1, 13):
        v1.invoice_items.create(
            {"customer": customer.id, "invoice": invoice.id, "amount": amount * 100, "currency": "usd"}
        )
    opened = v1.invoices.finalize_invoice(invoice.id)
    assert (opened.status, opened.total, opened.lines.has_more) == ("open", 7800, True)
    assert opened.number == f"{customer.invoice_prefix}-0001"
    lines = list(v1.invoices.line_items.list(invoice.id, {"limit": 5}).auto_paging_iter())
    assert [line.amount for line in lines] == [amount * 100 for amount in range(1, 13)]

    lowered = v1.credit_notes.create({"invoice": invoice.id, "amount": 800})
    assert v1.invoices.retrieve(invoice.id).amount_remaining == 7000
    v1.credit_notes.void_credit_note(lowered.id)
    assert v1.invoices.retrieve(invoice.id).amount_remaining == 7800

    v1.invoices.mark_uncollectible(invoice.id)
    assert v1.invoices.void_invoice(invoice.id).status == "void"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.invoices.void_invoice(invoice.id)
    assert refused.value.code == "status_transition_invalid"


def test_a_draft_is_deleted_with_its_items(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    customer = v1.customers.create({"email": "bob@example.com"})
    v1.invoice_items.create({"customer": customer.id, "amount": 100, "currency": "usd"})
    draft = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    assert draft.total == 100
    v1.invoices.delete(draft.id)
    assert v1.invoice_items.list({"customer": customer.id}).data == []
    assert types(fake)[-1] == "invoice.deleted"


def test_cards_that_decline_say_why(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    with pytest.raises(stripe.CardError) as declined:
        v1.payment_intents.create(
            {
                "amount": 500,
                "currency": "eur",
                "payment_method": "pm_card_visa_chargeDeclinedInsufficientFunds",
                "confirm": True,
            }
        )
    assert declined.value.http_status == 402
    assert declined.value.error.decline_code == "insufficient_funds"
    intent = v1.payment_intents.list().data[0]
    assert intent.status == "requires_payment_method"
    assert v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"}).amount_received == 500
    customer = v1.customers.create()
    with pytest.raises(stripe.CardError):
        v1.payment_methods.attach("pm_card_visa_chargeDeclined", {"customer": customer.id})


def test_a_dispute_is_opened_and_decided_from_outside(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    intent = v1.payment_intents.create(
        {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    )
    opened = fake.open_dispute(str(intent.latest_charge), reason="product_not_received")
    assert v1.disputes.retrieve(opened["id"]).status == "needs_response"
    assert v1.charges.retrieve(str(intent.latest_charge)).disputed
    fake.close_dispute(opened["id"], "won")
    assert v1.disputes.retrieve(opened["id"]).status == "won"
    assert [one for one in types(fake) if one.startswith("charge.dispute")] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


def test_a_checkout_is_completed_by_whoever_plays_the_customer(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    session = v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": monthly(fake, 900).id, "quantity": 2}],
            "success_url": "https://shop.example/thanks",
            "customer_email": "cy@example.com",
            "subscription_data": {"metadata": {"plan": "team"}},
        }
    )
    assert (session.status, session.amount_total) == ("open", 1800)
    with pytest.raises(ApiError):
        fake.complete_checkout(session.id, card="pm_card_chargeCustomerFail")
    fake.complete_checkout(session.id)
    done = v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
    assert (done.status, done.payment_status) == ("complete", "paid")
    assert isinstance(done.subscription, stripe.Subscription)
    assert (done.subscription.status, done.subscription.metadata.to_dict()) == ("active", {"plan": "team"})
    assert types(fake)[-1] == "checkout.session.completed"


def test_an_abandoned_checkout_expires(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    price = {"currency": "usd", "unit_amount": 700, "product_data": {"name": "Mug"}}
    session = v1.checkout.sessions.create({"mode": "payment", "line_items": [{"price_data": price, "quantity": 1}]})  # type: ignore[typeddict-item]
    fake.advance(days=1)
    assert v1.checkout.sessions.retrieve(session.id).status == "expired"


def test_a_deleted_customer_is_gone_but_remembered(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    subscription = subscribed(fake)
    customer = str(subscription.customer)
    v1.customers.delete(customer)
    assert v1.customers.retrieve(customer).deleted
    assert v1.subscriptions.retrieve(subscription.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.subscriptions.create({"customer": customer, "items": []})
    assert (refused.value.http_status, refused.value.param) == (400, "customer")


def test_the_same_seed_tells_the_same_story() -> None:
    stories = []
    for _ in range(2):
        with FakeStripe(seed=7) as fake:
            subscribed(fake)
            fake.advance(days=90)
            stories.append([(event["id"], event["created"], event["data"]["object"]["id"]) for event in fake.events])
    assert stories[0] == stories[1]
