"""Exports: an invoice or a credit note as a row of a spreadsheet, or as a line of JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import msgspec

from billhook.rules.days import zone_of
from billhook.rules.document import TaxTotal
from billhook.rules.money import exponent

Kind = Literal["invoice", "credit_note"]
Delimiter = Literal["comma", "semicolon", "tab"]
Decimals = Literal["point", "comma"]
Format = Literal["csv", "jsonl"]
Preset = Literal["excel"]
Mode = Literal["live", "test"]
"""Whether what real money was meant for is exported, or what a source in test mode told: never both in one file."""

AMOUNTS: Final = frozenset(
    (
        *("subtotal", "discount", "credits", "shipping", "tax", "tax_included", "total"),
        *("amount_due", "amount_paid", "amount_remaining"),
        *("credited_before_payment", "credited_after_payment", "amount_credited"),
    )
)

_BY_RATE: Final = "of billhook's own: what each rate is charged on and comes to; a provider's rates are not known"

_INVOICE: Final[dict[str, str]] = {
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
    "amount_credited": "by credit notes, in all",
    "tax_by_rate": _BY_RATE,
    "livemode": "false: a test, which belongs into no book",
}

_CREDIT_NOTE: Final[dict[str, str]] = {
    "id": "billhook's",
    "merchant_id": "whose it is",
    "source_id": "where it came from; `own` for billhook's own",
    "external_id": "the provider's id",
    "number": "as it stands on the document",
    "status": "issued or void",
    "invoice": "the provider's id of the invoice that it takes back, or a part of it",
    "invoice_number": "as it stands on that invoice",
    "customer": "the provider's id of the customer; of an own invoice the merchant's",
    "refund": "the refund of the money, where one is named",
    "currency": "ISO 4217",
    "subtotal": "the sum of the lines, above zero: it is taken back",
    "tax": "of all taxes, likewise",
    "total": "what the customer is charged less, or gets back",
    "reason": "why",
    "memo": "text on the document",
    "created": "when it was issued",
    "voided_at": "when it was declared void",
    "tax_by_rate": _BY_RATE,
    "livemode": "false: a test, which belongs into no book",
}

COLUMNS: Final[Mapping[Kind, dict[str, str]]] = {"invoice": _INVOICE, "credit_note": _CREDIT_NOTE}
"""Every column with what it holds, in their order. Columns are only ever added at the end."""


class Style(NamedTuple):
    """How a spreadsheet is written."""

    delimiter: str = ","
    decimal_comma: bool = False
    bom: bool = False
    """Without it Excel takes UTF-8 for the machine's own letters."""
    excel_times: bool = False
    """`2026-01-31 09:00:00`, which Excel reads as a time; it takes one with an offset for text."""


PLAIN: Final = Style()


def style_of(
    preset: Preset | None = None,
    *,
    delimiter: Delimiter | None = None,
    decimals: Decimals | None = None,
    bom: bool | None = None,
) -> Style:
    """`excel` is what an Excel opens that writes a comma before decimals, as most of Europe's do: semicolons, decimal
    commas, a BOM and times without an offset. What is named beside it counts more."""
    style = Style(";", decimal_comma=True, bom=True, excel_times=True) if preset == "excel" else PLAIN
    return style._replace(
        delimiter=style.delimiter if delimiter is None else {"comma": ",", "semicolon": ";", "tab": "\t"}[delimiter],
        decimal_comma=style.decimal_comma if decimals is None else decimals == "comma",
        bom=style.bom if bom is None else bom,
    )


_SIGNS: Final = "=+@\\-\uff1d\uff0b\uff20\uff0d\ufe66\ufe62\ufe6b\ufe63"
"""What makes a cell one that spreadsheets compute (OWASP ASVS 1.2.10), full-width and small forms too:
`=HYPERLINK(…)` as the name of a customer would run at the accountant's."""

_FORMULA: Final = re.compile(rf'((?:\A|[,;|\t\r\n"])[\s\0\ufeff\u200b-\u200f]*)(?=[{_SIGNS}])')
"""Where one begins, or would if the file were split at another separator than its own."""

_CONTROL: Final = ("\t", "\r", "\n", "\0")


def csv_header(kind: Kind, style: Style = PLAIN) -> bytes:
    return (b"\xef\xbb\xbf" if style.bom else b"") + _line(map(_quoted, COLUMNS[kind]), style)


def csv_row(kind: Kind, row: Mapping[Any, Any], zone: str = "UTC", style: Style = PLAIN) -> bytes:
    """RFC 4180, in UTF-8, every text in quotes: amounts in major units with all decimal places of their currency, times
    as a zone's clocks show them: the day that a document says stands in front."""
    return _line(
        (_cell(name, value, row["currency"], zone, style) for name, value in _fields(kind, row).items()), style
    )


def json_line(kind: Kind, row: Mapping[Any, Any]) -> bytes:
    """The same fields as they are in the API: amounts are integers in minor units, and what is not there is null."""
    return msgspec.json.encode(_fields(kind, row)) + b"\n"


def text_row(cells: Iterable[str], style: Style = PLAIN) -> bytes:
    """A line of texts, none of which a spreadsheet takes for a formula."""
    return _line((_quoted(_defused(cell)) for cell in cells), style)


def major_units(amount: int, currency: str) -> str:
    """`1050` of eur is `10.50`, of jpy `1050`, of kwd `1.050`."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):f}"


def _fields(kind: Kind, row: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"tax_by_rate": row["taxes"]}
    if kind == "invoice":
        made |= {
            "customer_country": (row["customer_address"] or {}).get("country"),
            "customer_tax_ids": " ".join(row["customer_tax_ids"] or ()),
            "amount_credited": row["credited_before_payment"] + row["credited_after_payment"],
        }
    return {name: made[name] if name in made else row[name] for name in COLUMNS[kind]}


def _cell(name: str, value: Any, currency: str, zone: str, style: Style) -> str:
    if value is None:
        return ""
    if name in AMOUNTS:
        amount = _amount(value, currency, style)
        return _quoted(amount) if style.delimiter in amount else amount
    if name == "tax_by_rate":
        return _quoted(_defused(_by_rate(value, currency, style)))
    if isinstance(value, datetime):
        at = value.astimezone(zone_of(zone))
        return _quoted(f"{at:%Y-%m-%d %H:%M:%S}" if style.excel_times else at.isoformat().replace("+00:00", "Z"))
    return _quoted(str(value).lower() if isinstance(value, bool) else _defused(str(value)))


def _amount(amount: int, currency: str, style: Style) -> str:
    text = major_units(amount, currency)
    return text.replace(".", ",") if style.decimal_comma else text


def _by_rate(taxes: Sequence[TaxTotal], currency: str, style: Style) -> str:
    """`VAT 19% of 88.82 is 16.88; VAT 7% of 22.48 is 1.57`. What is not taxed says why: `VAT 0% exempt of …`."""
    parts = []
    for tax in taxes:
        percent = None if tax.percent is None else f"{tax.percent}%"
        why = None if tax.category in (None, "standard") else tax.category
        on = None if tax.taxable is None else f"of {_amount(tax.taxable, currency, style)}"
        words = [tax.name, percent, why, on, f"is {_amount(tax.tax, currency, style)}"]
        parts.append(" ".join(word for word in words if word))
    return "; ".join(parts)


def _defused(text: str) -> str:
    """An apostrophe in front makes it text for every spreadsheet, and stays readable for people."""
    safe = _FORMULA.sub(r"\1'", text)
    return f"'{safe}" if safe.startswith(_CONTROL) else safe


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _line(cells: Iterable[str], style: Style) -> bytes:
    return (style.delimiter.join(cells) + "\r\n").encode()
