"""A merchant whose Stripe is a fake one, for tests of the reconciler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.world import Silence, World, run_until_quiet

from billhook.actions import reconciliation as verbs
from billhook.outlets.objects import Objects, open_objects
from billhook.queue.steps import Steps
from billhook.store import reconciliation, sources
from billhook.store.book import TABLES
from billhook.store.database import Database
from billhook.store.reconciliation import Finding, Run
from billhook.store.work import DUE
from billhook_testing.fake_stripe import FakeStripe
from services.reconciler.running import Reconciling

SETTLE = timedelta(seconds=30)


def steps_of(world: World, objects: Objects) -> Steps[Any, Any]:
    """The reconciler of this world."""
    handler = Reconciling(world.database, world.apis, lambda: objects, world.metrics, world.clock, settle=SETTLE)
    return Steps(handler, world.database, Silence(), world.metrics, world.clock)


@dataclass
class Shop:
    """A merchant whose Stripe is a fake one. Webhooks come when `hear` says so."""

    world: World
    fake: Any
    objects: Objects
    heard: int = 0

    @property
    def source(self) -> str:
        return self.world.stripe_source

    def hear(self, *, but: tuple[str, ...] = ()) -> None:
        """Let the webhooks of what happened since arrive, but for these types, and be processed."""
        events = self.fake.events[self.heard :]
        self.heard += len(events)
        for event in events:
            if event["type"] not in but:
                self.world.arrive(self.world.stripe_source, event)
        self.world.post()

    def begin(self, **options: Any) -> str:
        now = self.world.clock()
        with self.world.database.begin() as tx:
            source = sources.get_source(tx, self.source)
            assert source is not None
            since, by = options.pop("since", now - timedelta(days=400)), options.pop("by", "test")
            return verbs.begin_run(tx, verbs.run_of(source, since, now, by=by, **options), now)

    def steps(self) -> Steps[Any, Any]:
        return steps_of(self.world, self.objects)

    def go_on(self, run_id: str) -> Run:
        """Until the run is over; events that it takes in are processed meanwhile."""
        for _ in range(200):
            run_until_quiet(self.steps())
            self.world.post()
            run = self.run(run_id)
            if run.state != DUE:
                return run
            self.world.clock.move(seconds=max(0, (run.due_at - self.world.clock()).total_seconds()))
        raise AssertionError(f"it does not end: {self.run(run_id)}")

    def reconcile(self, **options: Any) -> Run:
        return self.go_on(self.begin(**options))

    def repair(self, finding: Finding) -> list[str]:
        world = self.world
        repaired = verbs.repair_finding(
            world.database, world.apis, world.clock, finding, by="ada", objects=lambda: self.objects
        )
        return [one for ids in repaired.values() for one in ids]

    def run(self, run_id: str) -> Run:
        with self.world.database.read() as tx:
            run = reconciliation.get_run(tx, run_id)
        assert run is not None
        return run

    def findings(self) -> list[Finding]:
        with self.world.database.read() as tx:
            return reconciliation.list_findings(
                tx, states=("suspected", "confirmed", "reopened", "repaired", "accepted")
            )

    def found(self) -> list[tuple[str, str, str]]:
        return sorted((one.finding_class, one.kind, one.state) for one in self.findings())

    def spoil(self, kind: str, **values: Any) -> str:
        """Edit the last row of a kind, as nobody should; returns its id at the provider."""
        table = TABLES[kind]
        with self.world.database.begin() as tx:
            external_id = tx.execute(sa.select(table.c.external_id).order_by(table.c.external_id).limit(1)).scalar_one()
            if values:
                tx.execute(sa.update(table).where(table.c.external_id == external_id).values(**values))
        return str(external_id)

    def value(self, kind: str, external_id: str, column: str) -> Any:
        table = TABLES[kind]
        with self.world.database.read() as tx:
            query = sa.select(table.c[column]).where(table.c.external_id == external_id)
            return tx.execute(query).scalar_one_or_none()


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[Shop]:
    with FakeStripe() as fake:
        world = World.begin(database, api_key=fake.api_key, api_base=fake.url, livemode=False)
        world.clock.move(seconds=(fake.clock.now() - world.clock()).total_seconds())
        with database.begin() as tx:
            tx.execute(sa.update(sources.sources).values(created_at=world.clock()))
        shop = Shop(world, fake, open_objects(f"file://{tmp_path}"))
        trade(shop)
        shop.hear()
        yield shop


def trade(shop: Shop, email: str = "ada@example.com") -> str:
    """A customer subscribes and pays; time goes on for both sides."""
    v1 = shop.fake.client().v1
    customer = v1.customers.create({"email": email, "name": "Ada"})
    card = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})
    recurring: Any = {"interval": "month"}
    price = v1.prices.create(
        {"product_data": {"name": "Pro"}, "currency": "usd", "unit_amount": 1900, "recurring": recurring}
    )
    v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
    pass_time(shop, hours=1)
    return customer.id


def pass_time(shop: Shop, **time: float) -> None:
    shop.fake.advance(**time)
    shop.world.clock.move(seconds=timedelta(**time).total_seconds())
