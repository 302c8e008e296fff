"""Credit notes take back no more than there is, and in the end exactly all of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.rules.credit import Credit, Credited, credit
from billhook.rules.document import Seller, Snapshot
from billhook.rules.money import quantum
from billhook.rules.terms import CreditLine, CreditTerms, Discount, LineTerms, Party, TaxRate, Terms
from billhook.rules.totals import totals

QUICK = settings(max_examples=60, deadline=None)
VAT = TaxRate(percent="19")
REDUCED = TaxRate(percent="7")
GST = TaxRate(name="GST", percent="19")
ALL = CreditTerms()


def line(unit_amount: int, quantity: str = "1", tax: TaxRate | None = VAT) -> LineTerms:
    return LineTerms(description="thing", unit_amount=str(unit_amount), quantity=quantity, tax=tax)


def invoice(
    *lines: LineTerms, currency: str = "eur", discounts: tuple[Discount, ...] = (), tax_inclusive: bool = False
) -> Snapshot:
    terms = Terms(
        currency=currency, buyer=Party(name="Ada"), lines=lines, discounts=discounts, tax_inclusive=tax_inclusive
    )
    made = totals(terms)
    return Snapshot(
        kind="invoice",
        currency=currency,
        number="INV-0001",
        seller=Seller(name="Acme"),
        buyer=terms.buyer,
        lines=made.lines,
        tax_inclusive=tax_inclusive,
        allowances=made.allowances,
        taxes=made.taxes,
        subtotal=made.subtotal,
        discount=made.discount,
        tax=made.tax,
        total=made.total,
    )


def part(place: int, amount: int | None = None) -> CreditTerms:
    return CreditTerms(lines=(CreditLine(line=place, amount=amount),))


@st.composite
def invoices(draw: st.DrawFn) -> Snapshot:
    currency = draw(st.sampled_from(["eur", "jpy", "kwd", "isk"]))
    prices = draw(st.lists(st.integers(0, 5000), min_size=1, max_size=5))
    rates = st.sampled_from([None, VAT, REDUCED, GST])
    lines = [line(price * quantum(currency), "1", draw(rates)) for price in prices]
    if draw(st.booleans()):
        lines.append(line(-min(prices) * quantum(currency), "0.5", draw(rates)))
    percent = draw(st.sampled_from(["0", "10", "33.33"]))
    return invoice(*lines, currency=currency, discounts=(Discount(percent=percent),), tax_inclusive=draw(st.booleans()))


def adds_up(note: Credit, snapshot: Snapshot) -> bool:
    step = quantum(snapshot.currency)
    return (
        note.subtotal == sum(line.amount for line in note.lines)
        and note.tax == sum(rate.tax for rate in note.taxes) == sum(line.tax for line in note.lines)
        and note.total == note.subtotal + (0 if snapshot.tax_inclusive else note.tax)
        and note.total == sum(amount for _, amount in note.credited)
        and all(amount % step == 0 for line in note.lines for amount in (line.amount, line.tax))
    )


@given(st.data())
@QUICK
def test_credited_in_any_parts_the_end_is_exactly_nothing(data: st.DataObject) -> None:
    snapshot = data.draw(invoices())
    step = quantum(snapshot.currency)
    notes: list[Credit] = []
    before: list[Credited] = []
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(snapshot.lines) - 1))
        amount = data.draw(st.none() | st.integers(1, 3000).map(lambda amount: amount * step))
        try:
            note = credit(snapshot, part(place, amount), before, snapshot.total)
        except ValueError:
            continue
        assert adds_up(note, snapshot)
        assert all(line.amount >= 0 <= line.tax for line in note.lines)
        notes.append(note)
        before.extend(note.credited)
        assert sum(note.total for note in notes) <= snapshot.total
    if any(gross for gross in left_of(snapshot, before)):
        rest = credit(snapshot, ALL, before, snapshot.total)
        assert adds_up(rest, snapshot)
        notes.append(rest)
        before.extend(rest.credited)

    assert sum(note.total for note in notes) == snapshot.total
    assert sum(note.tax for note in notes) == snapshot.tax
    rates = {(rate.name, rate.percent): (rate.taxable, rate.tax) for rate in snapshot.taxes}
    taxable: Counter[tuple[str | None, str | None]] = Counter()
    tax: Counter[tuple[str | None, str | None]] = Counter()
    for rate in (rate for note in notes for rate in note.taxes):
        taxable[rate.name, rate.percent] += rate.taxable or 0
        tax[rate.name, rate.percent] += rate.tax
    assert {key: (taxable[key], tax[key]) for key in rates} == rates
    with pytest.raises(ValueError, match="credited already, all of it"):
        credit(snapshot, ALL, before, snapshot.total)


def left_of(snapshot: Snapshot, before: list[Credited]) -> list[int]:
    left = [line.charged + (0 if snapshot.tax_inclusive else line.tax) for line in snapshot.lines]
    for place, amount in before:
        left[place] -= amount
    return left


@given(invoices(), st.data())
@QUICK
def test_never_more_than_was_paid(snapshot: Snapshot, data: st.DataObject) -> None:
    creditable = data.draw(st.integers(0, snapshot.total))
    try:
        assert credit(snapshot, ALL, (), creditable).total <= creditable
    except ValueError as error:
        assert snapshot.total > creditable or not any(left_of(snapshot, []))
        assert "can be" in str(error) or "all of it" in str(error)  # noqa: PT017


def test_a_third_at_a_time() -> None:
    """10.00 and 19 % are 11.90. A third of it three times: the tax of 1.90 is 0.63, 0.64 and 0.63."""
    snapshot = invoice(line(1000))
    before: list[Credited] = []
    seen = []
    for amount in (397, 397, 396):
        note = credit(snapshot, part(0, amount), before, 1190)
        before.extend(note.credited)
        seen.append((note.subtotal, note.tax, note.total))
    assert seen == [(334, 63, 397), (333, 64, 397), (333, 63, 396)]


def test_a_whole_line_is_told_as_it_was_and_a_part_as_an_amount() -> None:
    snapshot = invoice(line(1000, "3"), line(500, "1", REDUCED))
    whole = credit(snapshot, part(0), (), 4105)
    assert [(each.quantity, each.unit_amount, each.amount, each.tax) for each in whole.lines] == [
        ("3", "1000", 3000, 570)
    ]
    assert [(rate.percent, rate.taxable, rate.tax) for rate in whole.taxes] == [("19", 3000, 570)]
    some = credit(snapshot, part(1, 107), (), 4105)
    assert [(each.quantity, each.unit_amount, each.amount, each.rate) for each in some.lines] == [("1", "100", 100, 0)]
    assert [(rate.percent, rate.taxable, rate.tax) for rate in some.taxes] == [("7", 100, 7)]


def test_prices_that_contain_the_tax_are_credited_with_it() -> None:
    note = credit(invoice(line(11900), tax_inclusive=True), part(0, 5950), (), 11900)
    assert (note.subtotal, note.tax, note.total, note.taxes[0].taxable) == (5950, 950, 5950, 5000)


def test_two_taxes_of_one_percentage_stay_apart() -> None:
    note = credit(invoice(line(1000, "1", VAT), line(2000, "1", GST)), ALL, (), 3570)
    assert [(rate.name, rate.tax) for rate in note.taxes] == [("GST", 380), ("VAT", 190)]


@pytest.mark.parametrize(
    ("wanted", "before", "creditable", "says"),
    [
        (ALL, [], 1000, r"€11\.90 would be credited, and at most €10\.00 of invoice INV-0001 can be"),
        (part(0, 1500), [], 2000, r"lines\[0\].amount: €15\.00 is more than the €14\.28 left of it"),
        (part(0), [(0, 1428)], 2000, "nothing is left of line 0"),
        (part(0), [], 2000, r"€14\.28 would be credited, and at most €11\.90"),
        (part(5), [], 2000, "has no line 5"),
        (part(-1), [], 2000, "has no line -1"),
        (part(0, 0), [], 2000, "must be above zero"),
        (part(1, 1), [], 2000, "taken back as a whole"),
        (part(1), [], 2000, "take money from the customer"),
        (CreditTerms(lines=(CreditLine(line=0, amount=1), CreditLine(line=0, amount=1))), [], 2000, "named twice"),
        (ALL, [(0, 1428), (1, -238)], 2000, "credited already"),
    ],
)
def test_what_cannot_be_taken_back_is_refused(
    wanted: CreditTerms, before: list[Credited], creditable: int, says: str
) -> None:
    snapshot = invoice(line(1200), line(-200))
    with pytest.raises(ValueError, match=says):
        credit(snapshot, wanted, before, creditable)


def test_amounts_that_end_in_00_are_credited_so() -> None:
    with pytest.raises(ValueError, match="in isk a multiple of 100"):
        credit(invoice(line(10000), currency="isk"), part(0, 150), (), 11900)


def test_a_credit_within_the_invoice_goes_with_the_rest() -> None:
    snapshot = invoice(line(1200), line(-200, "1", REDUCED))
    note = credit(snapshot, ALL, (), snapshot.total)
    assert [(each.amount, each.tax) for each in note.lines] == [(1200, 228), (-200, -14)]
    assert note.total == snapshot.total == 1214
