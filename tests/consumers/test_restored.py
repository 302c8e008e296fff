"""A database that comes back older than it was (a backup is restored, a replica that lagged is promoted): what happened
since is known to the provider, the storage and the merchants, but not to the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from actions.office import Office
from consumers.dunning import Shop, open_shop
from consumers.test_dunning_own import POLICY, TOTAL, issued, state_of
from store.databases import back_up, restore

from billhook.actions import invoices
from billhook.rules.terms import CreditLine, CreditTerms
from billhook.store.database import Database
from billhook.store.own_invoices import OwnInvoice


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        opened.policy(POLICY, source_id=opened.world.stripe_source)
        yield opened


def collected_and_forgotten(shop: Shop) -> tuple[Office, OwnInvoice]:
    """An own invoice that was paid by an attempt of which the ledger knows nothing any more."""
    office, invoice = issued(shop)
    shop.pass_days(13)
    backup = back_up(shop.world.database)
    shop.move(days=2)
    shop.dun()
    assert state_of(shop, invoice) == "paid"
    restore(shop.world.database, backup)
    assert state_of(shop, invoice) == "open"
    return office, invoice


def test_what_was_collected_before_the_ledger_forgot_it_is_not_collected_again(shop: Shop) -> None:
    _, invoice = collected_and_forgotten(shop)
    shop.dun()
    assert shop.charges(str(invoice.customer)) == 1
    assert state_of(shop, invoice) == "paid"
    assert shop.case().stage == "recovered"


def test_a_payment_of_another_amount_is_for_a_person_and_nothing_is_charged(shop: Shop) -> None:
    office, invoice = collected_and_forgotten(shop)
    office.do(invoices.credit, invoice.id, CreditTerms(lines=(CreditLine(line=0, amount=1000),)))
    shop.dun()
    (attempt,) = shop.attempts(shop.case())
    assert (attempt.status, attempt.code) == ("failed", "collected_before")
    assert f"{TOTAL} was collected for it, and {TOTAL - 1000} are open" in str(attempt.message)
    assert shop.charges(str(invoice.customer)) == 1


def test_a_payment_under_way_is_waited_for(shop: Shop) -> None:
    _, invoice = collected_and_forgotten(shop)
    with shop.fake._api.lock:
        (intent,) = [one for one in shop.fake.world.all("payment_intent") if one["customer"] == invoice.customer]
        intent["status"] = "processing"
    shop.dun()
    (attempt,) = shop.attempts(shop.case())
    assert (attempt.status, state_of(shop, invoice)) == ("created", "open")
    with shop.fake._api.lock:
        intent["status"] = "succeeded"
    shop.move(minutes=2)
    shop.dun()
    assert (shop.charges(str(invoice.customer)), state_of(shop, invoice)) == (1, "paid")
