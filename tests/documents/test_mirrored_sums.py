"""What mirrored invoices say adds up, wherever it is said: each figure is what its label says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.documents.hosted_page import shown_now
from billhook.documents.view import Shown, shown
from billhook.providers.stripe_invoices import Invoice as StripeInvoice
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import Seller, Snapshot
from billhook.rules.e_invoice import missing
from billhook.rules.export import COLUMNS, csv_row, json_line
from billhook.rules.invoice import documents_due, snapshot_of

ACME = Seller(name="Acme")


def line(amount: int, *, discount: int = 0, taxes: tuple[dict[str, Any], ...] = (), **fields: Any) -> dict[str, Any]:
    return {
        "id": f"il_{amount}",
        "amount": amount,
        "quantity": 1,
        "discount_amounts": [{"amount": discount}] if discount else [],
        "taxes": list(taxes),
        **fields,
    }


def tax(amount: int, behavior: str = "exclusive") -> dict[str, Any]:
    return {"amount": amount, "tax_behavior": behavior}


def stripe(*lines: dict[str, Any], **fields: Any) -> Invoice:
    """An invoice of Stripe's as the book holds it; what is not said is as Stripe would have it."""
    total = fields["total"]
    due = fields.get("amount_due", total)
    said = {
        "id": "in_1",
        "status": "open",
        "number": "A-1",
        "currency": "eur",
        "subtotal": sum(each["amount"] - sum(d["amount"] for d in each["discount_amounts"]) for each in lines),
        "amount_due": due,
        "amount_paid": 0,
        "amount_remaining": due,
        "lines": {"data": list(lines), "has_more": False},
        **fields,
    }
    found = msgspec.convert(said, StripeInvoice).to_book()
    assert isinstance(found, Invoice)
    return found


def rows(document: Shown) -> list[str]:
    return [f"{row.label} {row.amount}".replace("€", "").replace("-", "−") for row in document.totals]


def drawn(invoice: Invoice, kind: Any = "invoice") -> Shown:
    return shown(snapshot_of(invoice, kind=kind, seller=ACME))


def test_a_discount_on_an_item_is_taken_off_once() -> None:
    lines = (line(20000, discount=3000, taxes=(tax(1700),)), line(5000, taxes=(tax(500),)))
    invoice = stripe(*lines, total=24200, total_discount_amounts=[{"amount": 3000}], total_taxes=[tax(2200)])
    assert (invoice.subtotal, invoice.discount) == (25000, 3000)
    assert rows(drawn(invoice)) == [
        *("Subtotal 250.00", "Discount −30.00", "Total without tax 220.00", "Tax 22.00", "Total 242.00")
    ]


def test_discounts_on_an_item_and_on_the_whole_come_together() -> None:
    # 10.00 off the item and 5.00 off the whole: Stripe's subtotal has only the first in it.
    one = line(10000, discount=1500, taxes=(tax(850),))
    both = [{"amount": 1000}, {"amount": 500}]
    invoice = stripe(one, subtotal=9000, total=9350, total_discount_amounts=both, total_taxes=[tax(850)])
    assert rows(drawn(invoice))[:3] == ["Subtotal 100.00", "Discount −15.00", "Total without tax 85.00"]


def test_tax_that_prices_contain_is_put_on_top_of_nothing() -> None:
    one = line(20000, discount=1000, taxes=(tax(3034, "inclusive"),))
    invoice = stripe(one, total=19000, total_discount_amounts=[{"amount": 1000}], total_taxes=[tax(3034, "inclusive")])
    document = drawn(invoice)
    assert rows(document) == [*("Subtotal 200.00", "Discount −10.00", "Total 190.00", "Includes Tax 30.34")]
    assert document.lines[0].notes == ("Includes tax €30.34",)


def test_a_tax_on_top_and_a_tax_within_are_two_rows() -> None:
    taxes = (tax(700, "inclusive"), tax(2000))
    invoice = stripe(line(20000, taxes=taxes), total=22000, total_taxes=list(taxes))
    document = drawn(invoice)
    assert rows(document) == [*("Subtotal 200.00", "Tax 20.00", "Total 220.00", "Includes Tax 7.00")]
    assert document.lines[0].notes == ("Tax €20.00", "Includes tax €7.00")


@pytest.mark.parametrize(
    ("cost", "taxes", "total", "said"),
    [
        ({"amount_subtotal": 700, "amount_total": 700}, 0, 10700, ["Shipping 7.00", "Total 107.00"]),
        # Taxes that have the tax on shipping in them, and taxes that do not.
        (
            {"amount_subtotal": 1000, "amount_total": 1190},
            2090,
            13090,
            ["Shipping 10.00", "Total without tax 110.00", "Tax 20.90", "Total 130.90"],
        ),
        (
            {"amount_subtotal": 1000, "amount_total": 1190},
            1900,
            13090,
            ["Shipping 11.90", "Total without tax 111.90", "Tax 19.00", "Total 130.90"],
        ),
    ],
)
def test_shipping_is_part_of_the_total(cost: dict[str, int], taxes: int, total: int, said: list[str]) -> None:
    invoice = stripe(line(10000), total=total, shipping_cost=cost, total_taxes=[tax(taxes)] if taxes else [])
    assert rows(drawn(invoice)) == ["Subtotal 100.00", *said]


def test_credits_come_off_before_tax() -> None:
    credits = [{"amount": 1000, "type": "discount"}, {"amount": 4000, "type": "credit_balance_transaction"}]
    invoice = stripe(
        line(10000),
        total=5500,
        subtotal=10000,
        total_discount_amounts=[{"amount": 1000}],
        total_pretax_credit_amounts=credits,
        total_taxes=[tax(500)],
    )
    assert rows(drawn(invoice))[1:4] == ["Discount −10.00", "Balance applied −40.00", "Total without tax 50.00"]


def test_what_was_credited_before_the_payment_is_said_once() -> None:
    invoice = stripe(line(20000), total=20000, amount_due=13000, pre_payment_credit_notes_amount=7000)
    wanted = ["Subtotal 200.00", "Total 200.00", "Amount credited −70.00", "Amount due 130.00"]
    assert rows(drawn(invoice)) == wanted
    issued = snapshot_of(invoice, kind="invoice", seller=ACME)
    assert rows(shown_now(issued, invoice, credited=7000)) == wanted
    before = snapshot_of(stripe(line(20000), total=20000), kind="invoice", seller=ACME)
    assert rows(shown_now(before, invoice, credited=7000)) == wanted


def test_what_was_credited_after_the_payment_was_paid_nevertheless() -> None:
    paid = {"status": "paid", "amount_paid": 12975, "amount_remaining": 0, "post_payment_credit_notes_amount": 1000}
    invoice = stripe(line(12975), total=12975, **paid)
    issued = snapshot_of(invoice, kind="invoice", seller=ACME)
    document = shown_now(issued, invoice, credited=1000)
    assert rows(document)[1:] == ["Total 129.75", "Amount paid 129.75", "Amount credited 10.00"]
    assert document.stamp == "Paid"


@pytest.mark.parametrize("total", [0, -5000])
def test_nothing_is_said_to_be_paid_where_nothing_was(total: int) -> None:
    settled = {"status": "paid", "amount_due": 0, "amount_remaining": 0, "status_transitions": {"paid_at": 1764000000}}
    invoice = stripe(line(total), total=total, **settled)
    assert documents_due(invoice) == ("invoice",)
    document = shown_now(snapshot_of(invoice, kind="invoice", seller=ACME), invoice)
    assert (document.stamp, document.headline) == (None, "Nothing to be paid")
    assert "Date paid" not in [fact.label for fact in document.facts]


def test_what_was_only_credited_was_not_paid() -> None:
    settled = {"amount_due": 0, "amount_remaining": 0, "pre_payment_credit_notes_amount": 9900}
    invoice = stripe(line(9900), total=9900, status="paid", **settled)
    assert documents_due(invoice) == ("invoice",)
    document = shown_now(snapshot_of(invoice, kind="invoice", seller=ACME), invoice, credited=9900)
    assert document.stamp is None
    assert rows(document)[1:] == ["Total 99.00", "Amount credited −99.00", "Amount paid 0.00"]


def test_what_was_paid_outside_of_the_provider_was_paid() -> None:
    invoice = stripe(line(9900), total=9900, status="paid", amount_remaining=0, paid_out_of_band=True)
    assert documents_due(invoice) == ("invoice", "receipt")
    assert rows(drawn(invoice, "receipt"))[-1] == "Amount paid 99.00"


def test_what_no_figure_explains_has_a_row_of_its_own() -> None:
    invoice = msgspec.structs.replace(stripe(line(10000), total=10000), total=10300, amount_due=10300)
    assert rows(drawn(invoice)) == ["Subtotal 100.00", "Adjustment 3.00", "Total 103.00"]


def test_the_period_is_that_of_the_lines() -> None:
    periods = [{"period": {"start": 1764000000 + day * 86400, "end": 1766592000 + day * 86400}} for day in (3, 0)]
    stamped = {"period_start": 1761408000, "period_end": 1764000000}  # when items could be attached
    invoice = stripe(*(line(100 + n, **period) for n, period in enumerate(periods)), total=201, **stamped)
    assert (invoice.period_start, invoice.period_end) == (at(1764000000), at(1766592000 + 3 * 86400))
    shows = snapshot_of(invoice, kind="invoice", seller=ACME)
    assert (shows.period_start, shows.period_end) == (invoice.period_start, invoice.period_end)
    without = stripe(line(100), total=100, **stamped)
    assert (without.period_start, without.period_end) == (None, None)
    cut = {"lines": {"data": [line(100, **periods[0])], "has_more": True}}
    assert stripe(total=100, subtotal=100, **stamped, **cut).period_end is None


def test_what_the_merchant_wrote_on_the_invoice_is_on_it() -> None:
    fields = [{"name": "Purchase order", "value": "PO-17"}, {"name": "Project", "value": ""}, {"name": None}]
    said = {"custom_fields": fields, "description": "Thank you.", "footer": "Registered in Bonn"}
    document = drawn(stripe(line(100), total=100, **said))
    assert [(fact.label, fact.value) for fact in document.facts][1:-1] == [("Purchase order", "PO-17")]
    assert (document.notes, document.footer) == (("Thank you.",), "Registered in Bonn")


def test_where_it_is_shipped_to_is_on_it() -> None:
    """As Stripe does: what the invoice says goes before what the customer's address for parcels was."""
    berlin = {"line1": "Hafen 1", "line2": None, "postal_code": "10115", "city": "Berlin", "country": "DE"}
    bonn, nowhere = {**berlin, "city": "Bonn", "postal_code": "53111"}, dict.fromkeys(berlin)
    bought = {"total": 100, "customer_name": "Ada", "customer_address": berlin}

    def to(**said: Any) -> tuple[str, ...] | None:
        party = drawn(stripe(line(100), **bought, **said)).ship_to
        return party and (party.label, party.name, *party.lines)

    parcels = {"customer_shipping": {"name": "Ada's shop", "phone": "+49 30 1", "address": berlin}}
    own = {"shipping_details": {"name": " ", "address": bonn}}
    assert to(**parcels) == ("Shipped to", "Ada's shop", "Hafen 1", "10115 Berlin", "Germany")
    assert to(**parcels, **own) == ("Shipped to", "Ada", "Hafen 1", "53111 Bonn", "Germany")
    assert to(customer_shipping={"name": "Ada", "address": berlin}) is None  # the bill says it
    assert to(customer_shipping={"name": "Ada", "address": nowhere}) is None
    assert to(shipping_details=None, customer_shipping=None) is None


def test_the_sellers_tax_ids_are_those_of_the_invoice_where_it_says_them() -> None:
    seller = Seller(name="Acme", tax_ids=("DE123456789",))
    named = [{"id": "txi_1", "type": "eu_vat", "value": "ATU12345678"}, {"id": "txi_2", "deleted": True}, "txi_3"]
    for said, shows in ((["txi_1"], seller.tax_ids), (None, seller.tax_ids), (named, ("ATU12345678",))):
        invoice = stripe(line(100), total=100, account_tax_ids=said)
        assert snapshot_of(invoice, kind="invoice", seller=seller).seller.tax_ids == shows


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def recorded(recordings: Path) -> Iterator[Invoice]:
    """Every invoice in events and API answers, of every version there is a recording of."""
    for path in sorted((recordings / "stripe").rglob("*.json*")):
        if path.name == "sample_objects.json":
            continue  # its figures are drawn by lot
        text = path.read_text(encoding="utf-8")
        parts = text.splitlines() if path.suffix == ".jsonl" else [text]
        for part in parts:
            for value in invoices_in(json.loads(part)):
                found = msgspec.convert(value, StripeInvoice).to_book()
                assert isinstance(found, Invoice)
                yield found


def invoices_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from invoices_in(each)
    elif isinstance(value, dict):
        if value.get("object") == "invoice" and value.get("id") and isinstance(value.get("lines"), dict):
            yield value
        for each in value.values():
            yield from invoices_in(each)


def check_columns(snapshot: Snapshot, invoice: Invoice) -> None:
    """Read the totals from top to bottom, as an accountant would."""
    if snapshot.lines_complete:
        assert sum(each.amount for each in snapshot.lines) == snapshot.subtotal
    assert sum(each.tax for each in snapshot.taxes) == snapshot.tax == invoice.tax
    assert snapshot.adjustment == 0
    document = shown(snapshot)
    amounts = {row.label: row for row in document.totals}
    column, strong = [], 0
    for row in document.totals:
        number = float(
            row.amount.replace("−", "-").replace("US$", "").replace("$", "").replace("€", "").replace(",", "")
        )
        if row.label == "Total":
            assert round(sum(column), 2) == number
            column, strong = [number], strong + 1
        elif row.strength == "grand":
            assert snapshot.kind == "void" or round(sum(column), 2) == number + snapshot.amount_remaining / 100 * (
                row.label == "Amount paid"
            )
            break
        elif row.label not in ("Total without tax",) and not row.label.startswith("Includes"):
            column.append(number)
    assert strong == 1
    assert "Adjustment" not in amounts


def test_every_recorded_invoice_adds_up_wherever_it_is_shown(recordings: Path) -> None:
    found = list(recorded(recordings))
    assert len(found) > 60
    for invoice in found:
        if invoice.currency not in ("usd", "eur"):
            continue
        for kind in (*documents_due(invoice), "invoice"):
            issued = snapshot_of(invoice, kind=kind, seller=ACME)
            check_columns(issued, invoice)
            assert missing(issued), "without rates there is no e-invoice that could say something else"
        now = shown_now(snapshot_of(invoice, kind="invoice", seller=ACME), invoice)
        if invoice.status == "paid" and invoice.amount_paid:
            assert now.stamp == "Paid"
        check_export(invoice)


@st.composite
def invoices(draw: st.DrawFn) -> Invoice:
    """With what no recording has: taxes on top and within, shipping, credits, a balance, lines that are not told."""
    some = st.integers(0, 500)
    lines = []
    for amount in draw(st.lists(st.integers(2_000, 90_000), min_size=1, max_size=4)):
        taxes = [tax(draw(some), behavior) for behavior in draw(st.sets(st.sampled_from(["exclusive", "inclusive"])))]
        lines.append(line(amount, discount=draw(some), taxes=tuple(taxes)))
    shipping, shipping_tax, credits, balance, credited = (draw(st.just(0) | some) for _ in range(5))
    taxes = [each for one in lines for each in one["taxes"]] + [tax(shipping_tax)]
    discount = sum(each["amount"] for one in lines for each in one["discount_amounts"])
    on_top = sum(each["amount"] for each in taxes if each["tax_behavior"] == "exclusive")
    total = sum(one["amount"] for one in lines) - discount - credits + shipping + on_top
    due = total - balance - credited
    paid = {"status": "paid", "amount_paid": due, "amount_remaining": 0} if draw(st.booleans()) else {}
    told = lines if draw(st.booleans()) else lines[:1]
    return stripe(
        *lines,
        total=total,
        amount_due=due,
        total_discount_amounts=[{"amount": discount}],
        total_pretax_credit_amounts=[{"amount": credits, "type": "credit_balance_transaction"}],
        shipping_cost={"amount_subtotal": shipping, "amount_total": shipping + shipping_tax},
        total_taxes=taxes,
        pre_payment_credit_notes_amount=credited,
        lines={"data": told, "has_more": len(told) < len(lines)},
        **paid,
    )


@settings(max_examples=60)
@given(invoices())
def test_whatever_an_invoice_is_made_of_adds_up(invoice: Invoice) -> None:
    for kind in documents_due(invoice):
        check_columns(snapshot_of(invoice, kind=kind, seller=ACME), invoice)
    check_export(invoice)


def check_export(invoice: Invoice) -> None:
    known = dict.fromkeys([*COLUMNS["invoice"], "taxes"]) | msgspec.to_builtins(invoice, builtin_types=(datetime,))
    row = json.loads(json_line("invoice", known))
    on_top = row["tax"] - row["tax_included"]
    assert row["total"] == row["subtotal"] - row["discount"] - row["credits"] + row["shipping"] + on_top
    if invoice.status != "void":
        assert row["amount_due"] == row["amount_paid"] + row["amount_remaining"]
    [cells] = csv.reader(io.StringIO(csv_row("invoice", known).decode()))
    assert cells[list(COLUMNS["invoice"]).index("total")] == f"{invoice.total / 100:.2f}"
