"""Invoices add up: for any currency, rates, discounts and order of lines."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.rules.money import quantum
from billhook.rules.rounding import allocate, round_half_up
from billhook.rules.terms import Discount, LineTerms, Party, TaxRate, Terms
from billhook.rules.totals import Totals, priced, totals

QUICK = settings(max_examples=60, deadline=None)
BUYER = Party(name="Ada", tax_ids=("DE123456789",))
RATES = (
    None,
    TaxRate(percent="19"),
    TaxRate(percent="19.0"),
    TaxRate(percent="7"),
    TaxRate(name="GST", percent="8.875"),
    TaxRate(percent="0", category="zero"),
    TaxRate(percent="0", category="exempt", reason="Article 132"),
    TaxRate(percent="0", category="reverse_charge"),
)
percents = st.decimals(0, 100, places=2).map(lambda percent: f"{percent:f}")


def line(unit_amount: str | int, quantity: str = "1", tax: TaxRate | str | None = None, **more: Any) -> LineTerms:
    rate = TaxRate(percent=tax) if isinstance(tax, str) else tax
    return LineTerms(description="thing", unit_amount=str(unit_amount), quantity=quantity, tax=rate, **more)


def terms(*lines: LineTerms, currency: str = "eur", **more: Any) -> Terms:
    return Terms(currency=currency, buyer=BUYER, lines=lines, **more)


@st.composite
def any_terms(draw: st.DrawFn) -> Terms:
    """Terms of any kind that can be charged: what comes to less than nothing is left out."""
    currency = draw(st.sampled_from(["eur", "jpy", "kwd", "isk"]))
    step = quantum(currency)
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        price = draw(st.integers(-(10**4), 10**6))
        places = draw(st.sampled_from([0, 0, 2]))
        quantity = draw(st.sampled_from(["0", "1", "1", "3", "1.5", "0.333"]))
        own = draw(st.lists(percents.map(lambda percent: Discount(percent=percent)), max_size=2)) if price >= 0 else []
        unit_amount = f"{Decimal(price * step).scaleb(-places):f}"
        lines.append(line(unit_amount, quantity, draw(st.sampled_from(RATES)), discounts=tuple(own)))
    whole = [Discount(percent=percent, label="off") for percent in draw(st.lists(percents, max_size=2))]
    whole += [Discount(amount=amount * step) for amount in draw(st.lists(st.integers(0, 3), max_size=1))]
    return terms(*lines, currency=currency, discounts=tuple(whole), tax_inclusive=draw(st.booleans()))


def charged(given_terms: Terms) -> Totals | None:
    try:
        return totals(given_terms)
    except ValueError as error:
        assert "negative" in str(error) or "left of the invoice" in str(error)  # noqa: PT017
        return None


@given(any_terms())
@QUICK
def test_every_sum_is_the_sum_of_its_parts(given_terms: Terms) -> None:
    made = charged(given_terms)
    if made is None:
        return
    assert made.subtotal == sum(line.amount for line in made.lines)
    assert made.discount == sum(line.discount + line.allowance for line in made.lines)
    assert sum(line.allowance for line in made.lines) == sum(allowance.amount for allowance in made.allowances)
    assert made.tax == sum(part.tax for part in made.taxes) == sum(line.tax for line in made.lines)
    assert made.total == made.subtotal - made.discount + (0 if given_terms.tax_inclusive else made.tax) >= 0
    step = quantum(given_terms.currency)
    assert all(
        amount % step == 0
        for line in made.lines
        for amount in (line.amount, line.discount, line.allowance, line.tax, made.total)
    )


@given(any_terms())
@QUICK
def test_the_tax_of_a_rate_is_that_of_the_sum_of_its_lines(given_terms: Terms) -> None:
    made = charged(given_terms)
    if made is None:
        return
    step = Decimal(quantum(given_terms.currency))
    for place, part in enumerate(made.taxes):
        lines = [line for line in made.lines if line.rate == place]
        assert part.tax == sum(line.tax for line in lines)
        assert {(line.tax_percent, line.tax_category) for line in lines} == {(part.percent, part.category)}
        rate = Decimal(part.percent or "0") / 100
        sum_of_lines = sum(line.charged for line in lines)
        if given_terms.tax_inclusive:
            exact = Decimal(sum_of_lines) / (1 + rate)
            assert part.taxable == (exact / step).quantize(Decimal(1), ROUND_HALF_UP) * step
            assert part.taxable + part.tax == sum_of_lines
        else:
            assert part.taxable == sum_of_lines
            assert part.tax == (sum_of_lines * rate / step).quantize(Decimal(1), ROUND_HALF_UP) * step


@given(any_terms())
@QUICK
def test_no_discount_takes_more_than_there_is(given_terms: Terms) -> None:
    made = charged(given_terms)
    for part in made.lines if made else ():
        assert min(part.amount, 0) <= part.discount + part.allowance <= max(part.amount, 0)


@given(any_terms())
@QUICK
def test_all_off_leaves_nothing_to_pay_and_no_tax(given_terms: Terms) -> None:
    """Also where rates differ and some of the lines give back: a voucher for all of it once left the difference of two
    taxes to be paid, or was refused because the total would be negative."""
    everything = msgspec.structs.replace(given_terms, discounts=(Discount(percent="100"),))
    prices = [priced(one, everything.currency) for one in everything.lines]
    if sum(amount - discount for amount, discount in prices) < 0:
        return
    made = totals(everything)
    assert (made.total, made.tax) == (0, 0)
    assert [(part.taxable, part.tax) for part in made.taxes] == [(0, 0)] * len(made.taxes)


def test_a_discount_on_the_whole_is_taken_off_what_is_given_back_as_well() -> None:
    """100.00 at 19 %, and 50.00 at 7 % given back, 10 % off: 90.00 and -45.00."""
    made = totals(terms(line(10000, tax="19"), line(-5000, tax="7"), discounts=(Discount(percent="10"),)))
    assert [part.allowance for part in made.lines] == [1000, -500]
    assert [(part.taxable, part.tax) for part in made.taxes] == [(9000, 1710), (-4500, -315)]
    assert (made.discount, made.total) == (500, 5895)


@given(any_terms(), st.randoms(use_true_random=False))
@QUICK
def test_the_order_of_the_lines_changes_no_rate_and_no_total(given_terms: Terms, chance: random.Random) -> None:
    lines = list(given_terms.lines)
    chance.shuffle(lines)
    made, other = charged(given_terms), charged(msgspec.structs.replace(given_terms, lines=tuple(lines)))
    if made is None or other is None:
        assert made is other
        return
    assert made.taxes == other.taxes
    assert made.allowances == other.allowances
    assert (made.subtotal, made.discount, made.tax, made.total) == (
        *(other.subtotal, other.discount, other.tax, other.total),
    )


@given(st.integers(-(10**12), 10**12), st.lists(st.integers(0, 10**9), min_size=1), st.sampled_from([1, 100]))
def test_what_is_allocated_is_the_whole_and_each_share_is_nearly_exact(
    amount: int, weights: list[int], step: int
) -> None:
    weights = [*weights, 1]
    shares = allocate(amount * step, weights, step)
    assert sum(shares) == amount * step
    for share, weight in zip(shares, weights, strict=True):
        assert share % step == 0
        assert abs(share * sum(weights) - amount * step * weight) < step * sum(weights)
        assert share == 0 or weight


def test_of_equal_remainders_the_first_goes_up() -> None:
    assert allocate(100, [1, 1, 1]) == (34, 33, 33)
    assert allocate(-100, [1, 1, 1]) == (-33, -33, -34)
    assert allocate(500, [1, 1, 1], step=100) == (200, 200, 100)
    assert allocate(0, []) == ()
    with pytest.raises(ValueError, match="nor all 0"):
        allocate(1, [0, 0])


@given(st.decimals(-(10**9), 10**9, places=6), st.sampled_from([1, 100]))
def test_half_is_rounded_away_from_zero(value: Decimal, step: int) -> None:
    numerator, denominator = value.as_integer_ratio()
    expected = (value / step).quantize(Decimal(1), ROUND_HALF_UP) * step
    assert round_half_up(numerator, denominator, step) == expected


def test_29_99_at_23_33_percent() -> None:
    """29.99 × 0.2333 is 6.996667; three of them are 20.990001 and not three times 7.00."""
    made = totals(terms(line(2999, tax="23.33")))
    assert (made.subtotal, made.tax, made.total) == (2999, 700, 3699)
    made = totals(terms(*[line(2999, tax="23.33")] * 3))
    assert (made.tax, [line.tax for line in made.lines]) == (2099, [700, 700, 699])
    off = totals(terms(line(2999, discounts=(Discount(percent="23.33"),))))
    assert (off.discount, off.total) == (700, 2299)


def test_several_rates_with_a_discount_on_the_whole() -> None:
    """120.00 at 19 %, 30.00 at 7 % and 50.00 without tax; 10 % off is 20.00, of which 12.00, 3.00 and 5.00."""
    made = totals(
        terms(
            line(5000),
            line(3000, tax="7.00"),
            line(4000, "3", tax="19"),
            discounts=(Discount(percent="10", label="Spring"),),
        )
    )
    assert [part.allowance for part in made.lines] == [500, 300, 1200]
    assert [(part.percent, part.taxable, part.tax) for part in made.taxes] == [("19", 10800, 2052), ("7", 2700, 189)]
    assert [(part.tax_percent, part.tax_category, part.rate) for part in made.lines] == [
        (None, "outside_scope", None),
        ("7", "standard", 1),
        ("19", "standard", 0),
    ]
    assert (made.subtotal, made.discount, made.tax, made.total) == (20000, 2000, 2241, 20241)


def test_prices_that_contain_19_percent() -> None:
    """119.00 contain 19.00. 9.99 contain 1.60 (8.39), and three of them 4.79 (25.18), not 4.80."""
    made = totals(terms(line(11900, tax="19"), tax_inclusive=True))
    assert (made.taxes[0].taxable, made.tax, made.total) == (10000, 1900, 11900)
    assert totals(terms(line(999, tax="19"), tax_inclusive=True)).tax == 160
    made = totals(terms(*[line(999, tax="19")] * 3, tax_inclusive=True))
    assert (made.tax, made.total, [part.tax for part in made.lines]) == (479, 2997, [160, 160, 159])
    made = totals(terms(line(4, tax="60"), tax_inclusive=True))
    assert (made.taxes[0].taxable, made.tax) == (
        3,
        1,
    )  # 2.5 and 1.5: what is charged on is rounded, the tax is the rest


def test_a_reverse_charge_is_explained() -> None:
    made = totals(terms(line(10000, tax=TaxRate(category="reverse_charge"))))
    assert (made.tax, made.total) == (0, 10000)
    assert (made.taxes[0].reason, made.taxes[0].taxable, made.taxes[0].percent) == ("Reverse charge", 10000, "0")
    own = TaxRate(category="reverse_charge", reason="Steuerschuldnerschaft des Leistungsempfängers")
    assert totals(terms(line(10000, tax=own))).taxes[0].reason == own.reason


@pytest.mark.parametrize(
    ("currency", "given_line", "figures"),
    [
        ("jpy", line("980", "3", "10"), (2940, 294, 3234)),
        ("jpy", line("0.5", "101", "10"), (51, 5, 56)),
        ("kwd", line("1234", "2", "5"), (2468, 123, 2591)),
        ("isk", line("99900", "1", "24"), (99900, 24000, 123900)),
        ("isk", line("50", "1"), (100, 0, 100)),
        ("ugx", line("500000", "0.333", "18"), (166500, 30000, 196500)),
        ("eur", line("0.05", "12345.5", "20"), (617, 123, 740)),
        ("eur", line("-0"), (0, 0, 0)),
    ],
)
def test_currencies_and_quantities_with_their_own_places(
    currency: str, given_line: LineTerms, figures: tuple[int, int, int]
) -> None:
    made = totals(terms(given_line, currency=currency))
    assert (made.subtotal, made.tax, made.total) == figures


def test_discounts_come_off_one_after_the_other() -> None:
    """100.00: half is 50.00, less 10.00 is 40.00, a tenth of that 4.00. Then 1.00 off the whole."""
    own = (Discount(percent="50"), Discount(amount=1000), Discount(percent="10"))
    made = totals(terms(line(10000, discounts=own), discounts=(Discount(amount=100),)))
    assert (made.lines[0].discount, made.lines[0].allowance, made.total) == (6400, 100, 3500)


@pytest.mark.parametrize(
    ("asked", "tax", "total"),
    [
        # Sums that other systems' users reported as a cent off, or as different on page, list and PDF.
        (terms(line(30000, tax="14.975"), currency="cad"), 4493, 34493),
        (terms(line(14000, tax="14.975"), currency="cad"), 2097, 16097),
        (terms(line(850000, tax="19"), discounts=(Discount(amount=750000),)), 19000, 119000),
        (terms(*(line(2500, hours) for hours in ("0.0833", "0.4167", "0.9167", "0.9"))), 0, 5792),
        # One line of ten or ten lines of one: the tax is that of their sum, so both come to the same.
        (terms(line(360, "10", tax="5.5")), 198, 3798),
        (terms(*[line(360, tax="5.5")] * 10), 198, 3798),
    ],
)
def test_sums_that_are_easily_a_cent_off(asked: Terms, tax: int, total: int) -> None:
    found = totals(asked)
    assert (found.tax, found.total) == (tax, total)
    assert sum(one.charged + one.tax for one in found.lines) == total


def test_a_credit_within_the_invoice_has_no_share_of_a_discount() -> None:
    made = totals(terms(line(-2000, tax="19"), line(10000, tax="19"), discounts=(Discount(percent="50"),)))
    assert [part.allowance for part in made.lines] == [0, 4000]
    assert (made.tax, made.total) == (760, 4760)


def test_an_empty_draft_comes_to_nothing() -> None:
    assert totals(terms()) == Totals(lines=(), allowances=(), taxes=(), subtotal=0, discount=0, tax=0, total=0)


def test_ten_thousand_lines_add_up() -> None:
    lines = [line(f"{place}.37", "1.25", str(5 + place % 3)) for place in range(10_000)]
    made = totals(terms(*lines, discounts=(Discount(percent="12.5"),)))
    assert len(made.lines) == 10_000
    assert made.total == sum(part.charged + part.tax for part in made.lines)
    with pytest.raises(ValueError, match="10,000 lines at most"):
        totals(terms(*lines, line(1)))


def test_what_would_take_too_long_to_draw_is_refused() -> None:
    """Ten thousand lines of a thousand letters take minutes: their invoice had a number, and never a document."""
    told = [msgspec.structs.replace(line(1), description="\u0634" * 100)] * 10_000
    assert totals(terms(*told)).total == 10_000
    with pytest.raises(ValueError, match="2,000,002 bytes together"):
        totals(terms(msgspec.structs.replace(line(1), description="\u0634" * 101), *told[1:]))


@pytest.mark.parametrize(
    ("given_terms", "says"),
    [
        (terms(currency="xyz"), "currency: 'xyz' is not a currency"),
        (terms(currency="EUR"), "lower-case"),
        (terms(line(-500)), "the total would be negative: -€5.00"),
        (terms(line(100), line(-200, tax="19")), "the total would be negative: -€1.38"),
        (terms(line("1e5")), r"lines\[0\].unit_amount: '1e5' is not a plain decimal number"),
        (terms(line("NaN")), "unit_amount"),
        (terms(line("1\n")), "unit_amount"),
        (terms(line("1" * 16)), "too many digits"),
        (terms(line(1, "-2")), r"lines\[0\].quantity: must not be below zero"),
        (terms(line(1), line("9" * 15, "1000")), r"lines\[1\].unit_amount: the line would come to more than €10,000,"),
        (terms(*[line("9" * 15)] * 2), "together they come to more"),
        (terms(line("9" * 15, tax="19")), "together they come to more"),
        (terms(line(100, discounts=(Discount(amount=101),))), r"€1.01 is more than the €1.00 left of the line"),
        (terms(line(100, discounts=(Discount(percent="100.1"),))), "more than 100"),
        (terms(line(100, discounts=(Discount(),))), "either a percent or an amount"),
        (terms(line(100, discounts=(Discount(percent="1", amount=1),))), "either a percent or an amount"),
        (terms(line(-100, discounts=(Discount(percent="1"),)), line(200)), "nothing can come off a line below zero"),
        (terms(line(100), discounts=(Discount(percent="50"), Discount(amount=51))), r"discounts\[1\].*€0.50 left of"),
        (terms(line(500), currency="isk", discounts=(Discount(amount=50),)), "a multiple of 100"),
        (terms(line(1), line(1, tax="0")), r"lines\[1\].tax.percent: is 0, yet the category is standard"),
        (terms(line(1, tax=TaxRate(percent="19", category="zero"))), "must be 0 where the category is zero"),
        (terms(line(1, tax=TaxRate(percent="19", category="reverse_charge"))), "must be 0"),
        (terms(line(1, tax=TaxRate(category="exempt"))), "say why it is exempt"),
        (terms(line(1, tax="19%")), "tax.percent: '19%' is not a plain decimal number"),
    ],
)
def test_what_cannot_be_charged_is_refused_with_the_field(given_terms: Terms, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        totals(given_terms)


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    start, end = datetime(2026, 3, 1, 11, 7, 3, tzinfo=UTC), datetime(2026, 3, 31, 11, 7, 3, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"^period_end: is before period_start"):
        totals(msgspec.structs.replace(terms(line(1)), period_start=end, period_end=start))
    assert totals(msgspec.structs.replace(terms(line(1)), period_start=start, period_end=end)).total


def test_a_reverse_charge_needs_the_buyers_tax_id() -> None:
    nobody = msgspec.structs.replace(terms(line(1, tax=TaxRate(category="reverse_charge"))), buyer=Party(name="Ada"))
    with pytest.raises(ValueError, match="the buyer needs a tax id"):
        totals(nobody)


def test_a_tax_of_which_only_the_amount_is_known_is_shared_by_the_lines() -> None:
    lines = tuple(LineTerms(description=str(price), unit_amount=price) for price in ("1000", "1420", "3"))
    terms = Terms(currency="eur", buyer=Party(name="A"), lines=lines, tax_inclusive=True, tax_contained=421)
    made = totals(terms)
    assert (made.total, made.tax, sum(line.tax for line in made.lines)) == (2423, 421, 421)
    assert [(part.taxable, part.tax, part.percent) for part in made.taxes] == [(2002, 421, None)]
    assert {(line.rate, line.tax_percent, line.tax_category) for line in made.lines} == {(0, None, None)}
    for changed in ({"tax_inclusive": False}, {"tax_contained": 2424}, {"lines": (*lines, taxed("1"))}):
        with pytest.raises(ValueError, match="tax_contained"):
            totals(msgspec.structs.replace(terms, **changed))


def taxed(price: str) -> LineTerms:
    return LineTerms(description="taxed", unit_amount=price, tax=TaxRate(percent="19"))
