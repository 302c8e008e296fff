"""Invoices of billhook's own that are not paid: their due date passes, their customers are charged off session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from actions.office import TERMS, Office
from consumers.dunning import Shop, open_shop

from billhook.actions import invoices
from billhook.rules.dunning_policy import PRESETS, Policy
from billhook.rules.terms import CreditTerms
from billhook.store.database import Database
from billhook.store.dunning_cases import list_cases
from billhook.store.own_invoices import OwnInvoice, get_own_invoice

POLICY = Policy(name="own", grace_days=5, attempts=(0, 3, 6), end_day=10, final_action="mark_uncollectible")
TOTAL = 13090


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        opened.policy(POLICY, source_id=opened.world.stripe_source)
        yield opened


def office_of(shop: Shop) -> Office:
    office = Office.open(shop.world.database, clock=shop.world.clock)
    office.merchant_id = shop.world.merchant_id
    return office


def issued(shop: Shop, **card: str) -> tuple[Office, OwnInvoice]:
    """An own invoice of a customer of the provider's, due in 14 days."""
    v1 = shop.fake.client().v1
    customer = v1.customers.create({"name": "Ada", "email": "ada@example.com"})
    method = v1.payment_methods.attach(card.get("card", "pm_card_visa"), {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    shop.hear()
    office = office_of(shop)
    return office, office.issued(msgspec.structs.replace(TERMS, customer=customer.id))


def state_of(shop: Shop, invoice: OwnInvoice) -> str:
    with shop.world.database.read() as tx:
        found = get_own_invoice(tx, invoice.id)
    assert found is not None
    return found.state


def test_an_invoice_that_is_not_due_is_no_case_and_paid_in_time_never_becomes_one(shop: Shop) -> None:
    office, invoice = issued(shop)
    assert shop.cases() == []
    office.do(invoices.pay, invoice.id)
    shop.pass_days(20)
    assert shop.cases() == []
    assert shop.told() == []


def test_the_due_date_passes_and_the_default_method_is_charged(shop: Shop) -> None:
    _, invoice = issued(shop)
    shop.pass_days(15)
    case = shop.case()
    assert (case.stage, case.recovered_attempt) == ("recovered", 1)
    assert state_of(shop, invoice) == "paid"
    assert shop.charges(str(invoice.customer)) == 1
    assert shop.told() == ["dunning.case_opened", "dunning.attempt_scheduled", "dunning.recovered"]


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after"])
@pytest.mark.parametrize("later", [timedelta(minutes=6), timedelta(hours=30)])
def test_a_time_out_is_found_again_by_its_own_metadata(shop: Shop, fault: str, later: timedelta) -> None:
    _, invoice = issued(shop)
    shop.pass_days(13)
    shop.fake.faults.api(fault, path="/v1/payment_intents", method="POST")  # type: ignore[arg-type]
    shop.move(days=1, hours=1)
    shop.dun()
    case = shop.case()
    assert [one.status for one in shop.attempts(case)] == ["unknown"]
    shop.move(seconds=later.total_seconds())
    shop.dun()
    # Nobody sends an attempt again whose key the provider has forgotten: then it is the next one that counts.
    arrived = fault == "timeout_after" or later < timedelta(days=1)
    assert [one.status for one in shop.attempts(case)] == ["succeeded" if arrived else "failed"]
    assert shop.charges(str(invoice.customer)) == int(arrived)
    assert state_of(shop, invoice) == ("paid" if arrived else "open")


def test_its_own_payment_event_settles_it_before_the_answer(shop: Shop) -> None:
    _, invoice = issued(shop)
    shop.pass_days(13)
    shop.fake.faults.api("timeout_after", path="/v1/payment_intents", method="POST")
    shop.move(days=1, hours=1)
    shop.dun()
    shop.hear()
    shop.dun()
    assert state_of(shop, invoice) == "paid"


def test_given_up_it_is_written_off_once(shop: Shop) -> None:
    _, invoice = issued(shop, card="pm_card_chargeCustomerFail")
    shop.pass_days(26)
    case = shop.case()
    assert case.stage == "exhausted"
    assert [one.status for one in shop.attempts(case)] == ["failed"] * 3
    assert state_of(shop, invoice) == "uncollectible"
    assert shop.told("invoice.marked") == ["invoice.marked_uncollectible"]


@pytest.mark.parametrize("how", ["pay", "void", "write_off", "credit"])
def test_a_verb_closes_the_case_in_its_own_transaction(shop: Shop, how: str) -> None:
    office, invoice = issued(shop, card="pm_card_chargeCustomerFail")
    shop.pass_days(15)
    if how == "credit":
        office.do(invoices.credit, invoice.id, CreditTerms())
    else:
        office.do(getattr(invoices, how), invoice.id)
    assert shop.case().stage == ("recovered" if how == "pay" else "canceled")
    assert shop.case().cause == {"pay": "paid", "void": "voided", "write_off": "written_off", "credit": "credited"}[how]


def test_paid_by_other_means_while_it_is_charged_a_person_hears_of_it(shop: Shop) -> None:
    office, invoice = issued(shop)
    shop.pass_days(13)
    shop.move(days=1, hours=1)
    shop.cases_step().run(None)
    shop.cases_step().run(None)
    steps = shop.attempts_step()
    token, jobs = steps.claim(None, 10)
    results = shop.attempts_handler.perform(jobs)
    office.do(invoices.pay, invoice.id)
    steps.settle({job.id: token for job in jobs}, results)
    assert [one.status for one in shop.attempts(shop.case())] == ["succeeded"]
    ((reason,),) = shop.world.rows("dead_letters", "reason")
    assert "Refund payment pi_" in reason


def test_a_customer_that_was_deleted_is_not_charged(shop: Shop) -> None:
    _, invoice = issued(shop)
    shop.fake.client().v1.customers.delete(str(invoice.customer))
    shop.pass_days(15)
    assert shop.case().cause == "customer_deleted"


def test_without_a_source_to_charge_at_it_is_only_reminded_of(database: Database) -> None:
    with open_shop(database) as shop:
        shop.policy(PRESETS["reminders-only"])
        _, invoice = issued(shop)
        shop.pass_days(11)
        with database.read() as tx:
            (scheduled,) = list_cases(tx, merchant_id=shop.world.merchant_id, stage="scheduled")
        assert shop.story(scheduled) == ["reminder"]
        shop.pass_days(60)
        case = shop.case()
        assert case.stage == "exhausted"
        assert shop.attempts(case) == []
        assert shop.story(case).count("reminder") == 5
        assert state_of(shop, invoice) == "open"
