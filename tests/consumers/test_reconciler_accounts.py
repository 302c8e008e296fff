"""What drifted in the accounts that are connected to a source is found there, account by account."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.reconciling import Shop, pass_time

from billhook.actions import reconciliation as verbs
from billhook.store import reconciliation, sources
from billhook.store.book import TABLES
from billhook.store.reconciliation import SCHEDULE
from services.reconciler import running

ACCOUNT = "acct_1"


def connect(shop: Shop, account: str = ACCOUNT) -> None:
    """An account is connected, and a customer of its own subscribes and pays: the ids are those of the platform's."""
    shop.fake.connect(account)
    v1, options = shop.fake.client().v1, {"stripe_account": account}
    customer = v1.customers.create({"email": "eve@example.com", "name": "Eve"}, options)
    card = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id}, options)
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}}, options)
    recurring: Any = {"interval": "month"}
    price = v1.prices.create(
        {"product_data": {"name": "Pro"}, "currency": "usd", "unit_amount": 2900, "recurring": recurring}, options
    )
    v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]}, options)
    hear_of(shop, account)


def hear_of(shop: Shop, account: str = ACCOUNT, *, but: tuple[str, ...] = (), since: int = 0) -> int:
    events = shop.fake.events_of(account)
    for event in events[since:]:
        if event["type"] not in but:
            shop.world.arrive(shop.world.stripe_source, event)
    shop.world.post()
    return len(events)


def spoil_of(shop: Shop, account: str, kind: str, **values: Any) -> None:
    table = TABLES[kind]
    with shop.world.database.begin() as tx:
        changed = tx.execute(sa.update(table).where(table.c.account == account).values(**values))
    assert changed.rowcount == 1


def found_of(shop: Shop, account: str = ACCOUNT) -> list[tuple[str, str, str]]:
    return sorted((one.finding_class, one.kind, one.state) for one in shop.findings() if one.account == account)


def test_what_drifted_in_a_connected_account_is_found_there_and_repaired(shop: Shop) -> None:
    alone = shop.reconcile().compared
    connect(shop)
    heard = len(shop.fake.events_of(ACCOUNT))
    pass_time(shop, hours=1)
    clean = shop.reconcile()
    assert (clean.state, clean.notes, shop.found(), clean.accounts) == ("done", [], [], 1)
    assert clean.compared > alone + 10

    v1, options = shop.fake.client().v1, {"stripe_account": ACCOUNT}
    pass_time(shop, hours=1)
    v1.customers.create({"email": "lost@example.com"}, options)
    hear_of(shop, but=("customer.created",), since=heard)
    spoil_of(shop, ACCOUNT, "invoice", total=1)
    spoil_of(shop, ACCOUNT, "subscription", status="canceled")
    pass_time(shop, hours=1)
    run = shop.reconcile()
    assert (run.state, run.notes) == ("done", [])
    assert found_of(shop) == [
        ("amount_mismatch", "invoice", "confirmed"),
        ("missing_event", "event", "repaired"),
        ("status_mismatch", "subscription", "repaired"),
    ]
    assert shop.found() == found_of(shop)  # and nothing of the platform's, whose ids are the same
    news = [json.loads(row[0])["data"] for row in shop.world.rows("messages", "body") if b"finding_conf" in row[0]]
    assert {one["account"] for one in news} == {ACCOUNT}

    [money] = [one for one in shop.findings() if one.state == "confirmed"]
    shop.repair(money)
    shop.world.post()
    again = shop.reconcile()
    assert (again.confirmed, {one.state for one in shop.findings()}) == (0, {"repaired"})
    sums = shop.world.rows("invoices", "account", "total", "status")
    assert sums == [("", 1900, "paid"), (ACCOUNT, 2900, "paid")]
    assert len(shop.world.rows("customers", "account", "email")) == 3


def test_a_connected_account_that_the_key_may_not_read_ends_no_run(shop: Shop) -> None:
    for account in ("acct_1", "acct_2", "acct_3"):
        connect(shop, account)
    spoil_of(shop, "acct_3", "subscription", status="canceled")
    shop.fake.disconnect("acct_1")
    shop.fake.faults.api("forbidden", path="/v1/invoices", account="acct_2", probability=1.0)
    pass_time(shop, hours=1)
    run = shop.reconcile(lists=["customer", "invoice", "subscription"])
    assert run.state == "incomplete"
    gone, lacking = run.notes
    assert "acct_1" in gone
    assert "revoked" in gone
    assert "acct_2" in lacking
    assert "rak_invoice_read" in lacking
    assert found_of(shop, "acct_3") == [("status_mismatch", "subscription", "repaired")]
    assert shop.found() == found_of(shop, "acct_3")

    # One that has left the platform makes no hour incomplete, and is tried again by whoever looks further back.
    shop.fake.faults.clear()
    hourly = {"since": shop.world.clock() - timedelta(hours=3), "lists": ["customer"], "by": SCHEDULE}
    hour = shop.reconcile(**hourly, slot="hour 1")
    assert (hour.state, hour.accounts) == ("done", 2)
    assert shop.reconcile(lists=["customer"]).state == "incomplete"
    shop.fake.connect("acct_1")
    assert shop.reconcile(lists=["product"]).state == "done"
    assert shop.reconcile(**hourly, slot="hour 2").accounts == 3


def test_what_was_in_an_account_before_it_was_met_is_history_and_an_import_takes_it(shop: Shop) -> None:
    shop.fake.connect(ACCOUNT)
    v1, options = shop.fake.client().v1, {"stripe_account": ACCOUNT}
    v1.customers.create({"email": "before@example.com"}, options)
    v1.customers.create({"email": "with@example.com"}, options)
    hear_of(shop, since=1)
    pass_time(shop, hours=1)
    run = shop.reconcile()
    assert (run.state, shop.found(), len(shop.world.rows("customers", "id"))) == ("done", [], 2)
    with shop.world.database.begin() as tx:
        source = sources.get_source(tx, shop.source)
        assert source is not None
        now = shop.world.clock()
        run_id = verbs.begin_run(tx, verbs.import_of(source, now - timedelta(days=9), now, by="test"), now)
    shop.go_on(run_id)
    emails = shop.world.rows("customers", "account", "email")
    assert emails[1:] == [(ACCOUNT, "before@example.com"), (ACCOUNT, "with@example.com")]


def test_more_accounts_than_a_run_takes_have_their_turn_in_the_next_of_the_schedule(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "MOST_ACCOUNTS", 2)
    monkeypatch.setattr(running, "MOST_ACCOUNTS", 2)
    for account in ("acct_1", "acct_2", "acct_3"):
        shop.fake.connect(account)
        shop.fake.client().v1.customers.create({"email": "a@example.com"}, {"stripe_account": account})
        hear_of(shop, account)
    pass_time(shop, hours=1)
    seen = []
    for slot in ("hour 1", "hour 2", "night 1", "hour 3"):
        run = shop.go_on(shop.begin(lists=["customer"], slot=slot))
        seen.append((run.accounts, run.account, run.state))
    left_out = (2, "acct_2", "incomplete")  # made by somebody, who has to be told
    assert seen == [left_out, (1, "acct_3", "done"), left_out, left_out]
    assert "from acct_3 on" in run.notes[0]
