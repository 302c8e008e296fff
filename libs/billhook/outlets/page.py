"""The invoice as a page: one template for the browser and for the PDF.

Everything that customers, merchants and providers wrote is text here and never markup: the template escapes all of it,
has no script, and refers to nothing outside itself. The one address in it is the provider's payment page, and only
when that is http or https.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import jinja2
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal
from markupsafe import Markup, escape

from billhook.rules.book import Address, Invoice
from billhook.rules.invoice import InvoiceSnapshot
from billhook.rules.money import format_money, format_unit_amount, parse_locale

_MAX_QUANTITY_DIGITS: Final = 15


def invoice_html(snapshot: InvoiceSnapshot) -> str:
    """The document a snapshot describes, as one self-contained HTML page. Days are days of UTC.

    Raises ValueError when the snapshot names an unknown locale.
    """
    return _template().render(view=_View(snapshot))


class _View:
    """What the template asks for: the snapshot's values, written as its locale writes them."""

    def __init__(self, snapshot: InvoiceSnapshot) -> None:
        self.snapshot = snapshot
        self.invoice: Invoice = snapshot.invoice
        self.receipt = snapshot.kind == "receipt"
        self.locale: Locale = parse_locale(snapshot.locale)

    def money(self, amount: int) -> str:
        return format_money(amount, self.invoice.currency, self.snapshot.locale)

    # A number that is none is shown as it came: the totals stand, and one odd line must not hold up the document.

    def unit_price(self, unit_amount: str) -> str:
        try:
            return format_unit_amount(unit_amount, self.invoice.currency, self.snapshot.locale)
        except ValueError:
            return unit_amount

    def quantity(self, text: str) -> str:
        try:
            number = Decimal(text)
            if not number.is_finite() or abs(number.adjusted()) > _MAX_QUANTITY_DIGITS:
                return text
            return format_decimal(number, locale=self.locale, decimal_quantization=False)
        except InvalidOperation:
            return text

    def day(self, at: datetime) -> Markup | str:
        return _words(format_date(at.astimezone(UTC).date(), format="long", locale=self.locale))

    def period(self, start: datetime | None, end: datetime | None) -> Markup | str | None:
        if start is None or end is None:
            return None
        first, last = (
            format_date(at.astimezone(UTC).date(), format="medium", locale=self.locale) for at in (start, end)
        )
        return _words(first if first == last else f"{first} – {last}")

    def country(self, code: str) -> str:
        name: str = self.locale.territories.get(code.upper(), code)
        return name

    def address(self, address: Address) -> Iterator[str]:
        locality = (
            f"{address.city or ''}, {address.state} {address.postal_code or ''}".strip(" ,")
            if address.state
            else f"{address.postal_code or ''} {address.city or ''}".strip()
        )
        country = self.country(address.country) if address.country else None
        yield from filter(None, (address.line1, address.line2, locality, country))

    @property
    def issued(self) -> datetime | None:
        return self.invoice.finalized_at or self.invoice.created

    @property
    def tax_included(self) -> bool:
        """The prices contain the tax: the total is what it is without adding it."""
        return self.invoice.total == self.invoice.subtotal - self.invoice.discount

    @property
    def balance(self) -> int:
        """What the customer's balance with the seller added to the total, or (negative) took from it."""
        return self.invoice.amount_due - self.invoice.total

    @property
    def pay_url(self) -> str | None:
        if self.receipt or self.invoice.amount_remaining <= 0 or not self.invoice.hosted_url:
            return None
        return self.invoice.hosted_url if _is_web_address(self.invoice.hosted_url) else None


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _arabic(word: str) -> bool:
    return any("\u0600" <= char <= "\u08ff" or "\ufb50" <= char <= "\ufefc" or char == "\u200f" for char in word)


def _words(text: str) -> Markup | str:
    """Text whose Arabic words are boxes of their own: the PDF engine would draw them on top of each other."""
    if not _arabic(text):
        return text
    parts = re.split(r"(\s+)", text)
    boxed = (Markup('<span class="word">{}</span>').format(part) if _arabic(part) else escape(part) for part in parts)
    return Markup('<span dir="rtl">{}</span>').format(Markup("").join(boxed))


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("billhook.outlets", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    return environment.get_template("invoice.html")
