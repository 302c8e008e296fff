"""An invoice as a row: what a spreadsheet reads back is what was written, and it computes nothing."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billhook.rules.export import AMOUNTS, COLUMNS, csv_header, csv_row, json_line, major_units
from billhook.rules.money import exponent

ANYTHING = st.text(st.characters(exclude_categories=["Cs"]))


def invoice(**changed: Any) -> dict[str, Any]:
    nothing = dict.fromkeys([*COLUMNS, "customer_address"])
    return {**nothing, **dict.fromkeys(AMOUNTS, 1050), "currency": "eur", "customer_tax_ids": (), **changed}


def read(content: bytes) -> list[str]:
    [row] = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    return row


def cell(name: str, **changed: Any) -> str:
    return read(csv_row(invoice(**changed)))[list(COLUMNS).index(name)]


def test_the_header_names_every_column() -> None:
    assert read(csv_header()) == list(COLUMNS)
    assert len(read(csv_row(invoice()))) == len(COLUMNS)


@given(name=ANYTHING)
@example('=HYPERLINK("https://evil.example")')
@example("@SUM(A1)")
@example("\t=1+1")
@example('a "quoted", name\r\nof two lines')
def test_any_text_comes_back_and_none_is_a_formula(name: str) -> None:
    text = cell("customer_name", customer_name=name)
    assert text in (name, f"'{name}")
    assert not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\0"))
    line = csv_row(invoice(customer_name=name))
    assert line.endswith(b"\r\n")
    assert len(list(csv.reader(io.StringIO((line + line).decode(), newline="")))) == 2


@given(amount=st.integers(-(2**63), 2**63 - 1), currency=st.sampled_from(["eur", "jpy", "kwd", "clf", "isk"]))
def test_an_amount_has_all_its_decimal_places(amount: int, currency: str) -> None:
    text = cell("total", total=amount, currency=currency)
    assert Decimal(text).scaleb(exponent(currency)) == amount
    assert len(text.partition(".")[2]) == exponent(currency)
    assert msgspec.json.decode(json_line(invoice(total=amount, currency=currency)))["total"] == amount


@pytest.mark.parametrize(
    ("amount", "currency", "text"), [(-5, "eur", "-0.05"), (0, "jpy", "0"), (1050, "kwd", "1.050")]
)
def test_amounts_are_written_in_major_units(amount: int, currency: str, text: str) -> None:
    assert major_units(amount, currency) == text


def test_times_addresses_and_tax_ids_are_plain_text() -> None:
    at = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    whole = {"finalized_at": at, "customer_address": {"country": "AT"}, "customer_tax_ids": ["ATU1", "DE2"]}
    assert cell("finalized_at", **whole) == "2026-01-05T09:00:00Z"
    assert csv_row(invoice(**whole), "Asia/Tokyo").count(b"2026-01-05T18:00:00+09:00") == 1
    assert (cell("customer_country", **whole), cell("customer_tax_ids", **whole)) == ("AT", "ATU1 DE2")
    assert (cell("finalized_at"), cell("customer_country"), cell("customer_tax_ids")) == ("", "", "")
    line = msgspec.json.decode(json_line(invoice(**whole)))
    assert (line["finalized_at"], line["customer_country"], line["paid_at"]) == ("2026-01-05T09:00:00Z", "AT", None)
