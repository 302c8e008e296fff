"""Paddle is compared as Stripe is: what drifted is found once under its name, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.reconciling import Shop
from consumers.world import SECRET, World
from providers import paddle_shapes

from billhook.errors import Refused
from billhook.outlets.objects import open_objects
from billhook.rules.dunning_policy import PRESETS
from billhook.store import sources
from billhook.store.book import TABLES
from billhook.store.database import Database
from billhook.store.dunning_policies import set_policy
from billhook.store.inbox import inbox
from billhook.store.reconciliation import Finding, add_finding
from billhook.store.schema import new_id
from billhook_testing.fake_paddle import FakePaddle

BEGAN = datetime(2026, 3, 1, 9, tzinfo=UTC)


@dataclass
class Till(Shop):
    """A merchant whose Paddle is a fake one."""

    paddle: str = ""

    @property
    def source(self) -> str:
        return self.paddle

    def tell(self, path: str, event_type: str, entity: dict[str, Any], *, arrives: bool = True) -> None:
        """Something happens at Paddle, which shows it from now on; its webhook comes, or not."""
        number = self.heard = self.heard + 1
        at = (BEGAN + timedelta(minutes=number)).isoformat()
        whole = {"created_at": at, "updated_at": at, **entity}
        event = json.loads(
            paddle_shapes.event(event_type, whole, event_id=f"evt_{number:03}", occurred_at=whole["updated_at"])
        )
        self.fake.put(path, whole)
        self.fake.put("events", event)
        if arrives:
            self.world.arrive(self.paddle, event, external_id=event["event_id"])

    def edit(self, kind: str, external_id: str, **values: Any) -> None:
        table = TABLES[kind]
        with self.world.database.begin() as tx:
            changed = tx.execute(sa.update(table).where(table.c.external_id == external_id).values(**values))
        assert changed.rowcount == 1


@pytest.fixture
def till(database: Database, tmp_path: Path) -> Iterator[Till]:
    with FakePaddle(page_size=3) as fake:
        world = World.begin(database)
        world.clock.at = BEGAN + timedelta(days=9, seconds=37)
        with database.begin() as tx:
            key, secret = world.vault.seal(fake.api_key), world.vault.seal(SECRET)
            made = sources.create_source(
                tx, world.merchant_id, "paddle", "Paddle", secret, BEGAN, api_key=key, api_base=fake.url, livemode=False
            )
        till = Till(world, fake, open_objects(f"file://{tmp_path}"), paddle=made.id)
        trade(till)
        world.post()
        yield till


def trade(till: Till) -> None:
    captured = paddle_shapes.tried("captured", captured_at="2026-03-01T11:41:00.25Z")
    price = {"product_id": "pro_1", "unit_price": {"amount": "500", "currency_code": "EUR"}, "description": "a month"}
    month = {"starts_at": "2026-03-01T09:00:00Z", "ends_at": "2026-04-01T09:00:00Z"}
    subscription = {"customer_id": "ctm_1", "currency_code": "EUR", "current_billing_period": month}
    for number in range(1, 6):
        customer = {"id": f"ctm_{number}", "email": f"{number}@example.com", "name": "Ada"}
        till.tell("customers", "customer.created", customer)
    till.tell("products", "product.created", {"id": "pro_1", "name": "Seat"})
    till.tell("prices", "price.created", {"id": "pri_1", **price})
    till.tell("subscriptions", "subscription.created", {"id": "sub_1", "status": "active", **subscription})
    till.tell("transactions", "transaction.ready", paddle_shapes.transaction("ready"))
    paid = paddle_shapes.transaction("paid", payments=[captured], updated_at="2026-03-01T11:41:01Z")
    till.tell("transactions", "transaction.paid", paid)
    till.tell("adjustments", "adjustment.created", paddle_shapes.adjustment("refund", "approved"))


def test_faults_of_every_class_are_as_many_findings_and_none_once_they_are_repaired(till: Till) -> None:
    clean = till.reconcile()
    assert (clean.state, clean.notes, till.found()) == ("done", [], [])
    assert clean.compared > 20
    assert till.world.rows("documents", "id") == []  # Paddle sells in its own name, and writes the invoices

    with till.world.database.begin() as tx:
        products, customers = TABLES["product"], TABLES["customer"]
        row = dict(tx.execute(sa.select(products).where(products.c.external_id == "pro_1")).mappings().one())
        tx.execute(products.insert().values({**row, "id": "prod_ghost", "external_id": "pro_ghost"}))
        tx.execute(sa.delete(customers).where(customers.c.external_id == "ctm_1"))
        tx.execute(sa.update(inbox).where(inbox.c.external_id == "evt_006").values(state="dead"))
    till.edit("price", "pri_1", currency="chf")
    till.edit("invoice", "txn_1", total=2)
    till.edit("payment", "txn_1", status="processing")
    till.edit("subscription", "sub_1", current_period_end=None)
    till.edit("customer", "ctm_2", email="wrong@example.com")
    till.world.arrive(till.paddle, b'{"event_id": "evt_007", "event_type": "price.created"}', external_id="evt_007")
    till.tell("customers", "customer.created", {"id": "ctm_9", "email": "lost@example.com"}, arrives=False)
    till.world.clock.move(hours=1)

    by_itself = [
        ("missing_event", "event"),
        ("missing_local", "customer"),
        ("period_mismatch", "subscription"),
        ("stale_projection", "customer"),
        ("status_mismatch", "payment"),
    ]
    by_a_person = [
        ("amount_mismatch", "invoice"),
        ("conflict", "inbox_conflict"),
        ("currency_mismatch", "price"),
        ("missing_remote", "product"),
        ("unprocessed_event", "event"),
    ]
    run = till.reconcile()
    assert till.found() == sorted(
        [(*one, "repaired") for one in by_itself] + [(*one, "confirmed") for one in by_a_person]
    )
    assert (run.confirmed, run.repaired, run.notes) == (10, 5, [])
    for finding in till.findings():
        if finding.state == "confirmed":
            till.repair(finding)
    till.world.post()
    till.world.clock.move(hours=1)
    again = till.reconcile()
    assert (again.confirmed, again.repaired, {one.state for one in till.findings()}) == (0, 0, {"repaired"})
    assert till.value("customer", "ctm_9", "email") == "lost@example.com"
    assert till.value("price", "pri_1", "currency") == "eur"
    assert till.value("invoice", "txn_1", "total") == 1071


def test_a_payment_that_paddle_tries_again_misses_no_case_of_ours(till: Till) -> None:
    with till.world.database.begin() as tx:
        set_policy(tx, till.world.merchant_id, "merchant", "", PRESETS["polar"], BEGAN, by="ada")
    tries = [paddle_shapes.tried("error", "try_9", error_code="declined")]
    failed = paddle_shapes.transaction("past_due", id="txn_9", payments=tries, updated_at="2026-03-01T12:00:00Z")
    till.tell("transactions", "transaction.payment_failed", failed)
    till.world.post()
    till.world.clock.move(hours=1)
    run = till.reconcile(lists=["transaction", "dunning_cases"])
    assert (run.state, run.notes, till.found()) == ("done", [], [])
    assert till.world.rows("dunning_cases", "id") == []


def test_a_document_that_only_paddle_makes_is_not_drawn_and_no_finding_any_more(till: Till) -> None:
    [invoice_id] = [row[0] for row in till.world.rows("invoices", "id")]
    now = till.world.clock()
    old = Finding(
        id=new_id("fnd"),
        merchant_id=till.world.merchant_id,
        source_id=till.paddle,
        kind="document",
        external_id=f"{invoice_id} invoice",
        finding_class="missing_document",
        state="confirmed",
        differences={"document": [None, "invoice"]},
        seen={"document": [None, "invoice"]},
        local_version="",
        amount=1071,
        currency="eur",
        run_id="rec_before",
        suspected_by=None,
        first_seen_at=now,
        last_seen_at=now,
        decided_by=None,
        decided_at=None,
    )
    with till.world.database.begin() as tx:
        add_finding(tx, old)
    with pytest.raises(Refused, match="Paddle sells in its own name"):
        till.repair(old)
    assert till.world.rows("documents", "id") == []
    assert till.found() == [("missing_document", "document", "confirmed")]
    run = till.reconcile(lists=["documents"])
    assert (run.state, run.notes, run.compared) == ("done", [], 0)
    assert [(one.state, one.decided_by) for one in till.findings()] == [("repaired", "healed")]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("circle", "circle"),
        ("rate_limit", "429"),
        ("unknown_version", "ctm_5"),
        ("forbidden", "customer.read"),
        ("not_json", "no JSON"),
        ("repeat", ""),
    ],
)
def test_a_paddle_that_misbehaves_is_compared_as_far_as_it_can_be(till: Till, fault: Any, said: str) -> None:
    till.edit("customer", "ctm_1", email="wrong@example.com")
    till.fake.befall(fault, 20 if fault in ("rate_limit", "circle", "forbidden") else 1)
    run = till.reconcile(lists=["customer"])
    assert (run.state, said in "".join(run.notes)) == ("incomplete" if said else "done", True)
    assert [one for one in till.found() if one[0] != "stale_projection"] == []
