"""docs/invoices.md is for accountants, so what it works out is worked out here: figures, limits, defaults, codes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec

from billhook.rules.credit import credit
from billhook.rules.document import Seller, Snapshot
from billhook.rules.export import COLUMNS
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.rules.numbering import Numbering
from billhook.rules.proration import change_of_price
from billhook.rules.terms import (
    MAX_DISCOUNTS,
    MAX_LINES,
    MAX_TEXT,
    CreditLine,
    CreditTerms,
    LineTerms,
    TaxCategory,
    Terms,
)
from billhook.rules.totals import Totals, totals

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/invoices.md").read_text("utf-8")
TERMS = msgspec.json.decode(re.findall(r"<<'END'\n(.+?)\nEND", PAGE, re.DOTALL)[0], type=Terms)


def cells(row: str) -> list[str]:
    return [cell.strip(" *") for cell in row.strip("| ").split(" |")]


def minor(cell: str) -> int:
    return int(cell.replace(".", "") or 0)


def worked_out(made: Totals) -> list[list[int]]:
    each = [[line.amount, line.discount, line.allowance, line.charged, line.tax] for line in made.lines]
    return [*each, [sum(column) for column in zip(*each, strict=True)]]


def test_the_example_is_added_up_as_the_page_says() -> None:
    made = totals(TERMS)
    table = PAGE.partition("| line | price | own discount |")[2].split("\n")[2:6]
    assert [list(map(minor, cells(row)[1:6])) for row in table] == worked_out(made)
    assert (made.subtotal, made.discount, made.tax, made.total) == (12520, 1390, 1845, 12975)
    assert '"subtotal": 12520, "discount": 1390, "tax": 1845, "total": 12975' in PAGE
    assert [(tax.taxable, tax.tax) for tax in made.taxes] == [(8882, 1688), (2248, 157)]
    assert "19 % of 88.82 is 16.88, 7 % of 22.48 is 1.57" in PAGE

    within = totals(msgspec.structs.replace(TERMS, tax_inclusive=True))
    assert (within.total, [(tax.taxable, tax.tax) for tax in within.taxes]) == (11130, [(7464, 1418), (2101, 147)])
    assert "come to **111.30**, in which 14.18\nare 19 % of 74.64, and 1.47 are 7 % of 21.01" in PAGE


def test_what_is_taken_back_is_what_the_page_says() -> None:
    made = totals(TERMS)
    sums = {
        name: getattr(made, name) for name in ("lines", "allowances", "taxes", "subtotal", "discount", "tax", "total")
    }
    billed = Snapshot(kind="invoice", currency="eur", seller=Seller(name="Acme"), **sums)
    whole = credit(billed, CreditTerms(lines=(CreditLine(line=2),)), (), made.total)
    assert (whole.subtotal, whole.tax, whole.total) == (2248, 157, 2405)
    assert '"subtotal": 2248, "tax": 157, "total": 2405' in PAGE
    part = credit(billed, CreditTerms(lines=(CreditLine(line=2, amount=1000),)), (), made.total)
    assert (part.subtotal, part.tax) == (935, 65)
    assert "10.00 of the Handbook are 9.35 and 0.65" in PAGE


def test_the_examples_beside_it_are_right_too() -> None:
    icelandic = msgspec.structs.replace(
        TERMS, currency="isk", discounts=(), lines=(LineTerms(description="x", quantity="3", unit_amount="1000050"),)
    )
    assert totals(icelandic).total == 3000200
    assert '3 × `"1000050"` is 3000200' in PAGE
    old, new = (LineTerms(description="plan", unit_amount=price) for price in ("3000", "9000"))
    april, may, at = (datetime(2026, month, day, tzinfo=UTC) for month, day in ((4, 1), (5, 1), (4, 11)))
    back, charge = change_of_price(old, new, currency="eur", start=april, end=may, at=at)
    assert (back.unit_amount, charge.unit_amount) == ("-2000", "6000")
    assert "of 30.00 that becomes one of 90.00 on April 11 gives back 20.00 and charges 60.00" in PAGE


def test_limits_and_defaults_are_those_of_the_page() -> None:
    assert f"| `lines` | {MAX_LINES:,} at most, with {MAX_TEXT:,} bytes of descriptions together" in PAGE
    assert f"| `discounts` | on the whole, {MAX_DISCOUNTS} at most" in PAGE
    assert f"| `category` | {', '.join(f'`{one}`' for one in get_args(TaxCategory))} |" in PAGE
    told = {
        row[0].strip("`"): row[2].strip("`")
        for row in map(cells, re.findall(r"^\| `.+\|$", PAGE, re.MULTILINE))
        if len(row) > 2
    }
    words = {"true": True, "false": False, "billhook's look": None}
    for struct in (InvoicingSettings(), Numbering()):
        for name in struct.__struct_fields__:
            if name not in ("invoices", "credit_notes"):
                default = told[name]
                assert words.get(default, int(default) if default.isdigit() else default) == getattr(struct, name), name
    for kind, end in (("invoice", " Those of credit notes:"), ("credit_note", " What each holds")):
        columns = ", ".join(f"`{name}`" for name in COLUMNS[kind])
        assert f"{columns}.{end}" in " ".join(PAGE.split()), kind


def test_the_codes_of_refusals_are_those_of_the_code() -> None:
    table = PAGE.partition("## Refusals")[2].partition("\n## ")[0]
    named = {code for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)}
    source = "\n".join(
        path.read_text("utf-8") for folder in ("libs/billhook", "services") for path in (ROOT / folder).rglob("*.py")
    )
    made = {f"{field}_invalid" for field in ("reference", "method")}  # the field is put in
    assert {code for code in named - made if f'"{code}"' not in source} == set()
    files = (
        "invoices",
        "invoice_terms",
        "credit_notes",
        "document_mails",
        "templates",
        "invoicing_settings",
        "exports",
    )
    said = "\n".join((ROOT / f"libs/billhook/actions/{name}.py").read_text("utf-8") for name in files)
    said += (ROOT / "libs/billhook/rules/invoicing_settings.py").read_text("utf-8")
    # What the API's types refuse before, as `invalid`, and what only an operator is told.
    elsewhere = {"engine_unknown", "per_unknown", "merchant_unknown", "locale_unknown"}
    refused = set(re.findall(r'Refused\(\s*"(\w+)"', said))
    assert refused - named - elsewhere == set()
