"""Amounts, dates, quantities and addresses as a locale writes them. Days are those of a zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, Literal

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal
from babel.units import format_unit

from billhook.rules.book.customer import Address
from billhook.rules.days import day_of
from billhook.rules.money import format_money, format_unit_amount, parse_locale

_MAX_QUANTITY_DIGITS: Final = 15
_MANY_DECIMALS: Final = "0." + "#" * 12
_UNITS: Final = {
    "MIN": "duration-minute",
    "HUR": "duration-hour",
    "DAY": "duration-day",
    "WEE": "duration-week",
    "MON": "duration-month",
    "ANN": "duration-year",
    "4L": "digital-megabyte",
    "E34": "digital-gigabyte",
    "E35": "digital-terabyte",
    "GRM": "mass-gram",
    "KGM": "mass-kilogram",
    "MTR": "length-meter",
    "KMT": "length-kilometer",
    "MTK": "area-square-meter",
    "LTR": "volume-liter",
    "KWH": "energy-kilowatt-hour",
}
"""UN/ECE recommendation 20 in CLDR's words. Pieces (C62), and what CLDR has no word for, go without one."""

_LARGEST_FIRST: Final = frozenset({"JP", "CN", "TW", "KR"})
"""Where an address begins with the region, as long as it is written in the language of the place."""
_CODE_LAST: Final = frozenset(
    {"AU", "BD", "CA", "EG", "GB", "GG", "GI", "HK", "IE", "IL", "IM", "IN", "JE", "JO", "KE", "LB", "LK", "MT", "NG"}
    | {"NP", "NZ", "PK", "SA", "SG", "TH", "TW", "UA", "US", "ZA"}
)
"""Where the postal code follows the city, though no state stands between."""
_EAST_ASIAN: Final = frozenset({"ja", "zh", "ko"})


class Wording:
    """Writes values for one locale and currency. Raises ValueError when there is no such locale."""

    def __init__(self, locale: str, currency: str, zone: str = "UTC") -> None:
        self.locale: Locale = parse_locale(locale)
        self._name = locale
        self._currency = currency
        self._zone = zone
        self._rtl = self.locale.text_direction == "rtl"

    def money(self, amount: int) -> str:
        return self._signed(_money(amount, self._currency, self._name))

    # Text that is no number is shown as it came: the totals are right without it, and one odd line must not hold up the
    # document.

    def unit_price(self, unit_amount: str) -> str:
        try:
            return self._signed(_unit_price(unit_amount, self._currency, self._name))
        except ValueError:
            return unit_amount

    def quantity(self, text: str, unit: str | None = None) -> str:
        number = _number(text)
        return text if number is None else self._signed(_quantity(number, unit or "", self._name))

    def _signed(self, text: str) -> str:
        """With a true minus, as wide as a figure and not taken for a hyphen. Between words that run to the left it
        would end up behind its number; CLDR puts a mark before it that keeps it in front, which Babel leaves out."""
        return text.replace("-", "\N{LEFT-TO-RIGHT MARK}\N{MINUS SIGN}" if self._rtl else "\N{MINUS SIGN}")

    def percent(self, text: str) -> str:
        return _percent(text, self._name)

    def day(self, at: datetime) -> str:
        return _day(day_of(at, self._zone), "long", self._name)

    def period(self, start: datetime | None, end: datetime | None) -> str | None:
        if start is None or end is None:
            return None
        first, last = (_day(day_of(at, self._zone), "medium", self._name) for at in (start, end))
        return first if first == last else f"{first} – {last}"

    def address(self, address: Address) -> Iterator[str]:
        country = self.locale.territories.get(address.country.upper(), address.country) if address.country else None
        street = (address.line1, address.line2)
        if (address.country or "").upper() in _LARGEST_FIRST and self.locale.language in _EAST_ASIAN:
            code = (
                f"〒{address.postal_code}" if address.postal_code and address.country == "JP" else address.postal_code
            )
            region = f"{address.state or ''}{address.city or ''}"
            yield from filter(None, (code, region, *street, country))
            return
        code, city = address.postal_code or "", address.city or ""
        if address.state:
            locality = f"{city}, {address.state} {code}".strip(" ,")
        else:
            order = (city, code) if (address.country or "").upper() in _CODE_LAST else (code, city)
            locality = " ".join(filter(None, order))
        yield from filter(None, (*street, locality, country))


# Writing takes most of the time that a page takes, and the same days, rates and prices come again and again, on the
# lines of one document and on the documents of one day.


@lru_cache(maxsize=4096)
def _money(amount: int, currency: str, locale: str) -> str:
    return format_money(amount, currency, locale)


@lru_cache(maxsize=4096)
def _unit_price(unit_amount: str, currency: str, locale: str) -> str:
    return format_unit_amount(unit_amount, currency, locale)


@lru_cache(maxsize=4096)
def _quantity(number: Decimal, unit: str, locale: str) -> str:
    word, parsed = _UNITS.get(unit), parse_locale(locale)
    if word is None:
        return format_decimal(number, locale=parsed, decimal_quantization=False)
    pattern = parsed.decimal_formats[None].pattern.partition(".")[0][:-1] + _MANY_DECIMALS
    return format_unit(number, word, "short", format=pattern, locale=parsed)


@lru_cache(maxsize=1024)
def _day(day: date, length: Literal["medium", "long"], locale: str) -> str:
    return format_date(day, format=length, locale=parse_locale(locale))


@lru_cache(maxsize=256)
def _percent(text: str, locale: str) -> str:
    number = _number(text)
    if number is None:
        return f"{text} %"
    parsed = parse_locale(locale)
    written: str = parsed.percent_formats[None].apply(number.scaleb(-2), parsed, decimal_quantization=False)
    return written


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= _MAX_QUANTITY_DIGITS else None
