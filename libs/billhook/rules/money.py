"""Money: which currencies exist, what an amount in minor units is worth, and how it is written down.

An amount is an integer in minor units and the exponent says how many decimal places those are. The exponents are the
ones payment providers use on the wire, not those a country's cash uses, and they come from Stripe's currency pages
(docs.stripe.com/currencies, "zero-decimal", "three-decimal" and "special case" currencies). The special cases:

- UGX and ISK have no minor unit any more, yet an amount is still in hundredths and always ends in 00: 5 kr is 500.
  They are written without decimals.
- HUF and TWD amounts are in hundredths. Only payouts to a bank must be whole, so invoices may carry decimals.
- Currencies with three places may use all of them here. Stripe charges them only with a 0 as the last digit, so whoever
  has such an invoice paid there sets prices that end in 0.
- MGA is divided into fifths on paper; providers treat it as whole.

Codes that Stripe does not take (IQD, LYD, CLF, UYW, UYI) have their exponent from ISO 4217. Any other code has two
decimal places.
"""

from __future__ import annotations

import copy
import re
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # most who reckon with money do not write it
    from babel import Locale
    from babel.numbers import NumberPattern

_EXPONENTS: Final[dict[str, int]] = {
    **dict.fromkeys(("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg"), 0),
    **dict.fromkeys(("rwf", "uyi", "vnd", "vuv", "xaf", "xof", "xpf"), 0),
    **dict.fromkeys(("bhd", "iqd", "jod", "kwd", "lyd", "omr", "tnd"), 3),
    **dict.fromkeys(("clf", "uyw"), 4),
}
_WRITTEN_WHOLE: Final = frozenset({"isk", "ugx"})
_NOT_MONEY: Final = frozenset({"xxx", "xts"})
"""ISO 4217's codes for "no currency" and "a test"."""

_PRECISION: Final = 100
"""Digits of decimal arithmetic: far more than a 64-bit amount with any exponent needs, so nothing is ever rounded."""
_MAX_UNIT_DIGITS: Final = 30

_LETTER_BEFORE_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)")
"""CLDR writes "ISK 5", not "ISK5", when the symbol is made of letters; Babel does not carry that rule."""


@lru_cache(maxsize=1)
def _currencies() -> frozenset[str]:
    from babel.numbers import list_currencies

    return frozenset(code.lower() for code in list_currencies()) - _NOT_MONEY


def known_currency(code: str) -> bool:
    """Is this a lower-case ISO 4217 code of money, today's or a withdrawn one, as Unicode CLDR lists them?"""
    return code in _currencies()


def exponent(currency: str) -> int:
    """How many decimal places the minor unit of a (lower-case) currency stands for: 2 for usd, 0 for jpy, 3 for kwd."""
    return _EXPONENTS.get(currency, 2)


def quantum(currency: str) -> int:
    """The step between two amounts that can be charged, in minor units: 100 where the hundredths always are 00."""
    return 100 if currency in _WRITTEN_WHOLE else 1


def parse_locale(text: str) -> Locale:
    """The locale a text such as `en`, `de-AT` or `pt_BR` names. Raises ValueError when there is no such locale."""
    from babel import UnknownLocaleError

    try:
        return _locale(text)
    except (UnknownLocaleError, ValueError, TypeError) as error:
        raise ValueError(f"no locale is called {text!r}: use a code such as en, de-AT or pt_BR") from error


def format_money(amount_minor: int, currency: str, locale: str) -> str:
    """An amount in minor units as people of a locale write it, with every decimal place of its currency.

    Raises ValueError when the locale is unknown.
    """
    places = exponent(currency)
    if currency in _WRITTEN_WHOLE and amount_minor % 10**places == 0:
        amount_minor, places = amount_minor // 10**places, 0
    with localcontext(prec=_PRECISION):
        return _written(Decimal(amount_minor).scaleb(-places), currency, locale, places)


def format_unit_amount(unit_amount: str, currency: str, locale: str) -> str:
    """A unit price, given in minor units as decimal text, with as many places as it needs.

    `"0.05"` in usd is five hundredths of a cent: $0.0005. Raises ValueError when the text is not a plain decimal
    number or the locale is unknown.
    """
    try:
        minor = Decimal(unit_amount)
    except InvalidOperation as error:
        raise ValueError(f"not a decimal number: {unit_amount!r}") from error
    if not minor.is_finite() or abs(minor.adjusted()) > _MAX_UNIT_DIGITS or len(minor.as_tuple().digits) > _PRECISION:
        raise ValueError(f"not a unit price: {unit_amount!r}")
    with localcontext(prec=_PRECISION):
        minor = minor.normalize()
        if minor == minor.to_integral_value():
            return format_money(int(minor), currency, locale)
        major = minor.scaleb(-exponent(currency))
        return _written(major, currency, locale, max(exponent(currency), _decimal_places(major)))


def _written(value: Decimal, currency: str, locale: str, places: int) -> str:
    parsed = parse_locale(locale)
    text = _pattern(parsed, places).apply(value, parsed, currency=currency.upper(), currency_digits=False)
    return _LETTER_BEFORE_DIGIT.sub("\N{NO-BREAK SPACE}", text)


def _decimal_places(value: Decimal) -> int:
    power = value.as_tuple().exponent
    return max(0, -power) if isinstance(power, int) else 0


@lru_cache(maxsize=256)
def _locale(text: str) -> Locale:
    from babel import Locale

    return Locale.parse(text.replace("-", "_"))


@lru_cache(maxsize=256)
def _pattern(locale: Locale, places: int) -> NumberPattern:
    # Babel would take the places from CLDR, which counts what is used in cash and so drops real money (COP, IDR, AFN).
    pattern: NumberPattern = copy.copy(locale.currency_formats["standard"])
    pattern.frac_prec = (places, places)
    return pattern
