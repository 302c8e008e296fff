"""What an event leaves out, or nobody foresaw: asked for, or said; never dropped, and never guessed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from consumers.lifecycle import BEGAN, checkout, event, invoice, payment, subscription
from consumers.world import World

from billhook.actions.sources import register_source
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store import queues, sources
from billhook.store.database import Database
from billhook.store.documents import read_snapshot
from billhook.store.merchants import set_invoicing
from billhook.store.sources import get_source
from billhook_testing.fake_stripe import FakeStripe


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


def connected(database: Database, fake: FakeStripe, api_key: str | None = None) -> World:
    return World.begin(database, api_key=api_key or fake.api_key, api_base=fake.url, livemode=False)


def told(world: World) -> list[dict[str, Any]]:
    """The bodies of the messages."""
    return [msgspec.json.decode(body) for (body,) in world.rows("messages", "body")]


def warning(world: World) -> str | None:
    with world.database.read() as tx:
        source = get_source(tx, world.stripe_source)
    assert source is not None
    return source.warning


# modes


def test_events_of_the_other_mode_are_kept_and_ignored(world: World) -> None:
    test = event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), BEGAN) | {
        "livemode": False,
        "account": "acct_1",
    }
    live = event(2, "invoice.paid", invoice("in_2", "paid", paid=1190), BEGAN) | {"livemode": True, "account": "acct_1"}
    ignored = world.arrive(world.stripe_source, test)
    world.arrive(world.stripe_source, live)
    world.post()

    assert world.state_of("inbox", ignored) == ("ignored", None)
    assert world.rows("invoices", "external_id", "livemode") == [("in_2", True)]
    assert [(body["data"]["external_id"], body["data"]["livemode"]) for body in told(world)] == [("in_2", True)]
    assert len(world.rows("documents", "id")) == 2

    with world.database.begin() as tx:
        sources.set_mode(tx, world.stripe_source, False)
        queues.replay(tx, "inbox", [ignored], by="test", now=world.clock())
    world.post()
    assert world.rows("invoices", "external_id", "livemode") == [("in_1", False), ("in_2", True)]
    modes = [read_snapshot(snapshot).livemode for (snapshot,) in world.rows("documents", "snapshot")]
    assert sorted(modes) == [False, False, True, True], "the documents of a test say that they are of one"


def test_whether_a_source_is_for_tests_is_what_is_said_or_what_its_key_says(world: World) -> None:
    told = [(None, None), ("sk_live_1", None), ("rk_test_1", None), ("sk_test_1", True), (None, False)]
    with world.database.begin() as tx:
        made = [
            register_source(
                tx,
                world.vault,
                world.clock(),
                merchant_id=world.merchant_id,
                provider="stripe",
                name=f"s{place}",
                secret="whsec_1",
                api_key=key,
                livemode=said,
            )[0]
            for place, (key, said) in enumerate(told)
        ]
    assert [source.livemode for source in made] == [True, True, False, True, False]


def test_a_test_takes_no_number(database: Database) -> None:
    world = World.begin(database, livemode=False)
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(invoice_payments=True))
    for number, mode in enumerate((False, None)):
        paid = event(number, "checkout.session.completed", checkout(f"cs_{number}"), BEGAN)
        world.arrive(world.stripe_source, paid | {"livemode": mode})
    world.post()
    assert len(world.rows("checkout_sessions", "id")) == 2
    assert world.rows("own_invoices", "id") == []


# ties


def renewal(number: int, previous: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    changed = event(number, "customer.subscription.updated", subscription("active", **fields), BEGAN)
    if previous is not None:
        changed["data"]["previous_attributes"] = previous
    return changed


SECOND = [
    renewal(1, None, metadata={"plan": "old"}),
    renewal(2, {"cancel_at_period_end": False}, metadata={"plan": "old"}, cancel_at_period_end=True),
    renewal(3, {"metadata": {"plan": "old"}}, metadata={"plan": "new"}, cancel_at_period_end=True),
    renewal(4, {"metadata": {"by": None}}, metadata={"plan": "new", "by": "Ada"}, cancel_at_period_end=True),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_without_a_key_what_an_event_changed_says_which_state_is_the_later(
    database: Database, order: tuple[int, ...]
) -> None:
    world = World.begin(database)
    for place in order:
        world.arrive(world.stripe_source, SECOND[place])
        if place % 2:
            world.post()
    world.post()
    assert world.rows("subscriptions", "cancel_at_period_end", "metadata") == [(True, {"plan": "new", "by": "Ada"})]


@pytest.mark.parametrize("backwards", [False, True])
def test_what_was_just_made_is_never_later_than_its_change(world: World, backwards: bool) -> None:
    made = event(1, "customer.subscription.created", subscription("past_due"), BEGAN)
    changed = event(2, "customer.subscription.updated", subscription("active"), BEGAN)
    for each in (changed, made) if backwards else (made, changed):
        world.arrive(world.stripe_source, each)
        world.post()
    assert world.rows("subscriptions", "status") == [("active",)]


@pytest.mark.parametrize("seed", range(3))
def test_without_a_key_a_second_ends_in_what_the_provider_says(database: Database, seed: int) -> None:
    with FakeStripe(seed=seed) as fake:
        v1 = fake.client().v1
        one = v1.customers.create({"name": "Ada"})
        for change in ({"name": "Ada Lovelace"}, {"phone": "1"}, {"name": "Ada King"}, {"metadata": {"a": "b"}}):
            v1.customers.update(one.id, change)  # type: ignore[arg-type]
        events = [each for each in fake.events if each["type"].startswith("customer.")]
    assert len({each["created"] for each in events}) == 1
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 0, 1, 4, 2]):
        world = World.begin(database, livemode=False)
        for place in order:
            world.arrive(world.stripe_source, events[place])
            world.post()
        rows = world.rows("customers", "source_id", "name", "phone", "metadata")
        assert [row[1:] for row in rows if row[0] == world.stripe_source] == [("Ada King", "1", {"a": "b"})]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_refused_key_settles_as_none_and_is_said_at_the_source(
    database: Database, fake: FakeStripe, backwards: bool
) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    v1.customers.update(one.id, {"name": "Ada King"})
    world = connected(database, fake, api_key="sk_test_revoked")
    for each in reversed(fake.events) if backwards else fake.events:
        world.arrive(world.stripe_source, each)
    world.post()

    assert {row[0] for row in world.rows("inbox", "state")} == {"processed"}
    assert world.rows("customers", "name") == [("Ada King",)]
    assert "Stripe refuses the API key (401)" in (warning(world) or "")
    assert "set-api-key" in (warning(world) or "")

    with world.database.begin() as tx:
        sources.set_api_key(tx, world.stripe_source, world.vault.seal(fake.api_key), fake.url)
    assert warning(world) is None
    v1.customers.update(one.id, {"name": "Ada L."})
    world.arrive(world.stripe_source, fake.events[-1])
    world.post()
    assert world.rows("customers", "name") == [("Ada L.",)]


# what is cut off


def many_items(fake: FakeStripe, count: int) -> str:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    prices = []
    for number in range(count):
        product = v1.products.create({"name": f"Part {number}"})
        terms: Any = {"currency": "eur", "unit_amount": 100, "product": product.id, "recurring": {"interval": "month"}}
        prices.append({"price": v1.prices.create(terms).id})
    made = v1.subscriptions.create(
        {"customer": one.id, "items": prices, "collection_method": "send_invoice", "days_until_due": 30}  # type: ignore[typeddict-item]
    )
    return made.id


def test_a_subscription_has_all_its_items_where_they_can_be_asked_for(database: Database, fake: FakeStripe) -> None:
    name = many_items(fake, 14)
    [made] = [each for each in fake.events if each["type"] == "customer.subscription.created"]
    assert len(made["data"]["object"]["items"]["data"]) == 10
    asked, alone = connected(database, fake), World.begin(database, livemode=False)
    for world, count in ((asked, 14), (alone, 10)):
        world.arrive(world.stripe_source, made)
        world.post()
        rows = world.rows("subscriptions", "source_id", "external_id", "items_complete", "items")
        [(_, external_id, complete, items)] = [row for row in rows if row[0] == world.stripe_source]
        assert (external_id, complete, len(items)) == (name, count == 14, count)
        [body] = [body["data"] for body in told(world) if body["data"]["source"] == world.stripe_source]
        assert (body["items_complete"], len(body["items"])) == (count == 14, count)


def cut(name: str, status: str, **fields: Any) -> dict[str, Any]:
    lines = [{"id": f"il_{n}", "amount": 100, "description": f"Part {n}"} for n in range(10)]
    shown = {"data": lines, "has_more": True, "total_count": 13}
    return invoice(name, status, total=1300, subtotal=1300, amount_due=1300, lines=shown, **fields)


def test_without_a_key_only_the_document_of_a_long_invoice_waits(world: World) -> None:
    paid = cut("in_1", "paid", paid=1300, amount_remaining=0)
    came = world.arrive(world.stripe_source, event(1, "invoice.paid", paid, BEGAN))
    world.post()

    assert world.rows("invoices", "status", "amount_paid", "lines_complete") == [("paid", 1300, False)]
    [body] = told(world)
    assert (body["type"], body["data"]["status"], body["data"]["lines_complete"]) == ("invoice.paid", "paid", False)
    assert world.rows("documents", "id") == []
    state, reason = world.state_of("inbox", came)
    assert state == "dead"
    assert "set-api-key" in (reason or "")


def test_the_document_that_waited_is_made_when_there_is_a_key_and_nothing_is_told_twice(
    database: Database, fake: FakeStripe
) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    for number in range(13):
        v1.invoice_items.create({"customer": one.id, "currency": "usd", "amount": 100 + number})
    made = v1.invoices.create({"customer": one.id, "auto_advance": False, "pending_invoice_items_behavior": "include"})
    v1.invoices.finalize_invoice(made.id)
    world = World.begin(database, livemode=False)
    [final] = [each for each in fake.events if each["type"] == "invoice.finalized"]
    came = world.arrive(world.stripe_source, final)
    world.post()
    assert world.rows("documents", "id") == []

    with world.database.begin() as tx:
        sources.set_api_key(tx, world.stripe_source, world.vault.seal(fake.api_key), fake.url)
        queues.replay(tx, "inbox", [came], by="test", now=world.clock())
    world.post()
    assert world.state_of("inbox", came) == ("processed", None)
    assert [body["type"] for body in told(world)] == ["invoice.finalized"]
    assert world.rows("invoices", "lines_complete") == [(True,)]
    [(snapshot,)] = world.rows("documents", "snapshot")
    assert len(read_snapshot(snapshot).lines) == 13


# what nobody foresaw


@pytest.mark.parametrize(
    ("kind", "value", "table", "fact"),
    [
        ("invoice.updated", invoice("x", "contested"), "invoices", "invoice.updated"),
        ("customer.subscription.updated", subscription("frozen", id="x"), "subscriptions", "subscription.updated"),
        ("payment_intent.processing", payment("x", "requires_patience"), "payments", "payment.processing"),
        (
            "charge.failed",
            {"id": "x", "status": "reversed", "currency": "eur", "amount": 5},
            "charges",
            "charge.failed",
        ),
        (
            "charge.dispute.updated",
            {"id": "x", "status": "under_mediation", "currency": "eur", "amount": 5},
            "disputes",
            "dispute.updated",
        ),
        (
            "refund.updated",
            {"id": "x", "status": "paused", "currency": "eur", "amount": 5},
            "refunds",
            "refund.updated",
        ),
        (
            "credit_note.updated",
            {"id": "x", "invoice": "in_1", "status": "held", "currency": "eur", "subtotal": 5, "total": 5},
            "credit_notes",
            "credit_note.updated",
        ),
        (
            "invoice_payment.paid",
            {"id": "x", "invoice": "in_1", "status": "pending", "currency": "eur"},
            "invoice_payments",
            "invoice_payment.paid",
        ),
        (
            "checkout.session.completed",
            checkout("x", status="parked", mode="gift"),
            "checkout_sessions",
            "checkout.completed",
        ),
    ],
)
def test_an_unknown_status_is_kept_as_it_is_and_told(
    world: World, kind: str, value: dict[str, Any], table: str, fact: str
) -> None:
    world.arrive(world.stripe_source, event(1, kind, value, BEGAN))
    world.post()
    assert world.rows(table, "external_id", "status") == [("x", value["status"])]
    [body] = told(world)
    assert (body["type"], body["data"]["status"]) == (fact, value["status"])
    assert world.rows("dead_letters", "id") == []


def test_what_newer_versions_call_by_other_names_is_read(world: World) -> None:
    paused = {"pause_collection": {"behavior": "void", "resumes_at": BEGAN + 60}, "schedule": "sub_sched_1"}
    reported = {"type": "payment_record", "payment_record": "pr_1"}
    link = {"id": "inpay_1", "invoice": "in_1", "status": "paid", "currency": "eur", "payment": reported}
    of_account = {"customer": None, "customer_account": "acct_9"}
    world.arrive(
        world.stripe_source,
        event(1, "customer.subscription.updated", subscription("active", **paused, **of_account), BEGAN),
    )
    world.arrive(world.stripe_source, event(2, "invoice_payment.paid", link, BEGAN))
    world.post()
    columns = ("customer", "collection_paused", "collection_resumes_at", "schedule")
    resumes = datetime.fromtimestamp(BEGAN + 60, UTC)
    assert world.rows("subscriptions", *columns) == [("acct_9", "void", resumes, "sub_sched_1")]
    assert world.rows("invoice_payments", "payment_record") == [("pr_1",)]


def test_a_subscription_schedule_is_told_with_its_phases(world: World) -> None:
    phases = [
        {"start_date": BEGAN, "end_date": BEGAN + 60, "items": [{"price": "price_1", "quantity": 2}]},
        {"start_date": BEGAN + 60, "items": [{"price": {"id": "price_2"}}]},
    ]
    schedule = {"id": "sub_sched_1", "customer": "cus_1", "subscription": "sub_1", "status": "active", "phases": phases}
    world.arrive(world.stripe_source, event(1, "subscription_schedule.updated", schedule, BEGAN))
    released = schedule | {"status": "released", "subscription": None, "released_subscription": "sub_1"}
    world.arrive(world.stripe_source, event(2, "subscription_schedule.released", released, BEGAN))
    world.post()
    assert world.rows("subscription_schedules", "status", "subscription") == [("released", "sub_1")]
    assert sorted(body["type"] for body in told(world)) == [
        "subscription_schedule.released",
        "subscription_schedule.updated",
    ]
    prices = [phase["items"][0]["price"] for phase in told(world)[0]["data"]["phases"]]
    assert prices == ["price_1", "price_2"]


# thin events


def thin(kind: str, related: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    made = {"id": "evt_thin", "object": "v2.core.event", "type": kind, "created": "2026-03-01T12:00:00.123Z"}
    return {**made, "livemode": False, "related_object": related, **fields}


def test_a_thin_event_is_told_with_the_object_it_names(database: Database, fake: FakeStripe) -> None:
    one = fake.client().v1.customers.create({"name": "Ada"})
    world = connected(database, fake)
    world.arrive(world.stripe_source, thin("v1.customer.updated", {"id": one.id, "type": "customer", "url": "/"}))
    world.post()
    assert world.rows("customers", "external_id", "name") == [(one.id, "Ada")]
    [body] = told(world)
    assert (body["type"], body["data"]["name"]) == ("customer.updated", "Ada")
    assert body["timestamp"] == "2026-03-01T12:00:00.123000Z"


@pytest.mark.parametrize(
    ("api_key", "related", "said"),
    [
        (None, {"id": "in_7", "type": "invoice"}, "only names its object, invoice in_7. Give the source"),
        ("sk_test_revoked", {"id": "in_7", "type": "invoice"}, "refuses the API key (401)"),
        ("sk_test_fake", {"id": "in_7", "type": "invoice"}, "cannot be fetched"),
        ("sk_test_fake", None, "`related_object` expected"),
    ],
)
def test_a_thin_event_that_cannot_be_filled_waits_with_a_sentence(
    database: Database, fake: FakeStripe, api_key: str | None, related: dict[str, Any] | None, said: str
) -> None:
    world = World.begin(database, api_key=api_key, api_base=fake.url, livemode=False)
    came = world.arrive(world.stripe_source, thin("v1.invoice.paid", related))
    world.post()
    state, reason = world.state_of("inbox", came)
    assert state == "dead"
    assert said in (reason or "")
    assert (warning(world) is not None) == (api_key == "sk_test_revoked")
