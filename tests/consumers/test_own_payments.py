"""A paid checkout becomes an invoice where the provider makes none: once, whatever order its events come in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from consumers.lifecycle import BEGAN, checkout, customer, event, invoice
from consumers.world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook.documents.view import shown
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store import queues
from billhook.store.database import Database
from billhook.store.documents import read_snapshot
from billhook.store.merchants import set_invoicing


def wants_invoices(world: World) -> World:
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(invoice_payments=True, email_documents=True))
    return world


@pytest.fixture
def shop(world: World) -> World:
    return wants_invoices(world)


def paid(number: int = 1, name: str = "cs_1", **fields: Any) -> dict[str, Any]:
    return event(number, "checkout.session.completed", checkout(name, **fields), BEGAN)


def owned(world: World) -> list[tuple[Any, ...]]:
    columns = ("number", "state", "total", "amount_paid", "payment_reference")
    rows = world.rows("own_invoices", "merchant_id", *columns)
    return [row[1:] for row in rows if row[0] == world.merchant_id]


def test_a_paid_checkout_becomes_a_paid_invoice(shop: World) -> None:
    shop.arrive(shop.stripe_source, event(1, "customer.created", customer(), BEGAN))
    shop.arrive(shop.stripe_source, paid(2))
    shop.post()

    assert owned(shop) == [("INV-0001", "paid", 4200, 4200, "pi_cs_1")]
    [kept] = shop.rows("invoices", "source_id", "status", "customer", "customer_name", "amount_paid", "tax")
    assert kept == ("own", "paid", "cus_1", "Ada", 4200, 0)
    told = [row[0] for row in shop.rows("messages", "type")]
    assert sorted(told) == sorted(
        ["customer.created", "checkout.completed", "invoice.created", "invoice.finalized", "invoice.paid"]
    )
    documents = shop.rows("documents", "kind", "mail_to", "snapshot")
    assert [(kind, to) for kind, to, _ in documents] == [
        ("invoice", ["ada@example.com"]),
        ("receipt", ["ada@example.com"]),
    ]
    receipt = read_snapshot(documents[1][2])
    assert receipt.paid_at is not None
    assert receipt.paid_at.timestamp() == BEGAN
    assert receipt.tax_inclusive


def test_an_unknown_customer_is_named_by_what_there_is(shop: World) -> None:
    shop.arrive(shop.stripe_source, paid(1))
    shop.arrive(shop.stripe_source, paid(2, "cs_2", customer=None, client_reference_id="order 7"))
    shop.arrive(shop.stripe_source, paid(3, "cs_3", customer=None))
    shop.post()
    assert sorted(row[0] for row in shop.rows("invoices", "customer_name")) == ["cs_3", "cus_1", "order 7"]


def test_a_guests_invoice_is_made_out_to_the_guest_with_the_tax_that_was_paid(shop: World) -> None:
    guest: dict[str, Any] = {
        "name": "Noor Example",
        "email": "noor@example.com",
        "address": {"line1": "Kade 2", "city": "Utrecht", "postal_code": "3511", "country": "NL"},
        "tax_ids": [{"type": "eu_vat", "value": "NL123456789B01"}],
    }
    bought = {"amount_total": 2420, "total_details": {"amount_tax": 420, "amount_discount": 0, "amount_shipping": 0}}
    parcel = {"name": "Noor at work", "address": {**guest["address"], "line1": "Kade 9"}}
    collected = {"collected_information": {"shipping_details": parcel}}
    shop.arrive(shop.stripe_source, paid(customer=None, customer_details=guest, **collected, **bought))
    shop.post()

    assert owned(shop)[0][:4] == ("INV-0001", "paid", 2420, 2420)
    [kept] = shop.rows("invoices", "customer_name", "customer_email", "total", "tax", "tax_included")
    assert kept == ("Noor Example", "noor@example.com", 2420, 420, 420)
    snapshot = read_snapshot(shop.rows("documents", "kind", "snapshot")[0][1])
    assert snapshot.buyer is not None
    assert snapshot.buyer.address is not None
    assert (snapshot.buyer.address.line1, snapshot.buyer.tax_ids) == ("Kade 2", ("NL123456789B01",))
    document = shown(snapshot)
    assert document.ship_to is not None
    assert (document.ship_to.name, document.ship_to.lines[0]) == ("Noor at work", "Kade 9")
    assert [f"{row.label} {row.amount}" for row in document.totals][:3] == [
        *("Subtotal €24.20", "Total €24.20", "Includes Tax on €20.00 €4.20")
    ]
    assert document.lines[0].notes == ("Includes tax €4.20",)


def test_what_was_paid_is_invoiced_whatever_address_the_guest_gave(shop: World) -> None:
    shop.arrive(shop.stripe_source, paid(customer=None, customer_details={"name": "Noor", "email": "noor@nowhere"}))
    shop.post()
    assert owned(shop)[0][:2] == ("INV-0001", "paid")


@pytest.mark.parametrize("tax", [4201, 5000])
def test_more_tax_than_was_paid_is_a_dead_letter(shop: World, tax: int) -> None:
    odd = shop.arrive(shop.stripe_source, paid(total_details={"amount_tax": tax}))
    shop.post()
    assert shop.state_of("inbox", odd)[0] == "dead"
    assert owned(shop) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"payment_status": "unpaid"},
        {"payment_status": "no_payment_required", "amount_total": 0},
        {"mode": "subscription", "subscription": "sub_1"},
        {"mode": "setup", "amount_total": None},
        {"invoice": "in_1"},
    ],
)
def test_what_is_unpaid_or_invoiced_by_the_provider_gets_none(shop: World, fields: dict[str, Any]) -> None:
    shop.arrive(shop.stripe_source, paid(**fields))
    shop.post()
    assert owned(shop) == []
    assert shop.rows("checkout_sessions", "external_id") == [("cs_1",)]


def test_a_merchant_that_does_not_want_it_gets_none(world: World) -> None:
    world.arrive(world.stripe_source, paid())
    world.post()
    assert owned(world) == []


def test_a_delayed_payment_is_invoiced_when_it_arrives(shop: World) -> None:
    shop.arrive(shop.stripe_source, paid(1, payment_status="unpaid"))
    shop.post()
    assert owned(shop) == []
    shop.arrive(shop.stripe_source, event(2, "checkout.session.async_payment_succeeded", checkout(), BEGAN + 86_400))
    shop.post()
    assert [row[:2] for row in owned(shop)] == [("INV-0001", "paid")]


def test_an_amount_that_no_invoice_can_be_made_of_is_a_dead_letter_beside_good_ones(shop: World) -> None:
    odd = shop.arrive(shop.stripe_source, paid(1, currency="isk", amount_total=4250))
    shop.arrive(shop.stripe_source, paid(2, "cs_2"))
    shop.post()
    state, reason = shop.state_of("inbox", odd)
    assert (state, "cs_1" in (reason or "")) == ("dead", True)
    assert [row[0] for row in owned(shop)] == ["INV-0001"]


def story() -> list[dict[str, Any]]:
    """Three checkouts, each told more than once: completed, and again when the delayed payment came."""
    told = [event(0, "customer.created", customer(), BEGAN)]
    for number in range(1, 4):
        name = f"cs_{number}"
        told += [
            event(number * 10, "checkout.session.completed", checkout(name), BEGAN),
            event(number * 10 + 1, "checkout.session.async_payment_succeeded", checkout(name), BEGAN),
        ]
    return told


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_repetition_makes_one_invoice_of_each(migrated: Database, data: st.DataObject) -> None:
    world = wants_invoices(World.begin(migrated))
    deliveries = data.draw(st.permutations(story() + data.draw(st.lists(st.sampled_from(story()), max_size=4))))
    cuts = data.draw(st.sets(st.integers(0, len(deliveries)), max_size=3))
    for place, told in enumerate(deliveries):
        world.arrive(world.stripe_source, told)
        if place in cuts:
            world.post()
    world.post()
    assert sorted(row[0] for row in owned(world)) == ["INV-0001", "INV-0002", "INV-0003"]
    assert sorted(row[-1] for row in owned(world)) == ["pi_cs_1", "pi_cs_2", "pi_cs_3"]
    kinds = [row[1] for row in world.rows("messages", "merchant_id", "type") if row[0] == world.merchant_id]
    assert kinds.count("invoice.paid") == 3


def test_replaying_the_events_makes_no_second_invoice(shop: World) -> None:
    events = [shop.arrive(shop.stripe_source, told) for told in story()]
    shop.post()
    before = {name: shop.rows(name, "id") for name in ("own_invoices", "invoices", "messages", "documents")}
    with shop.database.begin() as tx:
        queues.replay(tx, "inbox", events, by="test", now=shop.clock())
    shop.post()
    assert {name: shop.rows(name, "id") for name in before} == before


def test_bookkeepers_beside_each_other_make_one_invoice_of_each(shop: World) -> None:
    for told in story():
        shop.arrive(shop.stripe_source, told)
    start = threading.Barrier(4)

    def post() -> None:
        start.wait()
        shop.post()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(post) for _ in range(4)]:
            done.result()
    shop.post()
    assert sorted(row[0] for row in owned(shop)) == ["INV-0001", "INV-0002", "INV-0003"]


def test_a_new_template_does_not_make_the_documents_of_a_mirrored_invoice_again(world: World) -> None:
    world.arrive(world.stripe_source, event(1, "invoice.finalized", invoice("in_1", "open"), BEGAN))
    world.post()
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(template="tpl_new"))
    world.arrive(world.stripe_source, event(2, "invoice.paid", invoice("in_1", "paid", paid=1190), BEGAN + 5))
    world.post()
    documents = {kind: read_snapshot(body) for kind, body in world.rows("documents", "kind", "snapshot")}
    assert {kind: shown.template for kind, shown in documents.items()} == {
        "invoice": "billhook-3",
        "receipt": "tpl_new",
    }
    assert documents["receipt"].seller.name == "Acme Ltd"
