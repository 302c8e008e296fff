"""An invoice as a row: what a spreadsheet reads back is what was written, and it computes nothing."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billhook.rules.document import TaxTotal
from billhook.rules.export import AMOUNTS, COLUMNS, PLAIN, Style, csv_header, csv_row, json_line, major_units, style_of
from billhook.rules.money import exponent

ANYTHING = st.text(st.characters(exclude_categories=["Cs"]))
TAXES = (
    TaxTotal(name="VAT", percent="19", category="standard", taxable=8882, tax=1688),
    TaxTotal(name="VAT", percent="0", category="exempt", taxable=-500, tax=0, reason="§ 4"),
)
INVOICE = list(COLUMNS["invoice"])


def invoice(**changed: Any) -> dict[str, Any]:
    nothing = dict.fromkeys([*INVOICE, "customer_address", "taxes"])
    return {**nothing, **dict.fromkeys(AMOUNTS, 1050), "currency": "eur", "customer_tax_ids": (), **changed}


def read(content: bytes, delimiter: str = ",") -> list[str]:
    [row] = csv.reader(io.StringIO(content.decode(), newline=""), strict=True, delimiter=delimiter)
    return row


def cell(name: str, style: Style = PLAIN, **changed: Any) -> str:
    return read(csv_row("invoice", invoice(**changed), style=style), style.delimiter)[INVOICE.index(name)]


@pytest.mark.parametrize("kind", ["invoice", "credit_note"])
def test_the_header_names_every_column(kind: Literal["invoice", "credit_note"]) -> None:
    assert read(csv_header(kind)) == list(COLUMNS[kind])
    nothing = invoice(**dict.fromkeys(["invoice", "invoice_number", "refund", "reason", "memo"]))
    assert len(read(csv_row(kind, nothing))) == len(COLUMNS[kind])


@given(name=ANYTHING)
@example('=HYPERLINK("https://evil.example")')
@example("@SUM(A1)")
@example("\t=1+1")
@example(" =1+1")
@example("x;=1+1,-2|@3\n+4")
@example('x"=1+1')
@example("＝1＋1")
@example("x,＠SUM(A1)")
@example('a "quoted", name\r\nof two lines')
def test_any_text_comes_back_and_none_is_a_formula(name: str) -> None:
    text = cell("customer_name", customer_name=name)
    assert text.replace("'", "") == name.replace("'", "")
    assert not text.startswith(("\t", "\r", "\n", "\0"))
    for separator in (",", ";", "|", "\t", "\n", '"'):  # also where a program splits it at another than ours
        for part in text.split(separator):
            assert not part.strip().startswith(tuple("=+-@＝＋－＠﹦﹢﹣﹫"))
    line = csv_row("invoice", invoice(customer_name=name))
    assert line.endswith(b"\r\n")
    assert len(list(csv.reader(io.StringIO((line + line).decode(), newline="")))) == 2


@pytest.mark.parametrize("name", ["Anne-Marie +1", "a = b", "Harbor & Sons, 50%", "'t Hooft"])
def test_a_text_that_nothing_computes_stays_as_it_is(name: str) -> None:
    assert cell("customer_name", customer_name=name) == name


def test_every_text_is_in_quotes_and_no_amount_is() -> None:
    at = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    line = csv_row("invoice", invoice(id="inv_1", number="0017", finalized_at=at)).decode()
    assert line.startswith('"inv_1",,')
    assert ',"0017",' in line
    assert ',"2026-01-05T09:00:00Z",' in line
    assert ",10.50," in line
    assert '"10.50"' not in line
    assert csv_header("invoice").startswith(b'"id","merchant_id"')


def test_a_spreadsheet_is_written_as_the_accountants_program_reads_it() -> None:
    at = datetime(2026, 1, 5, 9, 0, 0, 5, tzinfo=UTC)
    excel = style_of("excel")
    assert csv_header("invoice", excel).startswith(b'\xef\xbb\xbf"id";"merchant_id"')
    assert not csv_header("invoice").startswith(b"\xef\xbb\xbf")
    assert cell("total", excel, total=-1050) == "-10,50"
    assert cell("finalized_at", excel, finalized_at=at) == "2026-01-05 09:00:00"
    assert cell("tax_by_rate", excel, taxes=TAXES[:1]) == "VAT 19% of 88,82 is 16,88"
    assert style_of("excel", delimiter="tab", decimals="point", bom=False)[:3] == ("\t", False, False)
    commas = style_of(decimals="comma")
    assert b',"10,50",' in csv_row("invoice", invoice(), style=commas), "or the amount would be two cells"
    assert cell("total", commas) == "10,50"


def test_taxes_are_told_apart_by_rate() -> None:
    assert cell("tax_by_rate", taxes=TAXES) == "VAT 19% of 88.82 is 16.88; VAT 0% exempt of -5.00 is 0.00"
    assert (cell("tax_by_rate"), cell("tax_by_rate", taxes=())) == ("", "")
    found = msgspec.json.decode(json_line("invoice", invoice(taxes=TAXES)))["tax_by_rate"]
    assert found[0] == {"name": "VAT", "percent": "19", "category": "standard", "taxable": 8882, "tax": 1688}
    assert msgspec.json.decode(json_line("invoice", invoice()))["tax_by_rate"] is None


def test_what_was_credited_is_one_figure() -> None:
    assert cell("amount_credited", credited_before_payment=100, credited_after_payment=205) == "3.05"


@given(amount=st.integers(-(2**63), 2**63 - 1), currency=st.sampled_from(["eur", "jpy", "kwd", "clf", "isk"]))
def test_an_amount_has_all_its_decimal_places(amount: int, currency: str) -> None:
    text = cell("total", total=amount, currency=currency)
    assert Decimal(text).scaleb(exponent(currency)) == amount
    assert len(text.partition(".")[2]) == exponent(currency)
    assert msgspec.json.decode(json_line("invoice", invoice(total=amount, currency=currency)))["total"] == amount


@pytest.mark.parametrize(
    ("amount", "currency", "text"), [(-5, "eur", "-0.05"), (0, "jpy", "0"), (1050, "kwd", "1.050")]
)
def test_amounts_are_written_in_major_units(amount: int, currency: str, text: str) -> None:
    assert major_units(amount, currency) == text


def test_times_addresses_and_tax_ids_are_plain_text() -> None:
    at = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    whole = {"finalized_at": at, "customer_address": {"country": "AT"}, "customer_tax_ids": ["ATU1", "DE2"]}
    assert cell("finalized_at", **whole) == "2026-01-05T09:00:00Z"
    assert csv_row("invoice", invoice(**whole), "Asia/Tokyo").count(b"2026-01-05T18:00:00+09:00") == 1
    assert (cell("customer_country", **whole), cell("customer_tax_ids", **whole)) == ("AT", "ATU1 DE2")
    assert (cell("finalized_at"), cell("customer_country"), cell("customer_tax_ids")) == ("", "", "")
    line = msgspec.json.decode(json_line("invoice", invoice(**whole)))
    assert (line["finalized_at"], line["customer_country"], line["paid_at"]) == ("2026-01-05T09:00:00Z", "AT", None)
