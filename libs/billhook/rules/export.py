"""Exports: an invoice as a row of a spreadsheet, or as a line of JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from billhook.rules.days import zone_of
from billhook.rules.money import exponent

AMOUNTS: Final = (
    *("subtotal", "discount", "credits", "shipping", "tax", "tax_included", "total"),
    *("amount_due", "amount_paid", "amount_remaining", "credited_before_payment", "credited_after_payment"),
)

COLUMNS: Final[dict[str, str]] = {
    "id": "billhook's",
    "merchant_id": "whose it is",
    "source_id": "where it came from; `own` for billhook's own",
    "external_id": "the provider's id",
    "number": "as it stands on the document",
    "status": "open, paid, void, uncollectible or draft",
    "customer": "the provider's id of the customer; of an own invoice the merchant's",
    "customer_name": "as it stands on the document",
    "customer_email": "likewise",
    "customer_country": "ISO 3166-1 alpha-2",
    "customer_tax_ids": "with a space between them",
    "subscription": "the provider's id of the subscription",
    "currency": "ISO 4217",
    "subtotal": "the sum of the lines, before discounts",
    "discount": "of all discounts",
    "tax": "of all taxes",
    "total": "subtotal - discount - credits + shipping + tax - tax_included",
    "amount_due": "the total, without credited_before_payment, and with what a balance added or took",
    "amount_paid": "by now",
    "amount_remaining": "still to be paid",
    "created": "when it was made",
    "finalized_at": "when it was issued",
    "due_at": "when it is to be paid",
    "paid_at": "when it was",
    "voided_at": "when it was declared void",
    "period_start": "what it is for begins",
    "period_end": "and ends",
    "tax_included": "what of the tax the amounts before it contain; the rest came on top",
    "shipping": "without tax that comes on top",
    "credits": "of the customer's, taken off before tax",
    "credited_before_payment": "by credit notes: so much less is, or was, to be paid",
    "credited_after_payment": "by credit notes, of what had been paid",
}
"""Every column with what it holds, in their order. Columns are only ever added at the end."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")
"""A cell that begins so is computed by spreadsheets, not shown (OWASP ASVS 1.2.10): `=HYPERLINK(…)` as the name of a
customer would run at the accountant's."""


def csv_header() -> bytes:
    return _line(COLUMNS)


def csv_row(invoice: Mapping[Any, Any], zone: str = "UTC") -> bytes:
    """RFC 4180, in UTF-8: amounts in major units with all decimal places of their currency, times as a zone's clocks
    show them, with their offset: the day that a document says stands in front."""
    currency = invoice["currency"]
    return _line(
        major_units(value, currency) if name in AMOUNTS else _defused(_text(value, zone))
        for name, value in _fields(invoice).items()
    )


def json_line(invoice: Mapping[Any, Any]) -> bytes:
    """The same fields as they are in the API: amounts are integers in minor units, and what is not there is null."""
    return msgspec.json.encode(_fields(invoice)) + b"\n"


def major_units(amount: int, currency: str) -> str:
    """`1050` of eur is `10.50`, of jpy `1050`, of kwd `1.050`."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):f}"


def _fields(invoice: Mapping[Any, Any]) -> dict[str, Any]:
    address = invoice["customer_address"] or {}
    made = {"customer_country": address.get("country"), "customer_tax_ids": " ".join(invoice["customer_tax_ids"] or ())}
    return {name: made[name] if name in made else invoice[name] for name in COLUMNS}


def _text(value: Any, zone: str) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(zone_of(zone)).isoformat().replace("+00:00", "Z")
    return str(value)


def _defused(text: str) -> str:
    """An apostrophe in front makes it text for every spreadsheet, and stays readable for people."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: Iterable[str]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().encode()
