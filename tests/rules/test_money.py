"""What an amount in minor units is worth, and how it is written."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.money import exponent, format_money, format_unit_amount, known_currency, parse_locale, quantum

CURRENCIES = ["usd", "eur", "jpy", "kwd", "isk", "ugx", "huf", "twd", "mga", "cop", "idr", "clf", "bhd", "xof"]
currencies = st.sampled_from(CURRENCIES)
amounts = st.integers(min_value=-(2**63), max_value=2**63 - 1)
unit_texts = st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, allow_infinity=False, places=12)


def read_back(text: str) -> Decimal:
    """The number in a text written for the locale `en`."""
    return Decimal("".join(char for char in text if char.isdigit() or char in "-."))


@given(amounts, currencies)
def test_what_is_written_is_worth_exactly_what_was_meant(amount: int, currency: str) -> None:
    assert read_back(format_money(amount, currency, "en")) * 10 ** exponent(currency) == amount


@given(amounts, st.sampled_from([code for code in CURRENCIES if code not in {"isk", "ugx"}]))
def test_every_amount_of_a_currency_has_the_same_number_of_places(amount: int, currency: str) -> None:
    _, _, fraction = format_money(amount, currency, "en").partition(".")
    assert len(fraction) == exponent(currency)


@given(unit_texts, currencies)
def test_a_unit_price_below_one_minor_unit_loses_nothing(minor: Decimal, currency: str) -> None:
    assert read_back(format_unit_amount(f"{minor:f}", currency, "en")) == minor.scaleb(-exponent(currency))


@given(amounts, currencies)
def test_a_whole_unit_price_is_written_like_an_amount(amount: int, currency: str) -> None:
    assert format_unit_amount(str(amount), currency, "de") == format_money(amount, currency, "de")
    assert format_unit_amount(f"{amount}.000", currency, "de") == format_money(amount, currency, "de")


@pytest.mark.parametrize(
    ("amount", "currency", "locale", "text"),
    [
        (123456, "usd", "en", "$1,234.56"),
        (123456, "eur", "de-DE", "1.234,56\N{NO-BREAK SPACE}€"),
        (-500, "usd", "en", "-$5.00"),
        (1234, "jpy", "en", "¥1,234"),
        (1234, "kwd", "en", "KWD\N{NO-BREAK SPACE}1.234"),
        (500, "isk", "en", "ISK\N{NO-BREAK SPACE}5"),
        (550, "isk", "en", "ISK\N{NO-BREAK SPACE}5.50"),
        (500, "ugx", "en", "UGX\N{NO-BREAK SPACE}5"),
        (1050, "huf", "en", "HUF\N{NO-BREAK SPACE}10.50"),
        (12345678, "inr", "en-IN", "₹1,23,456.78"),
        (0, "usd", "en", "$0.00"),
    ],
)
def test_known_amounts(amount: int, currency: str, locale: str, text: str) -> None:
    assert format_money(amount, currency, locale) == text


def test_known_unit_prices() -> None:
    assert format_unit_amount("0.05", "usd", "en") == "$0.0005"
    assert format_unit_amount("1250", "usd", "en") == "$12.50"
    assert format_unit_amount("0.5", "jpy", "en") == "¥0.5"
    assert format_unit_amount("-0", "usd", "en") == "$0.00"


@pytest.mark.parametrize("text", ["", "ten", "NaN", "Infinity", "1e999999999", "1e-999999999"])
def test_a_unit_price_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        format_unit_amount(text, "usd", "en")


@pytest.mark.parametrize("locale", ["", "xx", "zz-ZZ", "../etc/passwd", "e" * 500])
def test_an_unknown_locale_is_refused_with_what_to_do(locale: str) -> None:
    with pytest.raises(ValueError, match="no locale"):
        parse_locale(locale)


def test_currencies_are_lower_case_codes_of_money() -> None:
    assert all(map(known_currency, [*CURRENCIES, "dem", "sle", "xcg", "zmw", "std", "htg"]))
    assert not any(map(known_currency, ["USD", "", "us", "xyz", "xxx", "xts", "usd "]))


def test_exponents_are_those_of_the_providers() -> None:
    zero = ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
    assert {exponent(code) for code in zero} == {0}
    assert {exponent(code) for code in ("bhd", "jod", "kwd", "omr", "tnd")} == {3}
    assert {exponent(code) for code in ("usd", "eur", "isk", "ugx", "huf", "twd")} == {2}


def test_amounts_without_a_minor_unit_end_in_00_and_all_others_in_anything() -> None:
    assert {quantum(code) for code in ("isk", "ugx")} == {100}
    assert {quantum(code) for code in CURRENCIES if code not in {"isk", "ugx"}} == {1}
