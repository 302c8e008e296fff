"""Failed payments, carried: invoices at a fake Stripe whose first payment was declined, for the dunner to collect.

The provider counts the charges: it knows best what was taken.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import requests
import sqlalchemy as sa
import stripe

from billhook.rules.dunning_policy import Policy
from billhook.runtime.env import Env
from billhook.store.database import Database
from billhook.store.dunning_cases import dunning_cases
from billhook.store.dunning_policies import set_policy
from billhook.store.merchants import create_merchant
from billhook.store.payment_attempts import payment_attempts
from billhook.store.sources import create_source
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.world import Json, encode
from billhook_testing.fake_stripe.world import Policy as AccountPolicy

AT_ONCE = Policy(name="chaos", attempts=(0,), remind_after_failure=False)
"""Tried again in the moment in which the case is opened: a run has no days."""

LOST_ANSWERS = 0.4
"""Of the payments made by the dunner, those that succeed without an answer, after a second of silence."""

TOLD = ("invoice.finalized", "invoice.payment_failed", "invoice.paid")
"""What the account's webhook is subscribed to."""

LOOK_SECONDS = 0.1


class Debts:
    """The provider's account, and the thread that sends its events to the ingress until each is taken."""

    def __init__(self, count: int, seconds: float) -> None:
        """`seconds`: over how long the failures are told."""
        self._pause = seconds / max(1, count)
        self._count = count
        self._fake = FakeStripe(clock=FakeClock.running(), policy=AccountPolicy(retry_days=()))
        self._stopping = threading.Event()
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._send, name="provider", daemon=True)
        self._url = ""
        self.invoices: list[str] = []

    def prepare(self, env: Env, ingress: Callable[[str], str]) -> None:
        """A merchant of their own with a policy and a source, and invoices that were not paid. `ingress` is the address
        of a source."""
        self._fake.start()
        now = env.clock()
        with env.database.begin() as tx:
            merchant = create_merchant(tx, "Debts Ltd", now)
            set_policy(tx, merchant.id, "merchant", "", AT_ONCE, now, by="chaos")
            secret, key = env.vault.seal(self._fake.webhook_secret), env.vault.seal(self._fake.api_key)
            source = create_source(
                tx, merchant.id, "stripe", "debts", secret, now, api_key=key, api_base=self._fake.url, livemode=False
            )
        self._url = ingress(source.id)
        v1 = self._fake.client().v1
        customer = v1.customers.create({"name": "Ada"}).id
        card = v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
        v1.customers.update(customer, {"invoice_settings": {"default_payment_method": card}})
        self._fake.decline(customer, "insufficient_funds")
        for _ in range(self._count):
            v1.invoice_items.create({"customer": customer, "currency": "usd", "amount": 1900})
            draft = v1.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"})
            self.invoices.append(str(draft.id))
            v1.invoices.finalize_invoice(self.invoices[-1])
            with suppress(stripe.CardError):
                v1.invoices.pay(self.invoices[-1])
        self._fake.accept(customer)
        self._fake.faults.api(
            "timeout_after", probability=LOST_ANSWERS, path="/v1/invoices/", method="POST", hang_seconds=1.0
        )

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Tell the rest of the failures at once; False if that took too long. What comes of them is told on."""
        self._pause = 0.0
        return self._told.wait(timeout)

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._fake.stop()

    def charges(self) -> Mapping[str, int]:
        """How often each invoice was paid, as the provider says."""
        with self._fake._api.lock:
            taken = Counter(
                charge["payment_intent"] for charge in self._fake.world.all("charge") if charge["status"] == "succeeded"
            )
            payments = self._fake.world.all("invoice_payment")
        of = {payment["payment"]["payment_intent"]: payment["invoice"] for payment in payments}
        paid: Counter[str] = Counter()
        for intent, count in taken.items():
            paid[of.get(intent, intent)] += count
        return paid

    def _send(self) -> None:
        failures, known = deque(self._fake.events), len(self._fake.events)
        tell_at = time.monotonic()
        while not self._stopping.is_set():
            events = self._fake.events
            for event in events[known:]:
                self._insist(event)
            known = len(events)
            if failures and time.monotonic() >= tell_at:
                event = failures.popleft()
                self._insist(event)
                tell_at += self._pause if event["type"] == "invoice.payment_failed" else 0.0
            else:
                time.sleep(LOOK_SECONDS)
            if not failures:
                self._told.set()

    def _insist(self, event: Json) -> None:
        if event["type"] not in TOLD:
            return
        body = encode(event)
        while not self._stopping.is_set():
            seconds = int(time.time())
            digest = hmac.digest(self._fake.webhook_secret.encode(), b"%d.%s" % (seconds, body), "sha256").hex()
            signature = {"Stripe-Signature": f"t={seconds},v1={digest}", "Content-Type": "application/json"}
            with suppress(requests.RequestException):
                if requests.post(self._url, data=body, headers=signature, timeout=5).status_code // 100 == 2:
                    return
            time.sleep(LOOK_SECONDS)


@dataclass(frozen=True)
class Debt:
    """What became of an invoice whose payment failed."""

    invoice: str
    charges: int
    """At the provider."""
    cases: Sequence[str]
    """The stages of its cases."""
    attempts: Sequence[str]
    """How each attempt ended."""


def settle(debts: Sequence[Debt]) -> tuple[list[str], list[str]]:
    """A sentence for each that was lost, and for each that was doubled."""
    lost, doubled = [], []
    for debt in debts:
        if debt.charges > 1:
            doubled.append(f"{debt.invoice}: charged {debt.charges} times")
        if not debt.charges:
            lost.append(f"{debt.invoice}: never charged; its attempts: {', '.join(debt.attempts) or 'none'}")
        if list(debt.cases) != ["recovered"]:
            lost.append(f"{debt.invoice}: its case is {', '.join(debt.cases) or 'missing'}")
        if debt.attempts.count("succeeded") > 1:
            doubled.append(f"{debt.invoice}: {debt.attempts.count('succeeded')} attempts succeeded")
    return lost, doubled


def gather_debts(database: Database, debts: Debts) -> list[Debt]:
    charges = debts.charges()
    cases, attempts = dunning_cases.c, payment_attempts.c
    with database.read() as tx:
        found = tx.execute(sa.select(cases.id, cases.invoice, cases.stage)).all()
        tried = tx.execute(sa.select(attempts.case_id, attempts.status).order_by(attempts.id)).all()
    return [
        Debt(
            invoice,
            charges.get(invoice, 0),
            [stage for _, of, stage in found if of == invoice],
            [status for case_id, status in tried if case_id in {id_ for id_, of, _ in found if of == invoice}],
        )
        for invoice in debts.invoices
    ]


def ask_at_once(env: Env) -> None:
    """Let what nobody has an answer to be asked about now: the product waits for five minutes, and longer."""
    c = payment_attempts.c
    unknown = sa.update(payment_attempts).where(c.state == "due", c.token.is_(None), c.status == "unknown")
    with env.database.begin() as tx:
        tx.execute(unknown.values(due_at=env.clock()))


def is_charging(database: Database) -> bool:
    """Whether an attempt is at the provider at this moment."""
    c = payment_attempts.c
    with database.read() as tx:
        return tx.execute(sa.select(c.id).where(c.status == "submitted", c.token.is_not(None))).first() is not None
