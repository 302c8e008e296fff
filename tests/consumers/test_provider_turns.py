"""An account of a provider takes so many calls a second, and none while it wants to be left alone, whoever calls."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from consumers.dunning import Shop, open_shop
from consumers.world import World

from billhook.actions.dunning_policies import check_owner
from billhook.errors import NotYet, Refused
from billhook.providers.stripe_api import StripeApi
from billhook.rules.dunning_policy import PRESETS
from billhook.runtime.clock import system_clock
from billhook.runtime.provider_apis import ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store.database import Database
from billhook_testing.fake_stripe import FakeStripe
from services.dunner.admission import Admission

ROOT = Path(__file__).parents[2]


def waiting(world: World, calls_per_second: float, late: float = 0.0) -> tuple[Turns, list[float]]:
    """Turns at a clock that moves while somebody waits, and how long each wait was. Whoever waits wakes `late`."""
    slept: list[float] = []
    began = world.clock()

    def wait(condition: threading.Condition, seconds: float) -> None:
        slept.append(round(seconds, 3))
        world.clock.move(seconds=seconds + late)

    def monotonic() -> float:
        return (world.clock() - began).total_seconds()

    return Turns(world.database, world.clock, calls_per_second, monotonic=monotonic, wait=wait), slept


def test_a_call_waits_for_its_turn_and_no_call_is_made_in_a_pause(database: Database) -> None:
    world = World.begin(database)
    turns, slept = waiting(world, 2.0)
    source, patience = world.stripe_source, timedelta(seconds=5)
    for _ in range(4):
        turns.take(source, "", patience)
    assert slept == [1.012]
    with pytest.raises(NotYet):
        turns.take(source, "", timedelta(seconds=0.1))

    world.clock.move(seconds=10)
    turns.pause(source, "", 60)
    with pytest.raises(NotYet) as refused:
        turns.take(source, "", patience)
    assert refused.value.after_seconds == 60
    turns.take(source, "acct_2", patience)
    world.clock.move(seconds=58)
    turns.take(source, "", patience)
    assert slept == [1.012, 2.0]


def test_whoever_is_always_late_gets_a_turn_all_the_same(database: Database) -> None:
    world = World.begin(database)
    turns, slept = waiting(world, 1.0, late=0.15)
    began, source, patience = world.clock(), world.stripe_source, timedelta(seconds=5)
    at = []
    for _ in range(3):
        turns.take(source, "", patience)
        at.append(round((world.clock() - began).total_seconds(), 2))
    # It woke 150 ms after the permit was good, which it is for 100 ms, and then for 200 ms.
    assert at == [0, 1.16, 2.32]
    assert len(slept) == 2


def test_the_charge_goes_before_the_looks_of_others_and_a_pause_takes_turns_back(database: Database) -> None:
    world = World.begin(database)
    turns = Turns(database, system_clock, 10.0)
    source, patience, order = world.stripe_source, timedelta(seconds=5), queue.SimpleQueue[str]()

    def call(name: str) -> None:
        turns.take(source, "", patience)
        order.put(name)

    def charge() -> None:
        with turns.first():
            call("charge")

    turns.take(source, "", patience)
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(call, "look") for _ in range(6)]
        order.get(timeout=5)  # the others stand in line, and have their turns
        last = pool.submit(charge)
        for one in (*looks, last):
            one.result()
    names = [order.get() for _ in range(6)]
    assert names[-1] == "look"  # or it would stand behind all of them

    turns.pause(source, "", 30)
    with pytest.raises(NotYet, match="takes no calls now"):
        turns.take(source, "", patience)


def test_nobody_waits_behind_a_thousand_attempts_that_are_planned(database: Database) -> None:
    world = World.begin(database)
    turns, slept = waiting(world, 10.0)
    now = world.clock()
    rows: list[dict[str, Any]] = [
        {"id": f"att_{n:04}", "due_at": now, "slot_at": None, "source_id": world.stripe_source, "account": ""}
        for n in range(1000)
    ]
    with database.begin() as tx:
        admitted = Admission(10.0, world.clock).admit(tx, rows)
    assert [row["id"] for row in admitted] == [f"att_{n:04}" for n in range(10)]
    for _ in range(3):
        turns.take(world.stripe_source, "", timedelta(seconds=5))
    assert slept == []
    # Whoever could not come when it was planned comes first, and no more at once than the account has turns for.
    booked = [{**row, "slot_at": now + timedelta(seconds=n / 5 - 3)} for n, row in enumerate(rows[10:25])]
    with database.begin() as tx:
        later = Admission(10.0, world.clock).admit(tx, [*rows[25:35], *reversed(booked)])
    assert [row["id"] for row in later] == [f"att_{n:04}" for n in range(10, 20)]


class CountingGate:
    def __init__(self) -> None:
        self.entered: list[str] = []
        self.limits: list[float | None] = []

    def enter(self, account: str) -> None:
        self.entered.append(account)

    def limited(self, account: str, seconds: float | None) -> None:
        self.limits.append(seconds)


def test_each_request_has_its_turn_however_many_one_answer_takes() -> None:
    gate = CountingGate()
    with FakeStripe() as fake:
        v1 = fake.client().v1
        customer = v1.customers.create({"name": "Ada"})
        for number in range(12):
            v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 100 + number})
        drafted = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
        api = StripeApi(fake.api_key, base_url=fake.url, gate=gate)
        api.fetch("invoice", str(drafted.id))
        assert gate.entered == ["", ""]  # the invoice, and the lines that it left out
        fake.connect("acct_1")
        fake.faults.api("rate_limit", path="/v1/customers", retry_after=7)
        with pytest.raises(Exception, match="429"):
            api.fetch("customer", customer.id, account="acct_1")
        assert (gate.entered[-1], gate.limits) == ("acct_1", [7.0])
        api.close()


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        opened.policy()
        yield opened


def test_a_provider_that_wants_to_be_left_alone_is_by_the_bookkeeper_the_dunner_and_people(shop: Shop) -> None:
    customer, case = shop.renewal_fails()
    shop.fake.accept(customer)
    world, v1 = shop.world, shop.fake.client().v1
    shop.move(days=2, hours=1)
    shop.fake.faults.api("rate_limit", path="/v1/customers/", method="GET", retry_after=30)
    for name in ("Bob", "Cy"):
        # Two states of one second, which only the provider can tell apart.
        one = v1.customers.create({"name": name})
        v1.customers.update(one.id, {"name": f"{name} II"})
        shop.hear()
    attempts = [row[0] for row in world.rows("inbox", "attempts", "state") if row[1] == "due"]
    assert attempts == [0, 0, 1, 1]  # the first was answered 429; the other was not tried, and has not failed

    shop.dun()
    with pytest.raises(Refused, match="takes no calls now"):
        check_owner(world.database, world.apis, world.merchant_id, PRESETS["polar"])
    assert [one.status for one in shop.attempts(case)] == ["created"]

    shop.move(seconds=40)
    world.post()
    shop.dun()
    assert [one.status for one in shop.attempts(case)] == ["succeeded"]
    assert {row[0] for row in world.rows("inbox", "state")} <= {"processed", "ignored"}


def test_apis_are_opened_in_one_place() -> None:
    opened = re.compile(r"\b(StripeApi|StripeCollecting|PaddleApi|StripeClient)\(|\.api\(")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("libs/billhook", "services")
        for path in (ROOT / folder).rglob("*.py")
        if opened.search(re.sub(r"class \w+\(\w+\)", "", path.read_text()))
    }
    assert found <= {"libs/billhook/providers/stripe_api.py", "libs/billhook/runtime/provider_apis.py"}, found
    assert ProviderApis.__module__ == "billhook.runtime.provider_apis"
