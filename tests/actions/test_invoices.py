"""The life of an invoice of our own, from the draft to its end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from actions.office import TERMS, TOTAL, Office
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook.actions import invoices
from billhook.documents.einvoice.facturx import facturx_xml
from billhook.documents.view import shown
from billhook.documents.view import shown as view_of
from billhook.errors import Refused
from billhook.rules.book.customer import Address
from billhook.rules.days import day_of
from billhook.rules.document import TEMPLATE, Seller, Snapshot
from billhook.rules.invoice_state import IllegalTransition, Verb, after
from billhook.rules.numbering import Numbering
from billhook.rules.terms import CreditLine, CreditTerms, LineTerms, Party, Terms
from billhook.store import book
from billhook.store.database import Database
from billhook.store.endpoints import create_endpoint
from billhook.store.own_invoices import OwnInvoice

FREE = msgspec.structs.replace(TERMS, lines=(LineTerms(description="Trial", unit_amount="0"),))
BERLIN = Address(line1="Invalidenstr. 1", postal_code="10115", city="Berlin", country="DE")
CHEAP = msgspec.structs.replace(TERMS, lines=(LineTerms(description="Sticker", unit_amount="250"),))


@pytest.fixture
def office(database: Database) -> Office:
    return Office.open(database)


def entry(office: Office, invoice: OwnInvoice) -> dict[str, Any]:
    """The invoice in the book."""
    with office.env.database.read() as tx:
        row = book.get(tx, "invoice", invoice.id, merchant_id=office.merchant_id)
    assert row is not None
    return dict(row)


def test_a_draft_becomes_an_open_invoice_and_is_paid(office: Office) -> None:
    drafted = office.draft().invoice
    assert (drafted.state, drafted.number, drafted.total) == ("draft", None, TOTAL)
    assert office.rows("documents") == []

    final = office.do(invoices.finalize, drafted.id).invoice
    assert (final.state, final.number, final.amount_remaining) == ("open", "INV-0001", TOTAL)
    assert final.due_at == office.clock() + timedelta(days=14)

    office.clock.move(days=3)
    assert office.refused(invoices.pay, drafted.id, method="two\nlines") == "method_invalid"
    step = office.do(invoices.pay, drafted.id, reference="transfer 7", method="Bank transfer")
    assert (step.invoice.state, step.invoice.amount_paid, step.invoice.amount_remaining) == ("paid", TOTAL, 0)
    assert step.invoice.payment_reference == "transfer 7"
    assert office.now(drafted.id) == step.invoice
    facts = [(fact.label, fact.value) for fact in view_of(office.shown(drafted.id)["receipt"]).facts]
    assert facts[3:5] == [("Payment method", "Bank transfer"), ("Payment reference", "transfer 7")]

    assert office.told() == ["invoice.created", "invoice.finalized", "invoice.paid"]
    kept = entry(office, final)
    assert (kept["status"], kept["number"], kept["source_id"], kept["total"]) == ("paid", "INV-0001", "own", TOTAL)
    assert [(line["description"], line["amount"], line["tax"]) for line in kept["lines"]] == [
        ("Plan", 1000, 190),
        ("Hours", 10000, 1900),
    ]
    shown = office.shown(drafted.id)
    assert {kind: (s.status, s.number, s.amount_paid) for kind, s in shown.items()} == {
        "invoice": ("open", "INV-0001", 0),
        "receipt": ("paid", "INV-0001", TOTAL),
    }
    assert [len(step.rings["documents"]), step.rings["deliveries"]] == [1, []]


def test_the_merchants_endpoints_hear_of_it(office: Office) -> None:
    with office.env.database.begin() as tx:
        endpoint = create_endpoint(tx, office.merchant_id, "https://a.test", ["invoice.*"], b"s", office.clock())
    step = office.draft()
    [delivery] = office.rows("deliveries")
    assert (step.rings["deliveries"], delivery["endpoint_id"]) == ([delivery["id"]], endpoint.id)
    [message] = office.rows("messages")
    told = msgspec.json.decode(message["body"])
    assert told["type"] == "invoice.created"
    assert (told["data"]["id"], told["data"]["source"], told["data"]["account"]) == (step.invoice.id, "own", None)
    assert (message["customer"], told["data"]["lines"][0]["tax"]) == ("cus_1", 190)


def test_a_draft_changes_as_long_as_it_is_one(office: Office) -> None:
    drafted = office.draft().invoice
    for terms in (CHEAP, TERMS, CHEAP):  # within one tick of the clock: the last is what counts
        office.do(invoices.change_draft, drafted.id, invoices.check(terms))
    assert (office.now(drafted.id).total, entry(office, drafted)["total"]) == (250, 250)

    office.do(invoices.finalize, drafted.id)
    assert office.refused(invoices.change_draft, drafted.id, invoices.check(TERMS)) == "invoice_state"


def test_a_deleted_draft_is_gone_from_the_book_and_took_no_number(office: Office) -> None:
    drafted = office.draft().invoice
    office.do(invoices.delete_draft, drafted.id)
    assert office.now(drafted.id).state == "deleted"
    assert entry(office, drafted)["deleted"]
    assert office.told() == ["invoice.created", "invoice.deleted"]
    assert office.issued().number == "INV-0001"


def test_a_void_invoice_keeps_its_number_and_says_so(office: Office) -> None:
    invoice = office.issued()
    voided = office.do(invoices.void, invoice.id).invoice
    assert (voided.state, voided.number, voided.amount_remaining) == ("void", "INV-0001", 0)
    shown = office.shown(invoice.id)["void"]
    assert (shown.number, shown.status, shown.voided_at) == ("INV-0001", "void", office.clock())
    assert office.issued().number == "INV-0002"


def test_what_was_written_off_may_be_paid_after_all(office: Office) -> None:
    invoice = office.issued()
    assert office.do(invoices.write_off, invoice.id).invoice.amount_remaining == TOTAL
    assert entry(office, invoice)["status"] == "uncollectible"
    assert office.do(invoices.pay, invoice.id).invoice.amount_paid == TOTAL
    assert office.told()[2:] == ["invoice.marked_uncollectible", "invoice.paid"]


def test_where_nothing_is_to_be_paid_it_is_paid_at_once_and_without_a_receipt(office: Office) -> None:
    invoice = office.issued(FREE)
    assert (invoice.state, invoice.number, invoice.amount_paid) == ("paid", "INV-0001", 0)
    assert office.told() == ["invoice.created", "invoice.finalized", "invoice.paid"]
    assert list(office.shown(invoice.id)) == ["invoice"]


def test_an_invoice_without_lines_is_not_issued(office: Office) -> None:
    drafted = office.draft(msgspec.structs.replace(TERMS, lines=())).invoice
    assert office.refused(invoices.finalize, drafted.id) == "invoice_empty"


def test_what_was_frozen_stays_whatever_the_merchant_changes(office: Office) -> None:
    invoice = office.issued()
    office.settle(template="tpl_new", invoices=Numbering(prefix="RE-"))
    office.sell(Seller(name="Renamed"))
    paid = office.do(invoices.pay, invoice.id).invoice
    assert paid.snapshot == invoice.snapshot
    for told in office.shown(invoice.id).values():
        assert (told.seller.name, told.number, told.template) == ("Acme", "INV-0001", TEMPLATE)
    newer = office.issued()
    assert newer.number == "RE-0001"
    assert office.shown(newer.id)["invoice"].seller.name == "Renamed"


def test_documents_are_mailed_to_the_buyer_where_the_merchant_wants_it(office: Office) -> None:
    office.sell(Seller(name="Acme", address=BERLIN, tax_ids=("DE123456789",)))
    office.settle(email_documents=True, e_invoice=True)
    buyer = msgspec.structs.replace(TERMS.buyer, address=BERLIN)
    dated = msgspec.structs.replace(TERMS, buyer=buyer, period_start=office.clock(), period_end=office.clock())
    invoice = office.paid(dated)
    office.paid(msgspec.structs.replace(dated, buyer=msgspec.structs.replace(buyer, email=None)))
    asked = [
        (row["kind"], row["mail_to"], row["e_invoice"])
        for row in office.rows("documents")
        if row["subject_id"] == invoice.id
    ]
    assert sorted(asked) == [("invoice", ["ada@example.com"], True), ("receipt", ["ada@example.com"], False)]
    assert [row["mail_to"] for row in office.rows("documents")].count(None) == 2


def test_what_an_e_invoice_lacks_is_said_before_it_has_a_number(office: Office) -> None:
    office.settle(e_invoice=True)
    draft = office.draft().invoice
    with pytest.raises(Refused, match=r"the seller's tax id is missing.*the buyer's"):
        office.do(invoices.finalize, draft.id)
    assert office.refused(invoices.finalize, draft.id) == "e_invoice_incomplete"
    office.sell(Seller(name="Acme", address=BERLIN, tax_ids=("DE123456789",)))
    known = msgspec.structs.replace(TERMS, buyer=msgspec.structs.replace(TERMS.buyer, address=BERLIN))
    office.do(invoices.change_draft, draft.id, invoices.check(known))
    with pytest.raises(Refused, match="the date of supply is missing"):
        office.do(invoices.finalize, draft.id)
    office.do(
        invoices.change_draft,
        draft.id,
        invoices.check(msgspec.structs.replace(known, period_start=office.clock(), period_end=office.clock())),
    )
    assert office.do(invoices.finalize, draft.id).invoice.number == "INV-0001"


def test_numbers_go_by_customer_and_year_where_the_merchant_wants_it(office: Office) -> None:
    office.settle(invoices=Numbering(prefix="R-", per="customer", yearly=True, digits=2), zone="Pacific/Auckland")
    first = office.issued().number
    second = office.issued(msgspec.structs.replace(TERMS, customer="cus_2")).number
    assert (first, second) == ("R-cus_1-2026-01", "R-cus_2-2026-01")
    office.clock.at = office.clock.at.replace(month=12, day=31, hour=12)  # in Auckland the year is over
    assert office.issued().number == "R-cus_1-2027-01"


def test_number_page_and_data_say_the_same_day_where_the_merchant_is(office: Office) -> None:
    """In Berlin it is 2027 already."""
    office.settle(invoices=Numbering(yearly=True), zone="Europe/Berlin")
    office.clock.at = datetime(2026, 12, 31, 23, 30, 0, 5, tzinfo=UTC)
    invoice = office.issued()
    snapshot = office.shown(invoice.id)["invoice"]
    assert invoice.number == "INV-2027-0001"
    assert "January 1, 2027".replace(" ", "\N{NO-BREAK SPACE}") in {fact.value for fact in shown(snapshot).facts}
    seller = Seller(name="Acme GmbH", address=BERLIN, tax_ids=("DE123456789",))
    complete = msgspec.structs.replace(snapshot, seller=seller, buyer=Party(name="Ada", address=BERLIN))
    assert b'<udt:DateTimeString format="102">20270101</udt:DateTimeString>' in facturx_xml(complete)


def test_paper_profile_and_the_buyers_reference_are_part_of_what_was_issued(office: Office) -> None:
    terms = msgspec.structs.replace(TERMS, locale="en-US", buyer_reference="PO 4711")
    office.settle(paper="a4", e_invoice_profile="xrechnung")
    invoice = office.paid(terms)
    note = office.do(invoices.credit, invoice.id, CreditTerms()).credit_note
    office.settle()
    for snapshot in (*office.shown(invoice.id).values(), *office.shown(note.id).values()):
        said = shown(snapshot)
        assert (said.paper, snapshot.profile) == ("a4", "xrechnung")
        assert ("Your reference", "PO 4711") in {(fact.label, fact.value) for fact in said.facts}
    assert shown(office.shown(office.issued(terms).id)["invoice"]).paper == "us-letter"


def test_it_is_due_so_many_days_of_a_calendar_later_whatever_the_clocks_do(office: Office) -> None:
    office.settle(zone="Europe/Berlin")
    office.clock.at = datetime(2026, 3, 20, 22, 50, tzinfo=UTC)  # 23:50 in Berlin; the clocks go forward on the 29th
    due_at = office.issued().due_at
    assert due_at is not None
    assert day_of(due_at, "Europe/Berlin") == date(2026, 4, 3)


def test_a_time_of_payment_is_not_before_the_invoice_and_not_to_come(office: Office) -> None:
    invoice = office.issued()
    office.clock.move(days=2)
    for wrong in (
        office.clock() + timedelta(seconds=1),
        office.clock() - timedelta(days=2, seconds=1),
        office.clock().replace(tzinfo=None),
    ):
        assert office.refused(invoices.pay, invoice.id, paid_at=wrong) == "paid_at_invalid"
    assert office.refused(invoices.pay, invoice.id, reference="a\nb") == "reference_invalid"
    yesterday = office.clock() - timedelta(days=1)
    assert office.do(invoices.pay, invoice.id, paid_at=yesterday).invoice.paid_at == yesterday


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"currency": "zzz"}, "terms_invalid"),
        ({"currency": "EURO"}, "terms_invalid"),
        ({"locale": "xx-nowhere"}, "terms_invalid"),
        ({"lines": (LineTerms(description="x", unit_amount="-1"),)}, "terms_invalid"),
        ({"lines": (LineTerms(description="", unit_amount="1"),)}, "terms_invalid"),
        ({"lines": (LineTerms(description="x", unit_amount="1e3"),)}, "terms_invalid"),
        ({"lines": (LineTerms(description="x", unit_amount="1"),) * 10_001}, "terms_invalid"),
        ({"description": "a\0b"}, "terms_invalid"),
        ({"description": "a\\\0b"}, "terms_invalid"),
        ({"customer": "\0"}, "terms_invalid"),
        ({"metadata": {"a": "\ud800"}}, "terms_invalid"),
        ({"metadata": {"a": "x" * 501}}, "terms_invalid"),
        ({"metadata": {"k" * 41: "x"}}, "terms_invalid"),
        ({"metadata": {str(key): "x" for key in range(51)}}, "terms_invalid"),
        ({"buyer": Party(name="A", address=Address(line1="x" * 256))}, "terms_invalid"),
        ({"pay_url": "javascript:alert(1)"}, "url_invalid"),
    ],
)
def test_terms_that_cannot_be_charged_are_refused(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refusal:
        invoices.check(msgspec.structs.replace(TERMS, **change))
    assert refusal.value.code == code


def test_a_backslash_before_u0000_is_text_like_any_other(office: Office) -> None:
    assert office.draft(msgspec.structs.replace(TERMS, description="\\u0000")).invoice.state == "draft"


def test_the_same_key_is_the_same_invoice(office: Office) -> None:
    first = office.draft(key="order 7")
    again = office.draft(key="order 7")
    assert (again.replayed, again.invoice, again.rings) == (True, first.invoice, {})
    office.do(invoices.change_draft, first.invoice.id, invoices.check(CHEAP))
    assert office.draft(key="order 7").invoice.total == 250  # what became of it; the request was the same
    assert office.refused(invoices.draft, office.merchant, invoices.check(CHEAP), "order 7") == "idempotency_key_reused"
    assert office.refused(invoices.draft, office.merchant, invoices.check(TERMS), "\n") == "idempotency_key_invalid"
    assert office.draft(key="order 8").invoice.id != first.invoice.id
    assert len(office.rows("own_invoices")) == 2


def test_nothing_crosses_merchants(office: Office) -> None:
    other = Office.open(office.env.database, "Other")
    mine, theirs = office.draft(key="same").invoice, other.draft(key="same").invoice
    assert mine.id != theirs.id
    assert [
        house.do(invoices.finalize, made.id).invoice.number for house, made in ((office, mine), (other, theirs))
    ] == [
        "INV-0001",
        "INV-0001",
    ]
    office.do(invoices.pay, mine.id)
    assert other.now(theirs.id).state == "open"
    assert other.told() == ["invoice.created", "invoice.finalized"]


def test_an_invoice_of_a_provider_is_changed_there(office: Office) -> None:
    for verb in (invoices.finalize, invoices.pay, invoices.void, invoices.write_off, invoices.delete_draft):
        assert office.refused(verb, "inv_of_a_provider") == "invoice_not_own"


VERBS: dict[Verb, Callable[..., Any]] = {
    "finalize": invoices.finalize,
    "pay": invoices.pay,
    "void": invoices.void,
    "write_off": invoices.write_off,
    "delete": invoices.delete_draft,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verbs=st.lists(st.sampled_from([*VERBS, "credit some", "credit all"]), max_size=8),
    terms=st.sampled_from([TERMS, CHEAP]),
)
def test_whatever_is_asked_an_invoice_goes_only_where_it_may(
    migrated: Database, verbs: list[str], terms: Terms
) -> None:
    """And what it may not leaves every row as it was."""
    office = Office.open(migrated)
    invoice = office.draft(terms).invoice
    for verb in verbs:
        before = office.now(invoice.id)
        possible, act = _model(before, verb)
        if not possible:
            office.refused(*act)
            continue
        office.do(*act)
        now, kept = office.now(invoice.id), entry(office, invoice)
        assert kept["status"] == ("draft" if now.state == "deleted" else now.state)
        assert kept["deleted"] == (now.state == "deleted")
        assert (kept["amount_paid"], kept["amount_remaining"]) == (now.amount_paid, now.amount_remaining)
        if now.state not in ("void", "deleted"):
            assert kept["amount_due"] == kept["amount_paid"] + kept["amount_remaining"]
        assert 0 <= now.amount_credited <= now.total
        if before.number is not None:
            assert (now.number, now.snapshot, now.finalized_at) == (before.number, before.snapshot, before.finalized_at)
    credited = sum(row["total"] for row in office.rows("own_credit_notes"))
    assert credited == office.now(invoice.id).amount_credited


def _model(invoice: OwnInvoice, verb: str) -> tuple[bool, tuple[Any, ...]]:
    """Whether a verb may be, and how to ask for it."""
    if verb in VERBS:
        name: Verb = verb  # type: ignore[assignment]
        try:
            after(invoice.state, name)  # type: ignore[arg-type]
        except IllegalTransition:
            return False, (VERBS[name], invoice.id)
        return not (verb == "void" and invoice.amount_credited), (VERBS[name], invoice.id)
    terms = CreditTerms() if verb == "credit all" else CreditTerms(lines=(CreditLine(line=0, amount=100),))
    possible = invoice.state in ("open", "paid", "uncollectible")
    left = invoice.creditable
    # Of the first line, which comes to 250 or 1190, a hundred may be taken twice at least.
    taken_of_first = invoice.amount_credited
    first = 250 if invoice.total == 250 else 1190
    enough = left > 0 if verb == "credit all" else left >= 100 and taken_of_first + 100 <= first
    return possible and enough, (invoices.credit, invoice.id, terms)


def together(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Let so many threads act at the same moment; a refusal is its code."""
    start = threading.Barrier(count)

    def run(place: int) -> Any:
        start.wait()
        try:
            return act(place)
        except Refused as refusal:
            return refusal.code

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


class Interrupted(Exception):
    pass


def test_numbers_are_one_to_n_when_many_finalize_and_some_fail(office: Office) -> None:
    def work(place: int) -> int:
        chance, kept = random.Random(place), 0
        for _ in range(6):
            drafted = office.draft(CHEAP).invoice
            try:
                with office.env.database.begin() as tx:
                    invoices.finalize(tx, drafted.id, now=office.env.clock())
                    if chance.random() < 0.4:
                        raise Interrupted
                kept += 1
            except Interrupted:
                pass
        return kept

    kept = sum(together(8, work))
    rows = office.rows("own_invoices")
    assert sorted(row["number"] for row in rows if row["number"]) == [f"INV-{n:04}" for n in range(1, kept + 1)]
    assert [row["last"] for row in office.rows("number_series")] == [kept]
    assert {row["state"] for row in rows if row["number"] is None} == {"draft"}


def test_an_invoice_is_finalized_once_however_many_try(office: Office) -> None:
    drafted = office.draft().invoice
    answers = together(8, lambda _: office.do(invoices.finalize, drafted.id).invoice.number)
    assert sorted(answers) == ["INV-0001"] + ["invoice_state"] * 7
    assert [row["last"] for row in office.rows("number_series")] == [1]
    assert office.told() == ["invoice.created", "invoice.finalized"]


def test_an_invoice_ends_once_however_many_try(office: Office) -> None:
    invoice = office.issued()
    verbs = [invoices.pay, invoices.void] * 4
    answers = together(8, lambda place: office.do(verbs[place], invoice.id).invoice.state)
    assert answers.count("invoice_state") == 7
    assert office.now(invoice.id).state in answers


def test_a_key_makes_one_invoice_however_many_use_it_at_once(office: Office) -> None:
    ids = together(8, lambda _: office.draft(key="order 7").invoice.id)
    assert len(set(ids)) == 1
    assert len(office.rows("own_invoices")) == len(office.rows("messages")) == 1


def test_what_was_prepared_counts_only_while_nothing_changed_since(office: Office) -> None:
    """A draft is added up before the transaction that gives it its number."""
    drafts = [office.draft().invoice for _ in range(3)]
    ready = {}
    for one in drafts:
        prepared = invoices.prepared_draft(office.env.database, one.id, office.clock())
        assert prepared is not None
        ready[one.id] = replace(prepared, shown=msgspec.structs.replace(prepared.shown, footer="as it was prepared"))
    office.clock.move(minutes=5)
    kept, changed, moved = drafts

    def issued(invoice: OwnInvoice) -> Snapshot:
        office.do(invoices.finalize, invoice.id, prepared=ready[invoice.id])
        return office.shown(invoice.id)["invoice"]

    shown = issued(kept)
    assert (shown.footer, shown.issued_at) == ("as it was prepared", office.clock())
    assert shown.due_at == office.now(kept.id).due_at
    office.do(invoices.change_draft, changed.id, invoices.check(CHEAP))
    shown = issued(changed)
    assert (shown.total, shown.footer) == (250, None)
    office.settle(zone="Europe/Berlin")
    shown = issued(moved)
    assert (shown.zone, shown.footer) == ("Europe/Berlin", None)
    assert invoices.prepared_draft(office.env.database, kept.id, office.clock()) is None
