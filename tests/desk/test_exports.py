"""Exports: every invoice of the period once, in little memory, as spreadsheets and programs read it."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from desk.world import NOW, Belongings, Desk, World, add_to_book, new_invoice, own_invoice, refused

from billhook.actions.exports import PAGE, export
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import CreditNote, InvoiceLine
from billhook.rules.export import COLUMNS
from billhook.store import book
from services.desk.routes.documents import invoice_subject


def rows(desk: Desk, whose: Belongings, what: str = "invoices", **query: Any) -> list[dict[str, str]]:
    answer = desk.get(f"/v1/exports/{what}.csv", key=whose.key, **query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return [*csv.DictReader(io.StringIO(answer.content.decode(), newline=""), strict=True)]


def lines(desk: Desk, whose: Belongings, what: str = "invoices", **query: Any) -> list[dict[str, Any]]:
    answer = desk.get(f"/v1/exports/{what}.jsonl", key=whose.key, **query)
    assert answer.headers["Content-Type"].startswith("application/jsonl")
    return [json.loads(line) for line in answer.content.splitlines()]


def add(desk: Desk, whose: Belongings, external_id: str, **changed: Any) -> str:
    value = new_invoice(external_id=external_id, **changed)
    return add_to_book(desk.env, whose.merchant_id, whose.ids["source_id"], value)


def test_mirrored_and_own_invoices_are_in_one_file(desk: Desk, world: World) -> None:
    ours = world.ours
    kuwait = add(desk, ours, "in_kw", currency="kwd", total=-1050, customer_name='=HYPERLINK("https://x","y"), "z"')
    found = {row["id"]: row for row in rows(desk, ours)}
    assert len(found) == 3
    assert all(list(row) == list(COLUMNS["invoice"]) for row in found.values())
    own = next(row for row in found.values() if row["source_id"] == "own")
    assert (own["number"], own["total"], own["currency"], own["amount_remaining"]) == (
        "INV-0001",
        "11.90",
        "eur",
        "10.90",
    )
    assert (own["amount_credited"], own["tax_by_rate"]) == ("1.00", "VAT 19% of 10.00 is 1.90")
    assert found[kuwait]["tax_by_rate"] == "", "the rates are the provider's"
    assert found[kuwait]["total"] == "-1.050"
    assert found[kuwait]["customer_name"] == '\'=HYPERLINK("https://x","y"), "z"'
    plain = {line["id"]: line for line in lines(desk, ours)}
    assert plain[kuwait]["total"] == -1050
    assert plain[kuwait]["customer_name"].startswith("=HYPERLINK"), "programs compute nothing, so nothing is changed"
    assert plain.keys() == found.keys()
    assert {row["merchant_id"] for row in found.values()} == {ours.merchant_id}


def test_credit_notes_have_an_export_of_their_own(desk: Desk, world: World) -> None:
    ours = world.ours
    mirrored = CreditNote(
        external_id="cn_1",
        number="C-1",
        invoice="in_1",
        status="void",
        currency="kwd",
        subtotal=500,
        total=500,
        created=NOW - timedelta(days=40),
    )
    void = add_to_book(desk.env, ours.merchant_id, ours.ids["source_id"], mirrored)
    found = {row["id"]: row for row in rows(desk, ours, "credit-notes")}
    assert found.keys() == {ours.ids["credit_note_id"], void}
    own = found[ours.ids["credit_note_id"]]
    assert list(own) == list(COLUMNS["credit_note"])
    assert (own["number"], own["invoice_number"], own["status"]) == ("CN-0001", "INV-0001", "issued")
    assert (own["subtotal"], own["tax"], own["total"]) == ("0.84", "0.16", "1.00")
    assert own["tax_by_rate"] == "VAT 19% of 0.84 is 0.16"
    assert own["created"].startswith("2026-01-05")
    assert (found[void]["invoice_number"], found[void]["total"]) == ('A "quoted"/../name-0001', "0.500")
    [line] = lines(desk, ours, "credit-notes", **{"from": "2026-01-01", "status": "issued"})
    assert (line["id"], line["total"], line["tax_by_rate"][0]["tax"]) == (own["id"], 100, 16)
    assert rows(desk, ours, "credit-notes", to="2025-01-01") == []
    refused(desk.get("/v1/exports/credit-notes.csv", key=ours.key, status="open"), 422, "invalid", "status")


def test_what_is_a_test_is_never_beside_what_is_real(desk: Desk, world: World) -> None:
    ours = world.ours
    real = {what: [row["id"] for row in rows(desk, ours, what)] for what in ("invoices", "credit-notes")}
    test, note = (
        new_invoice(external_id="in_t"),
        CreditNote(external_id="cn_t", invoice="in_t", status="issued", currency="eur", subtotal=1, total=1),
    )
    ids = [add_to_book(desk.env, ours.merchant_id, ours.ids["source_id"], one, livemode=False) for one in (test, note)]
    for what, made in zip(real, ids, strict=True):
        assert [row["id"] for row in rows(desk, ours, what)] == real[what]
        assert [(row["id"], row["livemode"]) for row in rows(desk, ours, what, mode="test")] == [(made, "false")]
        assert [line["livemode"] for line in lines(desk, ours, what)] == [True] * len(real[what])
    answer = desk.get("/v1/exports/invoices.csv", key=ours.key, mode="test")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="test-invoices.csv"'
    with desk.env.database.read() as tx:
        named = [invoice_subject(book.get(tx, "invoice", one)).name for one in (ids[0], ours.ids["invoice_id"])]
    assert [name.startswith("TEST-") for name in named] == [True, False], "so are its PDFs"


def test_the_order_is_that_of_the_numbers(desk: Desk, world: World) -> None:
    ours = world.ours
    draft = add(desk, ours, "none", status="draft", number=None)
    for number in ("T-10000", "T-0999", "T-9999", "S-2", "S-10"):
        add(desk, ours, number, number=number)
    numbers = [row["number"] for row in rows(desk, ours)]
    assert [number for number in numbers if number[:2] in ("S-", "T-")] == [
        *("S-2", "S-10"),
        *("T-0999", "T-9999", "T-10000"),
    ]
    assert rows(desk, ours)[-1]["id"] == draft, "what has no number yet is at the end"


def test_the_file_is_as_the_accountants_program_reads_it(desk: Desk, world: World) -> None:
    answer = desk.get("/v1/exports/invoices.csv", key=world.ours.key, preset="excel", decimals="point")
    assert answer.content.startswith(b'\xef\xbb\xbf"id";')
    assert b";11.90;" in answer.content
    assert b";11,90;" in desk.get("/v1/exports/invoices.csv", key=world.ours.key, preset="excel").content
    refused(desk.get("/v1/exports/invoices.csv", key=world.ours.key, delimiter="|"), 422, "invalid", "delimiter")
    refused(desk.get("/v1/exports/invoices.jsonl", key=world.ours.key, bom="true"), 422, "invalid", "bom")


def test_a_period_is_half_open_and_begins_in_the_merchants_zone(desk: Desk, world: World) -> None:
    ours = world.ours
    for name, at in (
        ("before", "2025-12-31T22:59:59Z"),
        ("first", "2025-12-31T23:00:00Z"),
        ("last", "2026-01-31T22:59:59Z"),
    ):
        add(desk, ours, name, finalized_at=datetime.fromisoformat(at), number=name)
    add(desk, ours, "next", finalized_at=datetime(2026, 1, 31, 23, tzinfo=UTC), number="next")
    draft = add(
        desk, ours, "draft", status="draft", finalized_at=None, number=None, created=datetime(2026, 1, 2, tzinfo=UTC)
    )
    settings = {"zone": "Europe/Berlin"}
    assert desk.ask("PUT", f"/v1/merchants/{ours.merchant_id}/invoicing", ours.key, json=settings).status_code == 200

    january = {row["number"] or row["id"] for row in rows(desk, ours, **{"from": "2026-01-01", "to": "2026-02-01"})}
    assert january >= {"first", "last", draft}
    assert not january & {"before", "next"}
    instants = {"from": "2025-12-31T23:00:00+00:00", "to": "2026-01-31T23:00:00Z"}
    assert {row["number"] or row["id"] for row in rows(desk, ours, **instants)} == january
    assert [row["id"] for row in rows(desk, ours, status="draft")] == [draft]
    for odd in ({"from": "yesterday"}, {"to": "2026-01-01T00:00:00"}, {"from": "0001-01-01"}, {"to": "2026-13-01"}):
        answer = desk.get("/v1/exports/invoices.csv", key=ours.key, **odd)
        if odd != {"from": "0001-01-01"}:
            refused(answer, 422, "period_invalid", *odd)
        assert answer.status_code in (200, 422)


def test_a_deleted_draft_is_not_in_it(desk: Desk, world: World) -> None:
    ours = world.ours
    draft = own_invoice(desk.env, ours.merchant_id, finalized=False)
    assert draft in {line["id"] for line in lines(desk, ours)}
    desk.ask("DELETE", f"/v1/invoices/{draft}", ours.key)
    assert draft not in {line["id"] for line in lines(desk, ours)}


def test_only_the_operator_exports_for_all(desk: Desk, world: World) -> None:
    ours, theirs = world.ours, world.theirs
    answer = desk.get("/v1/exports/invoices.jsonl").content.splitlines()
    assert {json.loads(line)["merchant_id"] for line in answer} == {ours.merchant_id, theirs.merchant_id}
    one = desk.get("/v1/exports/invoices.jsonl", merchant_id=theirs.merchant_id).content.splitlines()
    assert {json.loads(line)["merchant_id"] for line in one} == {theirs.merchant_id}
    refused(desk.get("/v1/exports/invoices.csv", key=ours.key, merchant_id=theirs.merchant_id), 404, "not_found")
    refused(desk.get("/v1/exports/invoices.csv", key=ours.key, form="2026-01-01"), 422, "invalid", "form")


@pytest.mark.parametrize("pages", [2])
def test_many_pages_miss_nothing_and_take_the_memory_of_one(desk: Desk, world: World, pages: int) -> None:
    ours = world.ours
    line = InvoiceLine(external_id="il", description="x" * 1000, amount=1)
    values = [
        new_invoice(external_id=f"many_{number}", number=f"M-{number}", lines=(line,) * 5)
        for number in range(pages * PAGE + 7)
    ]
    entries = [book.Entry(ours.merchant_id, ours.ids["source_id"], "", Change(value, NOW)) for value in values]
    with desk.env.database.begin() as tx:
        book.apply(tx, entries, NOW)
    del values, entries
    numbers = [row["number"] for row in rows(desk, ours)]
    assert len(numbers) == len(set(numbers)) == pages * PAGE + 7 + 2

    tracemalloc.start()
    pieces = export(desk.env, "invoice", ours.merchant_id, "csv", since=NOW - timedelta(days=1))
    largest = max(len(piece) for piece in pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest < 512 * PAGE
    assert peak < 20_000 * PAGE, "the lines alone would be more"
