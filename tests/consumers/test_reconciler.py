"""What drifted between the provider, the inbox and the book is found, proved and repaired; and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.reconciling import SETTLE, Shop, pass_time, trade
from consumers.test_reconciler_inside import FOUND_INSIDE
from consumers.world import run_until_quiet
from store.databases import back_up, restore

from billhook.actions import reconciliation as verbs
from billhook.parts import Parts
from billhook.providers.stripe_api import StripeApi
from billhook.rules.book.catalog import Product
from billhook.rules.book.objects import id_of
from billhook.rules.reconcile import FINDING_CLASSES, OBSERVED
from billhook.store import reconciliation, sources
from billhook.store.book import TABLES
from billhook.store.inbox import Arrival, accept, inbox, inbox_conflicts
from billhook.store.reconciliation import Run
from billhook.store.schema import id_at, instant_of, metadata, new_id
from billhook.store.work import DUE
from services.reconciler.comparing import look_at_objects


def test_a_world_in_which_nothing_is_wrong_has_no_findings(shop: Shop) -> None:
    charge = shop.fake.world.all("charge")[-1]["id"]
    shop.fake.client().v1.refunds.create({"charge": charge, "amount": 500})
    shop.fake.open_dispute(charge)
    shop.hear()
    pass_time(shop, hours=1)
    run = shop.reconcile()
    assert (run.state, run.notes, shop.found()) == ("done", [], [])
    assert run.compared > 20
    assert shop.world.rows("messages", "type").count(("reconciliation.run_completed",)) == 1


def test_a_ledger_that_comes_back_older_than_it_was_catches_up_with_the_provider(shop: Shop) -> None:
    def known() -> dict[str, set[tuple[object, ...]]]:
        return {
            kind: set(shop.world.rows(table.name, "external_id", "version_digest")) for kind, table in TABLES.items()
        }

    backup = back_up(shop.world.database)
    trade(shop, "bob@example.com")
    shop.hear()
    before = known()
    pass_time(shop, hours=1)

    restore(shop.world.database, backup)
    assert known() != before
    shop.reconcile(since=shop.world.clock() - timedelta(hours=24))
    assert known() == before


def test_a_world_in_which_much_happens_has_no_findings_over_many_runs(shop: Shop) -> None:
    """While a run walks, customers change at every step, and their webhooks come a step later."""
    v1 = shop.fake.client().v1
    customer = trade(shop, "bob@example.com")
    shop.hear()
    for number in range(3):
        pass_time(shop, hours=1)
        run_id = shop.begin(lists=["events", "customer", "subscription", "invoice", "inbox", "documents"])
        for step in range(100):
            shop.steps().run(None)
            run = shop.run(run_id)
            if run.state != DUE:
                break
            shop.hear()
            if run.list_name is not None:
                v1.customers.update(customer, {"name": f"Bob {number} {step}"})
                v1.customers.create({"email": f"{number}.{step}@example.com"})
            pass_time(shop, seconds=max(1.0, (run.due_at - shop.world.clock()).total_seconds()))
        run = shop.run(run_id)
        assert (run.state, run.confirmed, run.repaired, shop.found()) == ("done", 0, 0, [])


def test_an_event_that_never_came_is_taken_in_and_told_to_merchants(shop: Shop) -> None:
    customer = shop.fake.client().v1.customers.create({"email": "lost@example.com"})
    shop.hear(but=("customer.created",))
    assert shop.value("customer", customer.id, "email") is None
    pass_time(shop, hours=1)

    run = shop.reconcile()
    assert shop.found() == [("missing_event", "event", "repaired")]
    assert (run.confirmed, run.repaired) == (1, 1)
    assert shop.value("customer", customer.id, "email") == "lost@example.com"
    assert ("customer.created", customer.id) in shop.world.rows("messages", "type", "customer")
    assert shop.world.rows("messages", "type").count(("reconciliation.finding_confirmed",)) == 1

    again = shop.reconcile()
    assert (again.confirmed, again.repaired, len(shop.findings())) == (0, 0, 1)


def test_a_webhook_that_comes_after_all_is_no_conflict(shop: Shop) -> None:
    shop.fake.client().v1.customers.create({"email": "late@example.com"})
    late = shop.fake.events[-1]
    shop.heard = len(shop.fake.events)
    pass_time(shop, hours=1)
    shop.reconcile()
    shop.world.arrive(shop.world.stripe_source, json.dumps(late, indent=2).encode(), external_id=late["id"])
    shop.world.post()
    assert shop.world.rows("inbox_conflicts", "id") == []


PLANTED: list[tuple[str, dict[str, Any], str]] = [
    ("customer", {"email": "wrong@example.com"}, "stale_projection"),
    ("subscription", {"status": "canceled"}, "status_mismatch"),
    ("subscription", {"current_period_end": None}, "period_mismatch"),
    ("invoice", {"status": "open"}, "status_mismatch"),
    ("charge", {"status": "failed"}, "status_mismatch"),
    ("product", {"active": False}, "stale_projection"),
]


@pytest.mark.parametrize("planted", [[*PLANTED[:2], *PLANTED[3:]], [PLANTED[2]]], ids=["each", "another"])
def test_each_row_that_differs_is_found_once_under_its_name_and_repaired(
    shop: Shop, planted: list[tuple[str, dict[str, Any], str]]
) -> None:
    columns = [(kind, column) for kind, wrong, _ in planted for column in wrong]
    right = {(kind, column): shop.value(kind, shop.spoil(kind), column) for kind, column in columns}
    names = {kind: shop.spoil(kind, **wrong) for kind, wrong, _ in planted}
    found = sorted((finding_class, kind, "repaired") for kind, _, finding_class in planted)
    run = shop.reconcile()
    assert shop.found() == found
    differences = {(one.kind, one.external_id): one.differences for one in shop.findings()}
    assert (run.confirmed, run.repaired) == (len(planted), len(planted))
    for kind, column in columns:
        assert column in differences[kind, names[kind]]
        assert shop.value(kind, names[kind], column) == right[kind, column]
    again = shop.reconcile()
    assert (again.confirmed, again.repaired, shop.found()) == (0, 0, found)


def test_what_is_about_money_waits_for_a_person_who_repairs_it_once(shop: Shop) -> None:
    external_id = shop.spoil("invoice", amount_paid=1, total=2)
    run = shop.reconcile()
    assert (shop.found(), run.repaired) == ([("amount_mismatch", "invoice", "confirmed")], 0)
    [finding] = shop.findings()
    assert finding.differences["total"] == [2, 1900]
    assert (finding.amount, finding.currency) == (1900, "usd")
    assert shop.reconcile().confirmed == 0

    assert len(shop.repair(finding)) == 1
    assert shop.repair(finding) == []
    shop.world.post()
    assert shop.value("invoice", external_id, "total") == 1900
    assert shop.found() == [("amount_mismatch", "invoice", "repaired")]
    assert shop.reconcile().confirmed == 0


def test_what_was_accepted_is_told_again_only_when_it_is_another_difference(shop: Shop) -> None:
    shop.spoil("invoice", total=2)
    shop.reconcile()
    [finding] = shop.findings()
    with shop.world.database.begin() as tx:
        verbs.accept_finding(tx, finding, by="ada", now=shop.world.clock())
    assert shop.reconcile().confirmed == 0
    assert shop.found() == [("amount_mismatch", "invoice", "accepted")]
    shop.spoil("invoice", total=3)
    assert shop.reconcile().confirmed == 1
    assert shop.found() == [("amount_mismatch", "invoice", "reopened")]


def test_an_object_that_the_book_lost_is_told_to_it_again(shop: Shop) -> None:
    external_id = shop.spoil("customer")
    with shop.world.database.begin() as tx:
        tx.execute(sa.delete(TABLES["customer"]).where(TABLES["customer"].c.external_id == external_id))
    shop.reconcile()
    assert shop.found() == [("missing_local", "customer", "repaired")]
    assert shop.value("customer", external_id, "email") == "ada@example.com"


def test_merchants_hear_of_what_a_repair_changed(shop: Shop) -> None:
    table = TABLES["customer"]
    with shop.world.database.begin() as tx:
        tx.execute(sa.delete(table))
    shop.spoil("invoice", status="open")
    before = [row[0] for row in shop.world.rows("messages", "type")]
    shop.reconcile()
    heard = [row[0] for row in shop.world.rows("messages", "type")]
    for name in before:
        heard.remove(name)
    told = sorted(name for name in heard if not name.startswith("reconciliation."))
    assert told == ["customer.created", "invoice.paid"]


def test_history_is_imported_and_merchants_are_told_nothing_unless_asked_to(shop: Shop) -> None:
    def run_import(**options: Any) -> Run:
        world, now = shop.world, shop.world.clock()
        with world.database.begin() as tx:
            source = sources.get_source(tx, world.stripe_source)
            assert source is not None
            run_id = verbs.begin_run(
                tx, verbs.import_of(source, now - timedelta(days=400), now, by="t", **options), now
            )
        return shop.go_on(run_id)

    customer = trade(shop, "bob@example.com")
    shop.heard = len(shop.fake.events)
    before = shop.world.rows("messages", "id")
    run = run_import()
    assert (run.state, run.notes, run.progress, shop.findings()) == ("done", [], 1.0, [])
    assert run.repaired > 5
    assert shop.value("customer", customer, "email") == "bob@example.com"
    assert {row[0] for row in shop.world.rows("invoices", "status")} == {"paid"}
    assert shop.world.rows("messages", "id") == before
    assert run_import().repaired == 0
    trade(shop, "cy@example.com")
    shop.heard = len(shop.fake.events)
    assert run_import(tells=True, lists=["customer"]).repaired == 1
    heard = shop.world.rows("messages", "type")
    assert len(heard) == len(before) + 2  # the customer, and that the run is over


def test_what_was_before_the_source_was_connected_is_history_and_no_news(shop: Shop) -> None:
    customer = trade(shop, "bob@example.com")
    shop.heard = len(shop.fake.events)
    pass_time(shop, hours=1)
    with shop.world.database.begin() as tx:
        tx.execute(sa.update(sources.sources).values(created_at=shop.world.clock()))
        for table in (*TABLES.values(), inbox):
            tx.execute(sa.delete(table))
    before = shop.world.rows("messages", "id")
    pass_time(shop, hours=1)
    run = shop.reconcile(lists=["events", "customer", "invoice"])
    assert (run.state, run.confirmed, shop.found()) == ("done", 0, [])
    assert run.compared >= 4
    # What happens to it from now on is missed, and told.
    shop.fake.client().v1.customers.update(customer, {"name": "Bob"})
    shop.heard = len(shop.fake.events)
    pass_time(shop, hours=1)
    assert shop.reconcile(lists=["events", "customer"]).repaired == 1
    assert shop.found() == [("missing_event", "event", "repaired")]
    assert shop.value("customer", customer, "name") == "Bob"
    assert len(shop.world.rows("messages", "id")) > len(before)


def test_an_object_that_the_provider_does_not_have_waits_for_a_person(shop: Shop) -> None:
    external_id = shop.spoil("product")
    with shop.world.database.begin() as tx:
        table = TABLES["product"]
        row = dict(tx.execute(sa.select(table).where(table.c.external_id == external_id)).mappings().one())
        ghost = id_of(Product, row["source_id"], row["account"], "prod_ghost")
        tx.execute(table.insert().values({**row, "id": ghost, "external_id": "prod_ghost"}))
    shop.reconcile()
    assert shop.found() == [("missing_remote", "product", "confirmed")]
    [finding] = shop.findings()
    shop.repair(finding)
    shop.world.post()
    assert shop.value("product", "prod_ghost", "deleted")
    assert shop.reconcile().confirmed == 0


def test_events_that_were_given_up_are_found(shop: Shop) -> None:
    with shop.world.database.begin() as tx:
        [lost] = tx.execute(sa.select(inbox.c.id).where(inbox.c.type == "customer.created")).scalars()
        tx.execute(sa.update(inbox).where(inbox.c.id == lost).values(state="dead"))
    pass_time(shop, hours=1)
    shop.reconcile()
    assert shop.found() == [("unprocessed_event", "event", "confirmed")]
    with shop.world.database.begin() as tx:
        tx.execute(sa.update(inbox).where(inbox.c.id == lost).values(state="processed"))
    shop.reconcile()
    assert shop.found() == [("unprocessed_event", "event", "repaired")]


def test_faults_of_every_class_are_as_many_findings_and_none_once_they_are_repaired(shop: Shop) -> None:
    trade(shop, "bob@example.com")
    shop.hear()
    world, v1 = shop.world, shop.fake.client().v1
    ids = {kind: [row[0] for row in world.rows(TABLES[kind].name, "external_id")] for kind in TABLES}

    def edit(kind: str, which: int, **values: Any) -> None:
        table = TABLES[kind]
        with world.database.begin() as tx:
            tx.execute(sa.update(table).where(table.c.external_id == ids[kind][which]).values(**values))

    products, customers = TABLES["product"], TABLES["customer"]
    with world.database.begin() as tx:
        row = dict(tx.execute(sa.select(products).limit(1)).mappings().one())
        tx.execute(products.insert().values({**row, "id": "prod_ghost", "external_id": "prod_ghost"}))
        tx.execute(sa.delete(customers).where(customers.c.external_id == ids["customer"][0]))
        given_up = sa.select(inbox.c.id).where(inbox.c.type == "charge.succeeded").limit(1).scalar_subquery()
        tx.execute(sa.update(inbox).where(inbox.c.id == given_up).values(state="dead"))
    edit("price", 0, currency="chf")
    edit("charge", 1, currency="chf")
    edit("invoice", 0, total=2)
    edit("invoice", 1, status="open")
    edit("subscription", 0, current_period_end=None)
    edit("customer", 1, email="wrong@example.com")
    other = {**shop.fake.events[0], "data": {"object": {**shop.fake.events[0]["data"]["object"], "name": "Eve"}}}
    world.arrive(world.stripe_source, other, external_id=other["id"])
    v1.customers.create({"email": "lost@example.com"})
    shop.heard = len(shop.fake.events)
    pass_time(shop, hours=1)

    by_itself = [
        ("missing_event", "event"),
        ("missing_local", "customer"),
        ("period_mismatch", "subscription"),
        ("stale_projection", "customer"),
        ("status_mismatch", "invoice"),
    ]
    by_a_person = [
        ("amount_mismatch", "invoice"),
        ("conflict", "inbox_conflict"),
        ("currency_mismatch", "charge"),
        ("currency_mismatch", "price"),
        ("missing_remote", "product"),
        ("unprocessed_event", "event"),
    ]
    assert {name for name, _ in by_itself + by_a_person} | set(FOUND_INSIDE) == set(FINDING_CLASSES)
    run = shop.reconcile()
    expected = [(*one, "repaired") for one in by_itself] + [(*one, "confirmed") for one in by_a_person]
    assert shop.found() == sorted(expected)
    assert (run.confirmed, run.repaired, run.notes) == (len(expected), len(by_itself), [])

    for finding in shop.findings():
        if finding.state == "confirmed":
            shop.repair(finding)
    world.post()
    pass_time(shop, hours=1)
    again = shop.reconcile()
    assert (again.confirmed, again.repaired, {one.state for one in shop.findings()}) == (0, 0, {"repaired"})
    assert shop.value("price", ids["price"][0], "currency") == "usd"
    assert shop.value("charge", ids["charge"][1], "currency") == "usd"


def test_what_is_only_on_its_way_is_no_finding(shop: Shop) -> None:
    """Between the first look and the second the webhook comes; and one more change is made, whose webhook is late."""
    v1 = shop.fake.client().v1
    customer = trade(shop, "bob@example.com")
    shop.hear()
    v1.customers.update(customer, {"name": "Bob"})
    run_id = shop.begin(lists=["customer"])
    run_until_quiet(shop.steps())
    assert shop.found() == [("stale_projection", "customer", "suspected")]
    shop.hear()
    v1.customers.update(customer, {"name": "Bobby"})
    shop.world.clock.move(seconds=SETTLE.total_seconds())
    run_until_quiet(shop.steps())
    assert shop.found() == [("stale_projection", "customer", "suspected")]
    shop.hear()
    run = shop.go_on(run_id)
    assert (run.state, run.confirmed, shop.found()) == ("done", 0, [])


def test_a_run_that_dies_at_any_step_goes_on_and_ends_the_same(shop: Shop) -> None:
    for kind, wrong, _ in (PLANTED[0], PLANTED[3]):
        shop.spoil(kind, **wrong)
    run_id = shop.begin()
    for _ in range(400):
        steps = shop.steps()
        run = shop.run(run_id)
        if run.state != DUE:
            break
        shop.world.clock.move(seconds=max(0, (run.due_at - shop.world.clock()).total_seconds()))
        token, jobs = steps.claim(None, 1)
        if jobs:
            steps.handler.perform(jobs)  # and then the process dies: nothing is settled
            shop.world.clock.move(seconds=31)
            token, jobs = steps.claim(None, 1)
            steps.settle({job.id: token for job in jobs}, steps.handler.perform(jobs))
        shop.world.post()
    run = shop.run(run_id)
    assert (run.state, run.confirmed, run.repaired) == ("done", 2, 2)
    assert {one.state for one in shop.findings()} == {"repaired"}


def test_a_run_that_only_observes_changes_nothing(shop: Shop) -> None:
    external_id = shop.spoil("customer", email="wrong@example.com")
    shop.fake.client().v1.customers.create({"email": "lost@example.com"})
    shop.heard = len(shop.fake.events)
    pass_time(shop, hours=1)
    run = shop.reconcile(repairs=False)
    assert (run.confirmed, run.repaired) == (3, 0)  # the event, the customer it made, and the one that was edited
    assert {one.state for one in shop.findings()} == {"confirmed"}
    assert shop.value("customer", external_id, "email") == "wrong@example.com"
    assert shop.reconcile().confirmed == 0
    assert {one.state for one in shop.findings()} == {"repaired"}
    assert shop.value("customer", external_id, "email") == "ada@example.com"


@pytest.mark.parametrize(
    ("fault", "said"), [("forbidden", "rak_customer_read"), ("unknown_version", "customer"), ("repeat", "")]
)
def test_a_provider_that_misbehaves_is_compared_as_far_as_it_can_be(shop: Shop, fault: Any, said: str) -> None:
    shop.fake.faults.api(fault, path="/v1/customers", probability=1.0)
    run = shop.reconcile()
    assert run.confirmed == 0
    assert all(one.state == "suspected" for one in shop.findings())
    assert (run.state, said in "".join(run.notes)) == ("incomplete" if said else "done", True)


def test_a_provider_that_limits_for_an_hour_ends_the_list_and_not_the_run(shop: Shop) -> None:
    shop.spoil("invoice", status="open")
    shop.fake.faults.api("rate_limit", path="/v1/customers", probability=1.0, retry_after=3600)
    run = shop.reconcile()
    assert run.state == "incomplete"
    assert "429" in "".join(run.notes)
    assert shop.found() == [("status_mismatch", "invoice", "repaired")]


def test_a_key_of_the_other_mode_compares_nothing(shop: Shop) -> None:
    with shop.world.database.begin() as tx:
        sources.set_mode(tx, shop.world.stripe_source, True)
    run = shop.reconcile()
    assert (run.state, shop.found()) == ("incomplete", [])
    assert len(run.notes) == 1
    assert "not compared with the provider: the API key is for test mode" in run.notes[0]


def test_nobody_can_post_what_the_reconciler_puts_into_the_inbox(shop: Shop) -> None:
    body = json.dumps({"kind": "customer", "object": {"external_id": "cus_x"}, "asked_at": "2026-01-01T00:00:00Z"})
    headers = json.dumps({"webhook-id": "msg_1"}).encode()
    now, source_id = shop.world.clock(), shop.world.own_source
    posted = Arrival(
        new_id("evt"),
        shop.world.merchant_id,
        source_id,
        "",
        "msg_1",
        OBSERVED,
        headers,
        f'{{"type": "{OBSERVED}", "data": {body}}}'.encode(),
        b"digest",
        now,
    )
    with shop.world.database.begin() as tx:
        accept(tx, [posted], now)
    shop.world.post()
    assert shop.world.state_of("inbox", posted.id)[0] == "ignored"
    assert shop.value("customer", "cus_x", "email") is None


def test_the_schedule_makes_each_slot_once(shop: Shop) -> None:
    from services.reconciler.schedule import Scheduler

    class Bell:
        def ring(self, queue: str, ids: Any) -> None:
            assert queue == metadata.tables["reconciliation_runs"].name

    def runs() -> int:
        with shop.world.database.read() as tx:
            found = reconciliation.list_runs(tx, merchant_id=shop.world.merchant_id)
        # Two sources, and what billhook itself made.
        assert {run.source_id for run in found} == {shop.world.stripe_source, shop.world.own_source, "own"}
        return len(found)

    bell: Any = Bell()
    shop.world.clock.move(days=365)
    one, other = (Scheduler(shop.world.database, bell, shop.world.clock, Parts()) for _ in range(2))
    assert one.make_due()
    assert (other.make_due(), runs()) == ([], 3)
    shop.world.clock.move(seconds=3600)
    assert other.make_due()
    assert (one.make_due(), runs()) == ([], 6)

    # After an outage what nobody compared is made up for, once.
    def end_all(state: str) -> None:
        with shop.world.database.begin() as tx:
            tx.execute(sa.update(reconciliation.reconciliation_runs).values(state=state))

    end_all("done")
    shop.world.clock.move(seconds=36_000)
    one.make_due()
    assert runs() == 9
    end_all("done")
    assert len(one.make_due()) == 2
    with shop.world.database.read() as tx:
        after = [run for run in reconciliation.list_runs(tx) if run.slot.startswith("after ")]
    assert {run.until - run.since > timedelta(hours=9) for run in after} == {True}
    end_all("done")
    assert one.make_due() == []

    # So it is after a burst of conflicts.
    for number in range(10):
        shop.world.arrive(shop.world.stripe_source, b"%d" % number, external_id=shop.fake.events[0]["id"])
    shop.world.clock.at = max(shop.world.clock(), instant_of(new_id("cfl")))
    with shop.world.database.begin() as tx:  # their ids say when they came
        for place, (one_id,) in enumerate(tx.execute(sa.select(inbox_conflicts.c.id)).all()):
            now = id_at("cfl", shop.world.clock()) + f"{place:020}"
            tx.execute(sa.update(inbox_conflicts).where(inbox_conflicts.c.id == one_id).values(id=now))
    assert len(one.make_due()) == 1
    assert one.make_due() == []


def test_a_list_whose_last_object_is_deleted_in_the_middle_is_gone_through_all_the_same(shop: Shop) -> None:
    v1 = shop.fake.client().v1
    for number in range(5):
        v1.customers.create({"email": f"{number}@example.com"})
        pass_time(shop, seconds=60)
    shop.hear()
    pass_time(shop, hours=1)
    seen: set[str] = set()
    run = shop.run(shop.begin(lists=["customer"]))
    api = StripeApi(shop.fake.api_key, base_url=shop.fake.url, page_size=2)
    while run.cursor is not None or not seen:
        looked, following = look_at_objects(shop.world.database, api, run, "customer", run.since)
        assert looked.suspicions == ()
        seen |= {external_id for _, external_id in looked.agreed}
        run = replace(run, **following)
        if len(seen) == 2:
            v1.customers.delete(min(seen, key=lambda one: shop.value("customer", one, "created")))
            shop.hear()
    api.close()
    assert len(seen) == 6
