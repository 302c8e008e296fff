"""Credit notes take back what was charged, and never more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from actions.office import TERMS, TOTAL, Office

from billhook.actions import invoices
from billhook.errors import Refused
from billhook.rules.terms import CreditLine, CreditTerms
from billhook.store import book
from billhook.store.database import Database

SOME = CreditTerms(lines=(CreditLine(line=0, amount=119),), reason="order_change", memo="Sorry", refund="re_1")
ALL = CreditTerms()


@pytest.fixture
def office(database: Database) -> Office:
    return Office.open(database)


def test_a_credit_note_has_a_number_a_document_and_a_place_in_the_book(office: Office) -> None:
    invoice = office.paid()
    office.clock.move(days=1)
    step = office.do(invoices.credit, invoice.id, SOME)
    note = step.credit_note
    assert (note.number, note.total, step.invoice.amount_credited, step.invoice.state) == ("CN-0001", 119, 119, "paid")
    with office.env.database.read() as tx:
        kept = book.get(tx, "credit_note", note.id, merchant_id=office.merchant_id)
    assert kept is not None
    assert (kept["number"], kept["invoice"], kept["total"], kept["tax"]) == ("CN-0001", invoice.external_id, 119, 19)
    assert (kept["source_id"], kept["reason"], kept["refund"]) == ("own", "order_change", "re_1")
    shown = office.shown(note.id)["credit_note"]
    assert (shown.number, shown.corrects, shown.corrects_issued_at) == ("CN-0001", "INV-0001", invoice.finalized_at)
    assert (shown.total, shown.description, shown.issued_at) == (119, "Sorry", office.clock())
    assert msgspec.json.encode(shown) == note.snapshot
    assert office.told()[3:] == ["credit_note.created"]  # the paid invoice itself stands as it was


def test_of_a_paid_invoice_at_most_what_was_paid_is_credited(office: Office) -> None:
    invoice = office.paid()
    office.do(invoices.credit, invoice.id, SOME)
    rest = office.do(invoices.credit, invoice.id, ALL)
    assert rest.credit_note.total == TOTAL - 119
    assert rest.credit_note.number == "CN-0002"
    for terms in (ALL, SOME):
        assert office.refused(invoices.credit, invoice.id, terms) == "credit_invalid"


def test_what_is_credited_before_the_payment_need_not_be_paid(office: Office) -> None:
    invoice = office.issued()
    step = office.do(invoices.credit, invoice.id, SOME)
    assert step.invoice.amount_remaining == TOTAL - 119
    assert office.told()[2:] == ["credit_note.created", "invoice.updated"]
    paid = office.do(invoices.pay, invoice.id).invoice
    assert paid.amount_paid == TOTAL - 119
    receipt = office.shown(invoice.id)["receipt"]
    assert (receipt.total, receipt.amount_due, receipt.amount_paid) == (TOTAL, TOTAL - 119, TOTAL - 119)
    assert office.do(invoices.credit, invoice.id, ALL).credit_note.total == TOTAL - 119
    assert office.now(invoice.id).creditable == 0


@pytest.mark.parametrize("written_off", [False, True])
def test_an_open_invoice_that_is_credited_wholly_is_settled_without_a_receipt(
    office: Office, written_off: bool
) -> None:
    invoice = office.issued()
    if written_off:
        office.do(invoices.write_off, invoice.id)
    step = office.do(invoices.credit, invoice.id, ALL)
    assert (step.invoice.state, step.invoice.amount_paid, step.invoice.paid_at) == ("paid", 0, office.clock())
    assert list(office.shown(invoice.id)) == ["invoice"]
    assert office.told()[-2:] == ["credit_note.created", "invoice.paid"]


def test_an_invoice_with_a_credit_note_cannot_be_void(office: Office) -> None:
    invoice = office.issued()
    office.do(invoices.credit, invoice.id, SOME)
    assert office.refused(invoices.void, invoice.id) == "invoice_credited"


def test_what_is_not_issued_or_void_cannot_be_credited(office: Office) -> None:
    drafted, void = office.draft().invoice, office.issued()
    office.do(invoices.void, void.id)
    for invoice in (drafted, void):
        assert office.refused(invoices.credit, invoice.id, ALL) == "invoice_state"
    assert office.refused(invoices.credit, "inv_of_a_provider", ALL) == "invoice_not_own"
    for terms in (CreditTerms(lines=(CreditLine(line=7),)), CreditTerms(memo="\0"), CreditTerms(memo="\ud800")):
        assert office.refused(invoices.credit, office.paid().id, terms) in ("credit_invalid", "terms_invalid")


def test_the_same_key_is_the_same_note(office: Office) -> None:
    invoice, other = office.paid(), office.paid()
    first = office.do(invoices.credit, invoice.id, SOME, "return 7")
    again = office.do(invoices.credit, invoice.id, SOME, "return 7")
    assert (again.replayed, again.credit_note, again.rings) == (True, first.credit_note, {})
    assert office.refused(invoices.credit, invoice.id, ALL, "return 7") == "idempotency_key_reused"
    assert office.refused(invoices.credit, other.id, SOME, "return 7") == "idempotency_key_reused"
    assert office.now(invoice.id).amount_credited == 119
    assert office.draft(TERMS, "return 7").replayed is False  # the keys of invoices are others


def test_what_was_prepared_counts_only_while_nothing_was_credited_since(office: Office) -> None:
    invoice, other = office.paid(), office.paid()
    kept, late = (invoices.prepared_credit(office.env.database, one.id, SOME) for one in (invoice, other))
    assert kept is not None
    marked = replace(kept, shown=msgspec.structs.replace(kept.shown, footer="as it was prepared"))
    note = office.do(invoices.credit, invoice.id, SOME, prepared=marked).credit_note
    assert office.shown(note.id)["credit_note"].footer == "as it was prepared"
    office.do(invoices.credit, other.id, ALL)
    assert office.refused(invoices.credit, other.id, SOME, prepared=late) == "credit_invalid"
    assert office.refused(invoices.credit, invoice.id, CreditTerms(lines=(CreditLine(line=9),)), prepared=marked) == (
        "credit_invalid"
    )
    assert invoices.prepared_credit(office.env.database, other.id, SOME) is None
    assert invoices.prepared_credit(office.env.database, office.draft().invoice.id, SOME) is None


def at_once(count: int, act: Any) -> list[Any]:
    start = threading.Barrier(count)

    def run(place: int) -> Any:
        start.wait()
        try:
            return act(place)
        except Refused as refusal:
            return refusal.code

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_many_who_credit_at_once_never_credit_more_than_was_paid(office: Office) -> None:
    invoice = office.paid()
    third = CreditTerms(lines=(CreditLine(line=0, amount=400),))  # of 1190
    answers = at_once(8, lambda _: office.do(invoices.credit, invoice.id, third).credit_note.number)
    assert sorted(answers) == ["CN-0001", "CN-0002"] + ["credit_invalid"] * 6
    assert office.now(invoice.id).amount_credited == 800
    assert [row["last"] for row in office.rows("number_series") if row["series"] == "CN-"] == [2]


def test_a_payment_and_a_credit_at_once_agree_on_what_was_paid(office: Office) -> None:
    invoice = office.issued()
    acts = [
        lambda: office.do(invoices.pay, invoice.id),
        lambda: office.do(invoices.credit, invoice.id, SOME),
    ]
    at_once(2, lambda place: acts[place]())
    now = office.now(invoice.id)
    assert (now.state, now.amount_credited) == ("paid", 119)
    assert now.amount_paid in (TOTAL, TOTAL - 119)
    assert now.creditable == TOTAL - 119


def test_a_key_makes_one_note_however_many_use_it_at_once(office: Office) -> None:
    issued = [office.paid(), office.paid()]
    answers = at_once(
        8, lambda place: office.do(invoices.credit, issued[place % 2].id, SOME, "return 7").credit_note.id
    )
    assert len(set(answers) - {"idempotency_key_reused"}) == 1
    assert sum(office.now(invoice.id).amount_credited for invoice in issued) == 119
    assert [row["number"] for row in office.rows("own_credit_notes")] == ["CN-0001"]
