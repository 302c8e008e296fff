"""Failed payments from the first decline to the end, at the fake Stripe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
import sqlalchemy as sa
from consumers.dunning import POLICY, Shop, open_shop

from billhook.actions.dunning_cases import stop
from billhook.rules.dunning_policy import PRESETS, Policy
from billhook.rules.dunning_policy import FinalAction as FinalActionName
from billhook.rules.standing import standing_of
from billhook.store.database import Database
from billhook.store.dunning_cases import debts, dunning_cases, dunning_steps, steps_of
from billhook.store.work import DUE


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        opened.policy()
        yield opened


def standing(shop: Shop, customer: str) -> str:
    with shop.world.database.read() as tx:
        return standing_of(debts(tx, shop.world.merchant_id, customer), shop.world.clock()).state


def test_a_merchant_without_a_policy_has_no_cases(database: Database) -> None:
    with open_shop(database) as shop:
        customer = shop.subscriber()
        shop.fake.decline(customer)
        shop.move(days=32)
        shop.hear()
        assert shop.cases() == []
        assert standing(shop, customer) == "active"


def test_a_failed_renewal_is_recovered_on_the_second_attempt(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    assert (case.stage, case.amount, case.currency) == ("grace", 1900, "eur")
    assert standing(shop, customer) == "grace"
    shop.pass_days(3)
    assert [(one.number, one.status, one.code) for one in shop.attempts(case)] == [(1, "failed", "insufficient_funds")]

    shop.fake.accept(customer)
    shop.pass_days(5)
    recovered = shop.case()
    assert (recovered.stage, recovered.recovered_attempt) == ("recovered", 2)
    assert standing(shop, customer) == "active"
    assert shop.charges(customer) == 2  # the first month, and this one
    assert shop.told() == [
        "dunning.case_opened",
        "dunning.attempt_scheduled",
        "dunning.attempt_failed",
        "dunning.attempt_scheduled",
        "dunning.recovered",
    ]
    assert shop.told("customer.standing") == ["customer.standing_changed"] * 2


def test_a_case_that_nothing_helps_is_given_up_and_the_final_action_taken_once(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.pass_days(23)
    given_up = shop.case(customer)
    assert (given_up.stage, given_up.cause) == ("exhausted", "deadline")
    assert len(shop.attempts(case)) == len(POLICY.attempts)
    assert standing(shop, customer) == "suspended"
    (ended,) = [told for told in shop.fake.events if told["type"] == "customer.subscription.deleted"]
    assert ended["data"]["object"]["customer"] == customer
    assert shop.told()[-1] == "dunning.exhausted"
    assert shop.story(case).count("cancel_subscription") == 1

    shop.move(days=5)
    shop.dun()
    assert len(shop.attempts(case)) == len(POLICY.attempts)


def test_what_was_given_up_and_then_paid_counts_no_longer(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.pass_days(23)
    shop.fake.accept(customer)
    shop.fake.client().v1.invoices.pay(case.invoice, {"payment_method": "pm_card_visa"})
    shop.hear()
    assert shop.case().stage == "exhausted"
    assert standing(shop, customer) == "active"


def test_grace_ends_and_the_customer_is_suspended(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.pass_days(8)
    assert standing(shop, customer) == "suspended"
    assert shop.case().stage == "retrying"
    assert shop.case().suspended_at == case.grace_until


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("out_of_band", "paid"),
        ("void", "voided"),
        ("uncollectible", "written_off"),
        ("cancel", "subscription_ended"),
        ("delete", "subscription_ended"),  # a customer's subscriptions end with them
        ("paid", "paid"),
        ("credit", "credited"),
    ],
)
def test_a_case_closes_at_once_whatever_settles_it(shop: Shop, how: str, cause: str) -> None:
    customer, case = shop.renewal_fails()
    v1 = shop.fake.client().v1
    match how:
        case "out_of_band":
            v1.invoices.pay(case.invoice, {"paid_out_of_band": True})
        case "paid":
            v1.invoices.pay(case.invoice, {"payment_method": shop_card(shop, customer)})
        case "void":
            v1.invoices.void_invoice(case.invoice)
        case "uncollectible":
            v1.invoices.mark_uncollectible(case.invoice)
        case "cancel":
            v1.subscriptions.cancel(str(case.subscription))
        case "delete":
            v1.customers.delete(customer)
        case "credit":
            v1.credit_notes.create({"invoice": case.invoice, "amount": 1900})
    shop.hear()
    closed = shop.case()
    assert (closed.stage, closed.cause) == ("recovered" if cause == "paid" else "canceled", cause)
    assert standing(shop, customer) == "active"
    shop.move(days=25)
    shop.dun()
    assert shop.attempts(case) == []
    assert shop.told()[2:] == [f"dunning.{closed.stage}"]


def shop_card(shop: Shop, customer: str) -> str:
    shop.fake.accept(customer)
    return "pm_card_visa"


def test_the_last_look_sees_what_no_event_has_told_yet(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.client().v1.invoices.pay(case.invoice, {"paid_out_of_band": True})
    shop.move(days=2, hours=1)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["canceled"]
    assert shop.case().stage == "recovered"
    assert shop.charges(customer) == 1


@pytest.mark.parametrize(("answer", "said"), [("nonsense", "metadata"), ("nothing", "no such invoice")])
def test_a_last_look_that_shows_nothing_of_use_is_no_failed_payment(shop: Shop, answer: str, said: str) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    shop.dun()
    with shop.fake._api.lock:
        if answer == "nonsense":
            shop.fake.world.get("invoice", case.invoice)["metadata"] = []
        else:
            shop.fake.world.remove("invoice", case.invoice)
    shop.move(days=2, hours=1)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["canceled"]
    with shop.world.database.read() as tx:
        [why] = [row["detail"] for row in steps_of(tx, case.id) if row["cause"] == "attempt_canceled"]
    assert said in why
    assert len(shop.world.rows("mails", "id")) == 1  # of the failure that opened the case
    assert "dunning.attempt_failed" not in shop.told()
    assert shop.charges(customer) == 1


def test_an_amount_that_changed_unheard_is_collected_as_it_is_by_now(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.client().v1.credit_notes.create({"invoice": case.invoice, "amount": 900})
    shop.fake.accept(customer)
    shop.move(days=2, hours=1)
    shop.dun()
    assert [(one.status, one.amount) for one in shop.attempts(case)] == [("canceled", 1900), ("succeeded", 1000)]
    assert shop.case().policy_attempts == 1


@pytest.mark.parametrize("action", ["pause_collection", "mark_uncollectible"])
def test_the_final_action_is_done_at_the_provider_and_once_though_its_dunner_dies(
    database: Database, action: FinalActionName
) -> None:
    with open_shop(database) as shop:
        shop.policy(Policy(name="short", grace_days=0, attempts=(1,), end_day=1, final_action=action))
        customer, case = shop.renewal_fails()
        shop.move(days=1, hours=1)
        shop.dun()
        # Given up by whoever dies with the action done and before it is written down.
        with shop.world.database.begin() as tx:
            tx.execute(sa.update(dunning_cases).values(final_done_at=None, state=DUE, due_at=shop.world.clock()))
            tx.execute(sa.delete(dunning_steps).where(dunning_steps.c.cause == action))
        shop.dun()
        shop.hear()
        assert (shop.case(customer).stage, shop.story(case).count(action)) == ("exhausted", 1)
        with shop.fake._api.lock:
            subscription = shop.fake.world.get("subscription", str(case.subscription))
            invoice = shop.fake.world.get("invoice", case.invoice)
        done = {
            "pause_collection": subscription["pause_collection"] is not None,
            "mark_uncollectible": invoice["status"] == "uncollectible",
        }
        assert done == {name: name == action for name in done}


def test_the_standing_changes_within_the_transaction_that_changes_it(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    database, now = shop.world.database, shop.world.clock()
    with database.begin() as tx:
        stop(tx, case.id, "a mistake", by="ada", now=now)
        assert standing_of(debts(tx, shop.world.merchant_id, customer), now).state == "active"
        tx.rollback()
    assert (standing(shop, customer), len(shop.told("customer.standing"))) == ("grace", 1)
    with database.begin() as tx:
        stop(tx, case.id, "they called", by="ada", now=now)
    assert (standing(shop, customer), len(shop.told("customer.standing"))) == ("active", 2)


def test_a_hard_decline_is_tried_once_more_at_the_deadline(shop: Shop) -> None:
    _, case = shop.renewal_fails()
    shop.fake.decline(str(case.customer), "stolen_card")
    shop.pass_days(2)
    shop.pass_days(1)
    assert shop.case().stage == "awaiting_customer"
    shop.pass_days(20)
    assert [one.code for one in shop.attempts(case)] == ["stolen_card", "stolen_card"]
    last = shop.attempts(case)[-1]
    assert last.created_at - case.opened_at >= timedelta(days=20)
    assert shop.case().stage == "exhausted"


def test_another_method_is_tried_at_once_and_does_not_use_up_the_policy(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.decline(customer, "stolen_card")
    shop.pass_days(3)
    shop.fake.accept(customer)
    v1 = shop.fake.client().v1
    method = v1.payment_methods.attach("pm_card_mastercard", {"customer": customer})
    v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method.id}})
    shop.hear()
    shop.dun()
    assert [(one.trigger, one.status) for one in shop.attempts(case)] == [
        ("dunning", "failed"),
        ("method_added", "succeeded"),
    ]
    assert shop.case().policy_attempts == 1
    assert shop.case().stage == "recovered"


def test_news_of_an_old_method_is_no_news(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.client().v1.customers.update(customer, {"phone": "+49 30 1"})
    shop.hear()
    shop.dun()
    assert shop.attempts(case) == []


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_step_of_the_customer_is_waited_for(shop: Shop, succeeds: bool) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.decline(customer, "authentication_required")
    shop.pass_days(3)
    assert [one.status for one in shop.attempts(case)] == ["requires_action"]
    assert shop.case().stage == "awaiting_customer"
    with shop.fake._api.lock:
        (waiting,) = [one for one in shop.fake.world.all("payment_intent") if one["status"] == "requires_action"]
    shop.fake.authenticate(waiting["id"], succeeds)
    shop.hear()
    shop.dun()
    (attempt,) = shop.attempts(case)
    assert attempt.status == ("succeeded" if succeeds else "failed")
    assert shop.case().stage == ("recovered" if succeeds else "awaiting_customer")


def test_a_step_that_nobody_takes_does_not_keep_the_case_open(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.decline(customer, "authentication_required")
    shop.pass_days(24)
    # The one that waited is closed at the deadline, and the last one of the policy made.
    assert [one.status for one in shop.attempts(case)] == ["failed", "failed"]
    assert shop.case().stage == "exhausted"
    assert shop.charges(customer) == 1


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after"])
def test_a_time_out_is_asked_about_and_never_charged_again_blindly(shop: Shop, fault: str) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    shop.fake.faults.api(fault, path=f"/v1/invoices/{case.invoice}/pay")  # type: ignore[arg-type]
    shop.move(days=2, hours=1)
    shop.dun()
    (attempt,) = shop.attempts(case)
    assert attempt.status == "unknown"
    key = attempt.idempotency_key
    shop.move(minutes=6)
    shop.dun()
    (attempt,) = shop.attempts(case)
    assert (attempt.status, attempt.idempotency_key) == ("succeeded", key)
    assert attempt.sends == (2 if fault == "timeout_before" else 1)
    assert shop.charges(customer) == 2
    assert shop.case().stage == "recovered"


def test_an_event_settles_what_was_unknown_at_once(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    shop.fake.faults.api("timeout_after", path=f"/v1/invoices/{case.invoice}/pay")
    shop.move(days=2, hours=1)
    shop.dun()
    shop.hear()
    assert shop.case().stage == "recovered"
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["succeeded"]


def test_a_replayed_error_is_the_error_of_that_attempt(shop: Shop) -> None:
    _, case = shop.renewal_fails()
    shop.fake.faults.api("server_error", path=f"/v1/invoices/{case.invoice}/pay")
    shop.move(days=2, hours=1)
    shop.dun()
    for _ in range(3):
        shop.move(hours=1)
        shop.dun()
    (attempt,) = shop.attempts(case)
    # The provider keeps its error for a day, and answers the same key with it: sending it a third time is no use.
    assert (attempt.status, attempt.sends, attempt.code) == ("failed", 2, "replayed_error")
    assert shop.case().stage == "grace"


def test_whom_nobody_answers_a_person_has_to_look_at(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.faults.api("timeout_after", path=f"/v1/invoices/{case.invoice}/pay")
    shop.move(days=2, hours=1)
    shop.dun()
    shop.fake.faults.api("server_error", probability=1.0)
    for _ in range(10):
        shop.move(days=1)
        shop.dun()
    (attempt,) = shop.attempts(case)
    assert attempt.status == "unknown"
    assert (shop.case().stage, shop.case().cause) == ("canceled", "unanswerable")
    ((reason,),) = shop.world.rows("dead_letters", "reason")
    assert attempt.idempotency_key in reason
    assert shop.charges(customer) == 1


def test_the_provider_that_wants_to_be_left_alone_is(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    shop.fake.faults.api("rate_limit", path="/v1/invoices", retry_after=30)
    shop.move(days=2, hours=1)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["created"]
    shop.move(seconds=20)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["created"]
    shop.move(seconds=15)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["succeeded"]


def test_who_died_with_an_attempt_in_hand_leaves_a_question_and_no_second_charge(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    shop.move(days=2, hours=1)
    for _ in ("the first look", "the attempt"):
        shop.cases_step().run(None)
    steps = shop.attempts_step()
    _, jobs = steps.claim(None, 10)
    shop.attempts_handler.perform(jobs)  # and dies before it can write what came of it
    assert [one.status for one in shop.attempts(case)] == ["submitted"]
    shop.move(minutes=1)
    shop.dun()
    assert [(one.status, one.sends) for one in shop.attempts(case)] == [("succeeded", 1)]
    assert shop.charges(customer) == 2


def test_a_provider_that_retries_itself_keeps_us_from_charging(shop: Shop) -> None:
    shop.fake.retry_by_itself([3, 5, 7])
    customer, case = shop.renewal_fails()
    shop.move(days=2, hours=1)
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["canceled"]
    assert "attempt_canceled" in shop.story(case)
    assert shop.charges(customer) == 1


def test_the_provider_may_own_the_retries(database: Database) -> None:
    with open_shop(database, retry_days=(3, 5, 7)) as shop:
        shop.policy(PRESETS["provider-retries"])
        customer, case = shop.renewal_fails()
        assert standing(shop, customer) == "grace"
        shop.pass_days(2)
        shop.fake.accept(customer)
        shop.pass_days(2)
        assert shop.attempts(case) == []
        assert shop.case().stage == "recovered"


def test_the_narrowest_policy_counts_and_a_case_keeps_it(shop: Shop) -> None:
    other = msgspec.structs.replace(PRESETS["kill-bill"], name="theirs")
    customer = shop.subscriber()
    shop.policy(other, "customer", customer)
    shop.hear()
    shop.fake.decline(customer)
    shop.move(days=31, hours=2)
    shop.hear()
    case = shop.case()
    shop.policy(Policy(name="later", end_day=2, grace_days=1), "customer", customer)
    shop.pass_days(9)
    assert shop.case().policy_id == case.policy_id
    assert len(shop.attempts(case)) == 1


def test_replaying_every_event_changes_nothing(shop: Shop) -> None:
    customer, _ = shop.renewal_fails()
    shop.pass_days(3)
    shop.fake.accept(customer)
    shop.pass_days(5)
    told, before = shop.told(""), shop.cases()
    shop.heard = 0
    shop.hear()
    shop.dun()
    assert shop.cases() == before
    assert [name for name in shop.told("") if name.startswith(("dunning", "customer.standing"))] == [
        name for name in told if name.startswith(("dunning", "customer.standing"))
    ]


@pytest.mark.parametrize("looked", [True, False])
def test_a_charge_that_was_declined_for_good_before_the_case_is_not_tried_again_blindly(
    shop: Shop, looked: bool
) -> None:
    _, case = shop.renewal_fails("stolen_card")
    if not looked:
        shop.fake.faults.api("server_error", path=f"/v1/invoices/{case.invoice}", method="GET")
    shop.dun()
    told = ("awaiting_customer", "stolen_card") if looked else ("grace", None)
    assert (shop.case().stage, shop.case().decline_code) == told
    assert ["another" in text for (text,) in shop.world.rows("mails", "body")] == [looked]
    shop.pass_days(3)
    if not looked:
        assert [(one.status, one.code) for one in shop.attempts(case)] == [("failed", "stolen_card")]
        assert "Not tried" in str(shop.attempts(case)[0].message)
    assert shop.case().stage == "awaiting_customer"
    shop.pass_days(19)
    assert len(shop.attempts(case)) == (1 if looked else 2)
    with shop.fake._api.lock:
        declined = [one for one in shop.fake.world.all("charge") if one["status"] == "failed"]
    assert len(declined) == 2  # the renewal, and the last attempt of the policy


def test_the_issuers_advice_and_the_networks_waits_are_kept_to(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.decline(customer, "do_not_honor", network_advice_code="29")  # not within eight days
    shop.pass_days(13)
    assert [one.code for one in shop.attempts(case)] == ["do_not_honor"]
    assert (shop.case().stage, shop.case().policy_attempts) == ("retrying", 2)
    shop.fake.decline(customer, "do_not_honor", advice_code="do_not_try_again")
    shop.pass_days(2)
    assert len(shop.attempts(case)) == 2
    assert (shop.case().stage, shop.case().cause) == ("awaiting_customer", "declined_for_good")
