"""Whatever happens, in whatever order, whoever dies: an invoice is charged once, and every case ends."""

from __future__ import annotations

import random
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import pytest
import stripe
from actions.office import TERMS, Office
from consumers.dunning import Shop, open_shop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from billhook.actions import invoices
from billhook.errors import Refused
from billhook.rules.dunning import ended
from billhook.rules.dunning_policy import Policy
from billhook.rules.payment_attempts import COUNTS, IN_FLIGHT
from billhook.store.database import Database

POLICIES = (
    Policy(grace_days=3, attempts=(0, 2, 4), end_day=6, final_action="mark_uncollectible"),
    Policy(grace_days=1, attempts=(1, 5), end_day=5, last_attempt_after_hard_decline=False),
    Policy(grace_days=0, attempts=(2, 3, 9), end_day=9, final_action="cancel_subscription"),
)
CODES = ("insufficient_funds", "generic_decline", "stolen_card", "authentication_required")
FAULTS = ("timeout_before", "timeout_after", "server_error", "rate_limit", "conflict")


class Dunning(RuleBasedStateMachine):
    """One invoice at the fake provider, mirrored or billhook's own."""

    def __init__(self, database: Database, own: bool) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.shop: Shop = self.stack.enter_context(open_shop(database))
        self.own = own
        self.dice = random.Random(1)

    @initialize(policy=st.sampled_from(POLICIES), code=st.sampled_from(CODES))
    def open(self, policy: Policy, code: str) -> None:
        self.policy = policy
        shop = self.shop
        shop.policy(policy, source_id=shop.world.stripe_source)
        v1 = shop.fake.client().v1
        self.customer = v1.customers.create({"name": "Ada"}).id
        self.another_method()
        shop.fake.decline(self.customer, code)
        if not self.own:
            v1.invoice_items.create({"customer": self.customer, "currency": "eur", "amount": 1900})
            draft = v1.invoices.create(
                {
                    "customer": self.customer,
                    "currency": "eur",
                    "auto_advance": False,
                    "pending_invoice_items_behavior": "include",
                }
            )
            self.invoice = str(draft.id)
            v1.invoices.finalize_invoice(self.invoice)
            with suppress(stripe.CardError):
                v1.invoices.pay(self.invoice)
            self.hear(False, False)
            return
        office = Office.open(shop.world.database, clock=shop.world.clock)
        office.merchant_id = shop.world.merchant_id
        self.office = office
        self.invoice = office.issued(msgspec.structs.replace(TERMS, customer=self.customer, due_days=0)).id
        shop.move(minutes=1)
        shop.cases_step().run(None)

    @rule(hours=st.sampled_from([0.1, 1, 5, 26, 60]))
    def time_passes(self, hours: float) -> None:
        self.shop.move(hours=hours)

    @rule()
    def dun(self) -> None:
        self.shop.dun()

    @rule(twice=st.booleans(), shuffled=st.booleans())
    def hear(self, twice: bool, shuffled: bool) -> None:
        events = self.shop.fake.events
        fresh = events[self.shop.heard :]
        self.shop.heard = len(events)
        if shuffled:
            self.dice.shuffle(fresh)
        for told in fresh * (2 if twice else 1):
            self.shop.world.arrive(self.shop.world.stripe_source, told)
        self.shop.world.post()

    @rule()
    def bank_says_yes(self) -> None:
        self.shop.fake.accept(self.customer)

    @rule(code=st.sampled_from(CODES))
    def bank_says_no(self, code: str) -> None:
        self.shop.fake.decline(self.customer, code)

    @rule()
    def another_method(self) -> None:
        v1 = self.shop.fake.client().v1
        with suppress(stripe.StripeError):
            method = v1.payment_methods.attach("pm_card_mastercard", {"customer": self.customer})
            v1.customers.update(self.customer, {"invoice_settings": {"default_payment_method": method.id}})

    @rule(how=st.sampled_from(["hosted", "out_of_band", "void"]))
    def settled_elsewhere(self, how: str) -> None:
        if self.own:
            with suppress(Refused):
                self.office.do(invoices.void if how == "void" else invoices.pay, self.invoice)
            return
        v1 = self.shop.fake.client().v1
        with suppress(stripe.StripeError):
            match how:
                case "hosted":
                    v1.invoices.pay(self.invoice, {"payment_method": "pm_card_visa"})
                case "out_of_band":
                    v1.invoices.pay(self.invoice, {"paid_out_of_band": True})
                case "void":
                    v1.invoices.void_invoice(self.invoice)

    @rule(succeeds=st.booleans())
    def customer_answers_the_bank(self, succeeds: bool) -> None:
        with self.shop.fake._api.lock:
            waiting = [
                one["id"] for one in self.shop.fake.world.all("payment_intent") if one["status"] == "requires_action"
            ]
        for intent in waiting:
            self.shop.fake.authenticate(intent, succeeds)

    @rule(kind=st.sampled_from(FAULTS), path=st.sampled_from(["/v1/invoices/", "/v1/payment_intents", "/v1/"]))
    def provider_misbehaves(self, kind: Any, path: str) -> None:
        self.shop.fake.faults.api(kind, path=path, retry_after=40)

    @rule(after=st.sampled_from(["claim", "perform"]), which=st.sampled_from(["cases", "attempts"]))
    def dies(self, after: str, which: str) -> None:
        """A dunner takes what is due and dies: before it did anything, or before it could write what came of it."""
        steps = self.shop.cases_step() if which == "cases" else self.shop.attempts_step()
        _, jobs = steps.claim(None, 10, admit=steps._admit)
        if jobs and after == "perform":
            steps.handler.perform(jobs)

    @invariant()
    def charged_at_most_once(self) -> None:
        if hasattr(self, "invoice"):
            assert self.charges() <= 1

    def charges(self) -> int:
        with self.shop.fake._api.lock:
            intents = {one["id"]: one for one in self.shop.fake.world.all("payment_intent")}
            charges = self.shop.fake.world.all("charge")
        of_invoice = [
            charge
            for charge in charges
            if charge["status"] == "succeeded"
            and self.invoice
            in (
                intents[charge["payment_intent"]]["payment_details"]["order_reference"],
                charge["metadata"].get("billhook_invoice"),
            )
        ]
        return len(of_invoice)

    @invariant()
    def attempts_keep_to_the_policy(self) -> None:
        if not hasattr(self, "invoice"):
            return
        for case in self.shop.cases():
            attempts = self.shop.attempts(case)
            counting = [one for one in attempts if COUNTS[one.trigger]]
            assert len(counting) <= len(self.policy.attempts)
            times = [one.created_at for one in counting]
            assert times == sorted(set(times))
            assert sum(one.status in IN_FLIGHT for one in attempts) <= 1
            assert case.closed_at is None or all(one.created_at <= case.closed_at for one in attempts)
            assert self.shop.story(case).count(case.final_action) <= 1

    def quiet(self) -> bool:
        cases = self.shop.cases()
        attempts = [one for case in cases for one in self.shop.attempts(case)]
        return all(ended(case.stage) for case in cases) and not any(one.status in IN_FLIGHT for one in attempts)

    def teardown(self) -> None:
        try:
            if hasattr(self, "invoice"):
                self.shop.fake.faults.clear()
                for _ in range(30):
                    if self.quiet():
                        break
                    self.shop.pass_days(1)
                for case in self.shop.cases():
                    assert ended(case.stage)
                    assert not any(one.status in IN_FLIGHT for one in self.shop.attempts(case))
                    taken = sum(one.status == "succeeded" for one in self.shop.attempts(case))
                    assert taken <= self.charges() <= 1
                self.attempts_keep_to_the_policy()
        finally:
            self.shop.attempts_handler.close()
            self.stack.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("own", [False, True], ids=["mirrored", "own"])
def test_whatever_happens_an_invoice_is_charged_once_and_its_case_ends(database: Database, own: bool) -> None:
    run_state_machine_as_test(
        lambda: Dunning(database, own),
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
