"""The book against the provider's own objects: whatever order its events came in, the provider is right in the end."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from consumers.lifecycle import BEGAN, customer, event, invoice
from consumers.world import World

from billhook.errors import TryAgain, Unprocessable
from billhook.providers.stripe_api import StripeApi
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import BookObject
from billhook.store import queues
from billhook.store.book import TABLES, value_of
from billhook.store.database import Database
from billhook.store.documents import read_snapshot
from billhook_testing.fake_stripe import FakeStripe

Held = dict[tuple[str, str], BookObject]


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


@pytest.fixture(scope="module")
def lived() -> Iterator[FakeStripe]:
    """A fake at which a whole life was led. Tests only read it."""
    with FakeStripe() as running:
        live(running)
        yield running


def live(fake: FakeStripe) -> None:
    """Two customers: a renewal fails, is paid, refunded and credited, and ends; the other leaves and is deleted."""
    v1 = fake.client().v1
    product = v1.products.create({"name": "Pro"})
    price = v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 1900, "recurring": {"interval": "month"}}
    )
    ada = subscriber(fake, price.id, "Ada")
    fake.decline(ada, "insufficient_funds")
    fake.advance(days=29)
    (unpaid,) = v1.invoices.list({"customer": ada, "status": "open"}).data
    fake.accept(ada)
    paid = v1.invoices.pay(unpaid.id)
    (paying,) = v1.invoice_payments.list({"invoice": paid.id, "status": "paid"}).data
    v1.refunds.create({"payment_intent": str(paying.payment.payment_intent), "amount": 500})
    fake.advance(hours=1)
    v1.credit_notes.create({"invoice": paid.id, "amount": 1400, "refund_amount": 1400})
    v1.products.update(product.id, {"name": "Professional"})
    v1.customers.update(ada, {"phone": "+1 555 0100"})
    fake.advance(days=3)
    (theirs,) = v1.subscriptions.list({"customer": ada}).data
    v1.subscriptions.cancel(theirs.id)
    grace = subscriber(fake, price.id, "Grace")
    draft = v1.invoices.create({"customer": grace, "auto_advance": False})
    v1.invoices.update(draft.id, {"description": "A mistake"})
    fake.advance(hours=1)
    v1.invoices.delete(draft.id)
    v1.customers.update(grace, {"name": "Grace H."})
    v1.customers.delete(grace)


def subscriber(fake: FakeStripe, price: str, name: str) -> str:
    v1 = fake.client().v1
    one = v1.customers.create({"name": name, "email": f"{name.lower()}@example.com"})
    card = v1.payment_methods.attach("pm_card_visa", {"customer": one.id})
    v1.customers.update(one.id, {"invoice_settings": {"default_payment_method": card.id}})
    v1.subscriptions.create({"customer": one.id, "items": [{"price": price}]})
    return one.id


def connected(database: Database, fake: FakeStripe) -> World:
    return World.begin(database, api_key=fake.api_key, api_base=fake.url, livemode=False)


def held(world: World) -> Held:
    """Every object of this world's book."""
    found: Held = {}
    with world.database.read() as tx:
        for kind, table in TABLES.items():
            query = sa.select(table).where(table.c.source_id == world.stripe_source)
            for row in tx.execute(query).mappings():
                found[(kind, row["external_id"])] = value_of(kind, row)
    return found


def of_merchant(world: World, table: str, *columns: str) -> list[tuple[Any, ...]]:
    return [row[1:] for row in world.rows(table, "merchant_id", *columns) if row[0] == world.merchant_id]


def truth(fake: FakeStripe, world: World) -> Held:
    """What the provider says today of every object in the book; the deleted ones are left out."""
    api = StripeApi(fake.api_key, base_url=fake.url)
    found: Held = {}
    for kind, external_id in held(world):
        try:
            value = api.fetch(kind, external_id)
        except Unprocessable:
            continue
        if not value.deleted:
            found[(kind, external_id)] = value
    api.close()
    return found


def pour(world: World, events: list[dict[str, Any]], dice: random.Random) -> list[str]:
    """Put the events into the inbox, shuffled, some of them twice, with the bookkeeper at work in between."""
    deliveries = [*events, *dice.sample(events, k=len(events) // 4)]
    dice.shuffle(deliveries)
    pauses = set(dice.sample(range(len(deliveries)), k=dice.randrange(4)))
    ids = []
    for place, told in enumerate(deliveries):
        ids.append(world.arrive(world.stripe_source, told))
        if place in pauses:
            world.post()
            world.clock.move(minutes=1)
    world.post()
    return sorted(set(ids))


@pytest.mark.parametrize("seed", range(6))
def test_any_order_ends_in_what_the_provider_says(database: Database, lived: FakeStripe, seed: int) -> None:
    world = connected(database, lived)
    pour(world, lived.events, random.Random(seed))

    assert {row[0] for row in of_merchant(world, "inbox", "state")} <= {"processed", "ignored"}
    book = held(world)
    assert {kind for kind, _ in book} >= {
        "customer", "product", "price", "subscription", "invoice", "payment", "charge", "refund", "credit_note"
    }  # fmt: skip
    assert {key: value for key, value in book.items() if not value.deleted} == truth(lived, world)
    assert {kind for (kind, _), value in book.items() if value.deleted} == {"customer", "invoice"}


def test_without_a_key_every_order_ends_in_one_book(database: Database, lived: FakeStripe) -> None:
    books = []
    for seed in range(6):
        world = World.begin(database, livemode=False)
        pour(world, lived.events, random.Random(seed))
        books.append(held(world))
        assert {row[0] for row in of_merchant(world, "inbox", "state")} <= {"processed", "ignored"}

    assert all(book == books[0] for book in books)
    told = {key: getattr(value, "status", None) for key, value in truth(lived, world).items()}
    assert {key: getattr(books[0][key], "status", None) for key in told} == told


def test_replays_change_nothing(database: Database, lived: FakeStripe) -> None:
    world = connected(database, lived)
    ids = pour(world, lived.events, random.Random(1))
    names = ("messages", "deliveries", "documents", "dead_letters")
    book, effects = held(world), {name: world.rows(name, "id") for name in names}

    world.clock.move(days=1)
    with world.database.begin() as tx:
        assert len(queues.replay(tx, "inbox", ids, by="test", now=world.clock())["inbox"]) == len(ids)
    world.post()

    assert held(world) == book
    assert {name: world.rows(name, "id") for name in names} == effects


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_in_one_second_the_providers_word_counts(
    database: Database, fake: FakeStripe, backwards: bool, together: bool
) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    v1.customers.update(one.id, {"name": "Ada Lovelace"})
    v1.customers.update(one.id, {"name": "Ada King"})
    world = connected(database, fake)
    told = [told for told in fake.events if told["type"].startswith("customer.")]
    assert len({each["created"] for each in told}) == 1
    for each in reversed(told) if backwards else told:
        world.arrive(world.stripe_source, each)
        if not together:
            world.post()
    world.post()

    assert held(world) == truth(fake, world)
    assert world.rows("customers", "name") == [("Ada King",)]


@pytest.mark.parametrize("seed", range(4))
def test_of_two_answers_for_one_second_the_later_counts(database: Database, seed: int) -> None:
    with FakeStripe(seed=seed) as fake:
        v1 = fake.client().v1
        world = connected(database, fake)
        one = v1.customers.create({"name": "Ada"})
        for name in ("Ada Lovelace", "Ada King", "Ada L.", "Ada K."):
            v1.customers.update(one.id, {"name": name})
            for told in fake.events:
                world.arrive(world.stripe_source, told)
            world.clock.move(seconds=1)
            world.post()
            assert world.rows("customers", "name") == [(name,)]

        v1.customers.delete(one.id)
        for told in fake.events:
            world.arrive(world.stripe_source, told)
        world.post()
        assert world.rows("customers", "deleted") == [(True,)]


def test_an_object_that_is_gone_by_now_is_no_dead_letter(database: Database, fake: FakeStripe) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    draft = v1.invoices.create({"customer": one.id, "auto_advance": False})
    v1.invoices.update(draft.id, {"description": "A mistake"})
    fake.advance(hours=1)
    v1.invoices.delete(draft.id)
    world = connected(database, fake)
    for told in fake.events:
        if told["type"] != "invoice.deleted":
            world.arrive(world.stripe_source, told)
    world.post()
    assert world.rows("dead_letters", "reason") == []
    assert world.rows("invoices", "status", "deleted") == [("draft", False)]

    (gone,) = (told for told in fake.events if told["type"] == "invoice.deleted")
    world.arrive(world.stripe_source, gone)
    world.post()
    assert world.rows("invoices", "deleted") == [(True,)]


def test_an_invoice_is_shown_with_lines_that_no_event_carried(database: Database, fake: FakeStripe) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    for number in range(120):
        v1.invoice_items.create(
            {"customer": one.id, "currency": "usd", "amount": 100 + number, "description": f"Item {number}"}
        )
    made = v1.invoices.create({"customer": one.id, "auto_advance": False, "pending_invoice_items_behavior": "include"})
    fake.advance(seconds=5)
    v1.invoices.finalize_invoice(made.id)
    (told,) = (told for told in fake.events if told["type"] == "invoice.finalized")
    assert told["data"]["object"]["lines"]["has_more"]
    world = connected(database, fake)
    world.arrive(world.stripe_source, told)
    world.post()

    wanted = {f"Item {number}": 100 + number for number in range(120)}
    kept = held(world)[("invoice", made.id)]
    assert isinstance(kept, Invoice)
    assert kept.lines_complete
    assert {line.description: line.amount for line in kept.lines} == wanted
    ((snapshot,),) = of_merchant(world, "documents", "snapshot")
    assert {line.description: line.amount for line in read_snapshot(snapshot).lines} == wanted


@pytest.mark.parametrize(
    ("fault", "waits", "said"),
    [("rate_limit", 7, "429"), ("server_error", 1, "500"), ("timeout_before", 1, "could not be reached")],
)
def test_a_provider_that_does_not_answer_is_asked_again_and_holds_up_nobody_else(
    database: Database, fake: FakeStripe, fault: Any, waits: int, said: str
) -> None:
    v1 = fake.client().v1
    for name in ("Ada", "Grace"):
        one = v1.customers.create({"name": name})
        v1.customers.update(one.id, {"name": f"{name}, twice"})
    v1.products.create({"name": "Tea"})
    world = connected(database, fake)
    for told in fake.events:
        world.arrive(world.stripe_source, told)
    # One fault for two questions: nobody who does not answer is asked twice in a row.
    fake.faults.api(fault, times=1, retry_after=7)
    world.post()

    waiting = [row[1:] for row in world.rows("inbox", "state", "attempts", "due_at", "last_error") if row[0] == "due"]
    assert len(waiting) == 4
    assert {attempts for attempts, _, _ in waiting} == {1}
    assert all((due_at - world.clock()).total_seconds() >= waits for _, due_at, _ in waiting)
    assert all(said in reason for _, _, reason in waiting)
    assert world.rows("products", "name") == [("Tea",)]
    assert world.rows("customers", "name") == []

    world.clock.move(seconds=10)
    world.post()
    assert held(world) == truth(fake, world)
    assert {row[0] for row in world.rows("inbox", "state")} == {"processed"}


def test_an_outage_longer_than_patience_ends_in_dead_letters_that_can_be_replayed(
    database: Database, fake: FakeStripe
) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    v1.customers.update(one.id, {"name": "Ada King"})
    world = connected(database, fake)
    ids = [world.arrive(world.stripe_source, told) for told in fake.events]
    fake.faults.api("server_error", probability=1.0)
    for _ in range(12):
        world.post()
        world.clock.move(hours=9)
    dead = [row_id for row_id in ids if world.state_of("inbox", row_id)[0] == "dead"]
    assert len(dead) == 1
    assert "gave up after 11 attempts" in (world.state_of("inbox", dead[0])[1] or "")

    fake.faults.clear()
    with world.database.begin() as tx:
        queues.replay(tx, "inbox", dead, by="test", now=world.clock())
    world.post()
    assert held(world) == truth(fake, world)


def test_a_silent_provider_is_not_waited_for_long(fake: FakeStripe) -> None:
    one = fake.client().v1.customers.create({"name": "Ada"})
    fake.faults.api("timeout_before", hang_seconds=60)
    api = StripeApi(fake.api_key, base_url=fake.url, timeout_seconds=0.2)
    with pytest.raises(TryAgain, match="could not be reached"):
        api.fetch("customer", one.id)
    assert api.fetch("customer", one.id).external_id == one.id
    api.close()


@contextmanager
def platform() -> Iterator[tuple[str, list[str]]]:
    """An API of a platform with connected accounts: it names each customer after the account it was asked for."""
    asked: list[str] = []
    lines = [{"id": f"il_{n:03}", "object": "line_item", "amount": n} for n in range(250)]

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url, account = urlsplit(self.path), self.headers.get("Stripe-Account", "")
            asked.append(account)
            value: dict[str, Any] = customer(name=account or "the platform's")
            if url.path == "/v1/invoices/in_1":
                value = invoice("in_1", "open", lines={"data": lines[:10], "has_more": True})
            if url.path == "/v1/invoices/in_1/lines":
                after = parse_qs(url.query).get("starting_after", ["il_-01"])[0]
                start = int(after.removeprefix("il_")) + 1
                value = {"object": "list", "data": lines[start : start + 100], "has_more": start < 150, "url": url.path}
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def test_a_connected_accounts_object_is_asked_for_in_its_account(database: Database) -> None:
    with platform() as (url, asked):
        world = World.begin(database, api_key="sk_test_platform", api_base=url)
        for number, account in enumerate(("", "", "acct_1", "acct_1", "acct_2")):
            told = event(number, "customer.updated", customer(name=f"Name {number}"), BEGAN)
            world.arrive(world.stripe_source, {**told, "account": account or None})
        world.post()

        # The same id in three accounts is three customers; the last has one state, and nobody was asked about it.
        assert world.rows("customers", "account", "name") == [
            ("", "the platform's"),
            ("acct_1", "acct_1"),
            ("acct_2", "Name 4"),
        ]
        assert sorted(asked) == ["", "acct_1"]


def test_every_page_of_a_connected_accounts_lines_is_asked_for_in_its_account(database: Database) -> None:
    with platform() as (url, asked):
        world = World.begin(database, api_key="sk_test_platform", api_base=url)
        cut = invoice("in_1", "open", lines={"data": [{"id": "il_000", "amount": 0}], "has_more": True})
        world.arrive(world.stripe_source, {**event(1, "invoice.finalized", cut, BEGAN), "account": "acct_1"})
        world.post()

        kept = held(world)[("invoice", "in_1")]
        assert isinstance(kept, Invoice)
        assert [line.amount for line in kept.lines] == list(range(250))
        assert asked == ["acct_1"] * 4


@pytest.mark.parametrize("lines", [1, 12])
def test_an_invoice_that_is_void_by_now_still_gets_the_document_it_was_issued_with(
    database: Database, fake: FakeStripe, lines: int
) -> None:
    v1 = fake.client().v1
    one = v1.customers.create({"name": "Ada"})
    for number in range(lines):
        v1.invoice_items.create({"customer": one.id, "currency": "usd", "amount": 100 + number})
    made = v1.invoices.create({"customer": one.id, "auto_advance": False, "pending_invoice_items_behavior": "include"})
    v1.invoices.finalize_invoice(made.id)
    fake.advance(hours=1)
    v1.invoices.void_invoice(made.id)
    world = connected(database, fake)
    for told in fake.events:
        world.arrive(world.stripe_source, told)
    world.post()

    assert world.rows("invoices", "status") == [("void",)]
    made_of = {kind: read_snapshot(snapshot) for kind, snapshot in world.rows("documents", "kind", "snapshot")}
    assert {kind: (shown.status, len(shown.lines)) for kind, shown in made_of.items()} == {
        "invoice": ("open", lines),
        "void": ("void", lines),
    }
