"""A merchant whose customers' payments fail: the product and the fake Stripe at one clock that we move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

import sqlalchemy as sa
from consumers.world import World

from billhook.queue.steps import Steps
from billhook.rules.dunning_policy import PRESETS, Policy
from billhook.store.database import Database
from billhook.store.dunning_cases import Case, dunning_cases, list_cases, steps_of
from billhook.store.dunning_policies import set_policy
from billhook.store.payment_attempts import Attempt, attempts_of
from billhook_testing.clock import ManualClock
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.world import Policy as AccountPolicy
from services.dunner.admission import Admission
from services.dunner.attempts import Attempts
from services.dunner.cases import Cases
from services.dunner.final_action import FinalAction
from services.dunner.first_look import FirstLook

POLICY = PRESETS["polar"]
PUBLIC = "https://bills.example"


@dataclass
class Shop:
    world: World
    fake: FakeStripe
    heard: int = 0
    calls_per_second: float = 1000

    def __post_init__(self) -> None:
        self.apis = self.world.apis
        self.attempts_handler = Attempts(self.world.database, self.apis, self.world.clock, self.world.metrics, PUBLIC)

    def policy(self, policy: Policy = POLICY, kind: str = "merchant", scope: str = "", **more: Any) -> None:
        with self.world.database.begin() as tx:
            set_policy(tx, self.world.merchant_id, kind, scope, policy, self.world.clock(), by="ada", **more)

    def subscriber(self, name: str = "Ada", card: str = "pm_card_visa", **fields: Any) -> str:
        """A customer with a subscription that renews monthly."""
        v1 = self.fake.client().v1
        product = v1.products.create({"name": "Pro"})
        price = v1.prices.create(
            {"product": product.id, "currency": "eur", "unit_amount": 1900, "recurring": {"interval": "month"}}
        )
        params: Any = {"name": name, "email": f"{name.lower()}@example.com", **fields}
        one = v1.customers.create(params)
        method = v1.payment_methods.attach(card, {"customer": one.id})
        v1.customers.update(one.id, {"invoice_settings": {"default_payment_method": method.id}})
        v1.subscriptions.create({"customer": one.id, "items": [{"price": price.id}]})
        return one.id

    def renewal_fails(self, code: str = "insufficient_funds", **fields: Any) -> tuple[str, Case]:
        """A subscriber whose renewal was just declined, and the case of it."""
        customer = self.subscriber(**fields)
        self.hear()
        self.fake.decline(customer, code)
        self.move(days=31, hours=2)
        self.hear()
        return customer, self.case(customer)

    def move(self, **by: float) -> None:
        self.world.clock.move(**by)
        self.fake.advance(seconds=timedelta(**by).total_seconds())

    def hear(self) -> None:
        """The provider's new events come in and are posted."""
        events = self.fake.events
        for told in events[self.heard :]:
            self.world.arrive(self.world.stripe_source, told)
        self.heard = len(events)
        self.world.post()

    def cases_step(self) -> Steps[Any, Any]:
        world = self.world
        look = FirstLook(world.database, self.apis, world.clock)
        return world.steps(Cases(look, FinalAction(world.database, self.apis, world.clock), world.clock, PUBLIC))

    def attempts_step(self) -> Steps[Any, Any]:
        admit = Admission(self.calls_per_second, self.world.clock).admit
        return self.world.steps(self.attempts_handler, admit=admit)

    def dun(self) -> None:
        """Let the dunner do all that is due."""
        cases, attempts = self.cases_step(), self.attempts_step()
        while cases.run(None) + attempts.run(None):
            pass

    def pass_days(self, days: int) -> None:
        """Day after day, with the dunner and the bookkeeper at work."""
        for _ in range(days):
            self.move(days=1)
            self.dun()
            self.hear()
            self.dun()

    def case(self, customer: str | None = None) -> Case:
        (found,) = self.cases(customer)
        return found

    def cases(self, customer: str | None = None) -> list[Case]:
        with self.world.database.read() as tx:
            return list_cases(tx, merchant_id=self.world.merchant_id, customer=customer)

    def attempts(self, case: Case) -> list[Attempt]:
        with self.world.database.read() as tx:
            return attempts_of(tx, case.id)

    def story(self, case: Case) -> list[str]:
        with self.world.database.read() as tx:
            return [row["cause"] for row in steps_of(tx, case.id)]

    def told(self, prefix: str = "dunning.") -> list[str]:
        """What merchants' endpoints would have heard, in order."""
        return [name for _, name in self.world.rows("messages", "id", "type") if name.startswith(prefix)]

    def charges(self, customer: str) -> int:
        """How often the customer's money was taken since the first payment."""
        with self.fake._api.lock:
            found = self.fake.world.all("charge")
        return sum(charge["status"] == "succeeded" and charge["customer"] == customer for charge in found)

    def due_at(self, case: Case) -> Any:
        with self.world.database.read() as tx:
            return tx.execute(sa.select(dunning_cases.c.due_at).where(dunning_cases.c.id == case.id)).scalar_one()


@contextmanager
def open_shop(database: Database, *, retry_days: tuple[int, ...] = ()) -> Iterator[Shop]:
    clock = FakeClock.standing(ManualClock()().astimezone(UTC))
    with FakeStripe(clock=clock, policy=AccountPolicy(retry_days=retry_days)) as fake:
        yield Shop(World.begin(database, api_key=fake.api_key, api_base=fake.url), fake)
