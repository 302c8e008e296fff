"""Faults of dunning that users reported of other billing systems, each tried on ours. The report is named beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from consumers.dunning import POLICY, Shop, open_shop

from billhook.actions.dunning_cases import attempt_now
from billhook.errors import Refused
from billhook.store.database import Database


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        opened.policy()
        yield opened


def try_now(shop: Shop, case_id: str) -> None:
    with shop.world.database.begin() as tx:
        attempt_now(tx, case_id, by="ada", now=shop.world.clock())
    shop.dun()


def test_attempts_that_people_ask_for_use_up_nothing_and_one_is_made_at_a_time(shop: Shop) -> None:
    """polarsource/polar#10811 and #11905 (the ceiling was reached early), killbill/killbill#1015 (paid twice)."""
    _, case = shop.renewal_fails()
    for _ in range(3):
        try_now(shop, case.id)
    shop.fake.faults.api("timeout_after", path=f"/v1/invoices/{case.invoice}/pay")
    try_now(shop, case.id)
    with pytest.raises(Refused, match="An attempt is under way"):
        try_now(shop, case.id)
    shop.pass_days(23)
    made = [one.trigger for one in shop.attempts(case)]
    assert (made.count("operator"), made.count("dunning")) == (4, len(POLICY.attempts))
    assert shop.case().stage == "exhausted"


def test_an_attempt_that_fails_only_when_it_is_asked_about_is_followed_by_the_next_of_the_policy(shop: Shop) -> None:
    """killbill/killbill#1832: what the janitor found to have failed was never tried again."""
    customer, case = shop.renewal_fails()
    shop.fake.faults.api("timeout_after", path=f"/v1/invoices/{case.invoice}/pay")
    shop.pass_days(3)
    assert [one.status for one in shop.attempts(case)] == ["failed"]
    assert shop.case().stage == "grace"
    shop.fake.accept(customer)
    shop.pass_days(5)
    assert [one.status for one in shop.attempts(case)] == ["failed", "succeeded"]


def test_a_customer_whose_method_was_taken_away_is_asked_for_another(shop: Shop) -> None:
    """polarsource/polar#8224: a deleted method was charged again and again."""
    customer, case = shop.renewal_fails()
    v1 = shop.fake.client().v1
    v1.customers.update(customer, {"invoice_settings": {"default_payment_method": ""}})
    for method in v1.payment_methods.list({"customer": customer}).data:
        v1.payment_methods.detach(method.id)
    shop.hear()
    shop.pass_days(3)
    assert [(one.status, one.code) for one in shop.attempts(case)] == [("failed", "payment_method_missing")]
    assert (shop.case().stage, shop.case().cause) == ("awaiting_customer", "method_missing")


def test_one_of_two_debts_that_is_paid_does_not_make_the_customer_good(shop: Shop) -> None:
    """polarsource/polar#13903: the first order that was recovered gave everything back."""
    customer, _ = shop.renewal_fails()
    shop.move(days=31)
    shop.hear()
    older, newer = sorted(shop.cases(customer), key=lambda case: case.opened_at)
    told = len(shop.told("customer.standing"))
    shop.fake.client().v1.invoices.pay(newer.invoice, {"paid_out_of_band": True})
    shop.hear()
    assert {case.stage for case in shop.cases(customer)} >= {"recovered"}
    assert [case.owing for case in shop.cases(customer) if case.id == older.id] == [True]
    assert len(shop.told("customer.standing")) == told
