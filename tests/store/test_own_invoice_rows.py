"""The rows of own invoices, credit notes, templates, and of merchants as sellers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.own import TERMS, own_credit_note, own_invoice

from billhook.rules.book.customer import Address
from billhook.rules.document import Seller
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.rules.numbering import Numbering
from billhook.store import merchants
from billhook.store.database import Database
from billhook.store.own_credit_notes import add_own_credit_note, get_own_credit_note, list_own_credit_notes
from billhook.store.own_invoices import add_own_invoice, change_own_invoice, get_own_invoice, list_own_invoices
from billhook.store.templates import create_template, get_template, list_templates, retire_template


def test_an_own_invoice_comes_back_as_it_was_written(database: Database) -> None:
    draft = own_invoice(request_sha256=b"\x00\xff")
    final = replace(
        draft,
        state="open",
        terms=msgspec.structs.replace(TERMS, metadata={"order": "7"}),
        number="INV-1",
        series="INV-",
        sequence=1,
        snapshot=b"{}",
        finalized_at=NOW,
        due_at=NOW + timedelta(days=14),
    )
    with database.begin() as tx:
        assert add_own_invoice(tx, draft)
        assert get_own_invoice(tx, draft.id, lock=True) == draft
        assert not add_own_invoice(tx, replace(draft, total=5))
        change_own_invoice(tx, draft.id, **vars(final))
        assert get_own_invoice(tx, draft.id) == final
        assert get_own_invoice(tx, "inv_none") is None


def test_a_number_is_given_once(database: Database) -> None:
    with database.begin() as tx:
        add_own_invoice(tx, own_invoice(number="INV-1", series="INV-", sequence=1))
        add_own_invoice(tx, own_invoice())
        add_own_invoice(tx, own_invoice())  # drafts have none, and that is no number either
        add_own_invoice(tx, own_invoice("mrc_b", number="INV-1", series="INV-", sequence=1))
    with pytest.raises(sa.exc.IntegrityError), database.begin() as tx:
        change_own_invoice(tx, own_invoices_of(database)[-1], number="INV-1")


def own_invoices_of(database: Database) -> list[str]:
    with database.read() as tx:
        return [row.id for row in list_own_invoices(tx, merchant_id="mrc_a") if row.number is None]


def test_own_invoices_are_listed_by_state_and_customer(database: Database) -> None:
    with database.begin() as tx:
        made = [own_invoice(), own_invoice(state="open"), own_invoice(customer="cus_2")]
        for invoice in made:
            add_own_invoice(tx, invoice)
        ids = sorted(invoice.id for invoice in made)
        assert [row.id for row in list_own_invoices(tx, merchant_id=None, limit=2)] == ids[:2]
        assert [row.id for row in list_own_invoices(tx, merchant_id="mrc_a", after=ids[1])] == ids[2:]
        assert list_own_invoices(tx, merchant_id="mrc_a", state="open") == [made[1]]
        assert list_own_invoices(tx, merchant_id="mrc_a", customer="cus_2") == [made[2]]


@pytest.mark.parametrize(
    ("state", "paid", "credited", "remaining", "creditable"),
    [
        ("draft", 0, 0, 1000, 1000),
        ("open", 0, 300, 700, 700),
        ("uncollectible", 0, 300, 700, 700),
        ("paid", 1000, 0, 0, 1000),
        ("paid", 700, 300, 0, 700),  # credited before it was paid
        ("paid", 0, 1000, 0, 0),
        ("void", 0, 0, 0, 1000),
    ],
)
def test_what_is_open_and_what_may_be_credited(
    state: str, paid: int, credited: int, remaining: int, creditable: int
) -> None:
    invoice = own_invoice(state=state, amount_paid=paid, amount_credited=credited)
    assert (invoice.amount_remaining, invoice.creditable) == (remaining, creditable)


def test_credit_notes_belong_to_their_invoice(database: Database) -> None:
    with database.begin() as tx:
        invoice, other = own_invoice(), own_invoice()
        for one in (invoice, other):
            add_own_invoice(tx, one)
        first = own_credit_note(invoice, number="CN-1", series="CN-", sequence=1)
        second = own_credit_note(invoice, number="CN-2", series="CN-", sequence=2)
        for note in (second, first, own_credit_note(other, number="CN-3", series="CN-", sequence=3)):
            assert add_own_credit_note(tx, note)
        assert not add_own_credit_note(tx, first)
        assert list_own_credit_notes(tx, invoice.id) == [first, second]
        assert get_own_credit_note(tx, first.id) == first
        assert get_own_credit_note(tx, first.id, merchant_id="mrc_b") is None


def test_a_retired_template_is_offered_no_more_and_still_there(database: Database) -> None:
    with database.begin() as tx:
        old, new = (create_template(tx, "mrc_a", name, "<p>", NOW) for name in ("old", "new"))
        assert not retire_template(tx, old.id, NOW, merchant_id="mrc_b")
        assert retire_template(tx, old.id, NOW, merchant_id="mrc_a")
        assert not retire_template(tx, old.id, NOW)
        assert list_templates(tx, "mrc_a") == [new]
        assert get_template(tx, old.id) == replace(old, retired_at=NOW)


def test_a_merchant_sells_under_its_name_until_it_says_more(database: Database) -> None:
    seller = Seller(name="Acme GmbH", address=Address(country="DE"), tax_ids=("DE1",), bank=("IBAN DE00",))
    settings = InvoicingSettings(invoices=Numbering(prefix="RE-", yearly=True), zone="Europe/Berlin")
    with database.begin() as tx:
        made = merchants.create_merchant(tx, "Acme", NOW)
        assert merchants.get_merchant(tx, made.id) == made
        assert (made.seller, made.invoicing) == (Seller(name="Acme"), InvoicingSettings())
        merchants.set_seller(tx, made.id, seller)
        merchants.set_invoicing(tx, made.id, settings)
        changed = replace(made, seller=seller, invoicing=settings)
        assert merchants.get_merchant(tx, made.id) == changed
        assert merchants.merchants_of(tx, [made.id]) == {made.id: changed}
        merchants.set_seller(tx, made.id, None)
        assert merchants.list_merchants(tx) == [replace(changed, seller=Seller(name="Acme"))]


def test_a_default_that_changes_later_is_every_merchants(database: Database) -> None:
    """Only what a merchant chose is stored."""
    with database.begin() as tx:
        made = merchants.create_merchant(tx, "Acme", NOW)
        merchants.set_invoicing(tx, made.id, InvoicingSettings(email_documents=True))
        stored = tx.execute(sa.select(merchants.merchants.c.invoicing)).scalar_one()
    assert stored == {"email_documents": True}
