"""Totals: what an invoice comes to.

It is rounded in few places, always half up (away from zero): each line's amount, each discount, and the tax of each
rate. What is rounded as a whole is then split by largest remainder, so that the parts of everything add up to it.

Nothing depends on the order of the lines but which of two equal ones carries an odd minor unit: discounts on the whole
are split among the rates first (in an order of their own), and within a rate among its lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from billhook.rules.document import Allowance, Line, TaxTotal
from billhook.rules.money import format_money, known_currency, quantum
from billhook.rules.rounding import allocate, fraction, round_half_up, round_shares
from billhook.rules.taxes import Groups, grouped, rates_of, taxes_on
from billhook.rules.terms import DECIMALS, MAX_LINES, MAX_TEXT, MOST, PERCENT, Discount, LineTerms, TaxRate, Terms


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """In the words of `document.Snapshot`."""

    lines: tuple[Line, ...]
    allowances: tuple[Allowance, ...]
    taxes: tuple[TaxTotal, ...]
    subtotal: int
    discount: int
    tax: int
    total: int


def totals(terms: Terms) -> Totals:
    """What these terms come to. Raises ValueError, with the field and a sentence, for what cannot be charged."""
    currency, step = terms.currency, quantum(terms.currency)
    if not known_currency(currency):
        raise ValueError(f"currency: {currency!r} is not a currency. Use a lower-case ISO 4217 code such as eur.")
    if len(terms.lines) > MAX_LINES:
        raise ValueError(f"lines: an invoice has {MAX_LINES:,} lines at most, and this one would have more.")
    if (text := sum(len(line.description.encode("utf-8", "replace")) for line in terms.lines)) > MAX_TEXT:
        raise ValueError(
            f"lines: their descriptions are {text:,} bytes together, and more than {MAX_TEXT:,} cannot be drawn."
            " Say less on each line, or make several invoices."
        )
    if terms.period_start and terms.period_end and terms.period_end < terms.period_start:
        raise ValueError("period_end: is before period_start.")
    prices = [_priced_at(place, line, currency) for place, line in enumerate(terms.lines)]
    rates = rates_of(terms.lines, terms.buyer)
    groups = grouped(rates)

    left = [amount - discount for amount, discount in prices]
    allowances = []
    shares = [0] * len(left)
    for place, given in enumerate(terms.discounts):
        whole = max(sum(left), 0)
        off = _discount(f"discounts[{place}]", given, whole, currency, "invoice")
        allowances.append(Allowance(amount=off, label=given.label, percent=given.percent))
        for line, share in _split(off, left, groups, step):
            left[line] -= share
            shares[line] += share

    taxes, tax_shares = taxes_on(left, groups, inclusive=terms.tax_inclusive, step=step)
    if terms.tax_contained:
        taxes, tax_shares = _contained(terms, rates, left, step)
    subtotal = sum(amount for amount, _ in prices)
    discount = sum(discount for _, discount in prices) + sum(allowance.amount for allowance in allowances)
    tax = sum(part.tax for part in taxes)
    total = subtotal - discount + (0 if terms.tax_inclusive else tax)
    if total < 0:
        raise ValueError(
            f"lines: the total would be negative: {_money(total, currency)}. To give money back, make a credit note"
            " for the invoice that asked for it."
        )
    if max(sum(abs(amount) for amount, _ in prices), total, *(abs(part.tax) for part in taxes)) > MOST:
        raise ValueError(f"lines: together they come to more than {_money(MOST, currency)}, which no invoice can.")
    places = {rate: None if rate is None else place for place, rate in enumerate(groups)}
    if terms.tax_contained:
        places = {None: 0}
    without = None if terms.tax_contained else "outside_scope"
    each = zip(terms.lines, prices, shares, tax_shares, rates, strict=True)
    return Totals(
        lines=tuple(
            msgspec.structs.replace(
                _line(line, price, share, line_tax, rate, places[rate]),
                tax_category=rate.category if rate else without,
            )
            for line, price, share, line_tax, rate in each
        ),
        allowances=tuple(allowances),
        taxes=taxes,
        subtotal=subtotal,
        discount=discount,
        tax=tax,
        total=total,
    )


def _contained(
    terms: Terms, rates: Sequence[TaxRate | None], left: Sequence[int], step: int
) -> tuple[tuple[TaxTotal, ...], list[int]]:
    """A tax of which only the amount is known, shared by the lines in proportion."""
    if not terms.tax_inclusive or any(rates):
        raise ValueError("tax_contained: only where prices contain the tax (tax_inclusive), and no line has a rate.")
    tax, whole = terms.tax_contained, sum(left)
    if tax % step or tax > whole or min(left) < 0:
        raise ValueError("tax_contained: must be an amount of the currency, and not more than the lines come to.")
    total = TaxTotal(taxable=whole - tax, tax=tax)
    return (total,), list(allocate(tax, left, step))


def priced(line: LineTerms, currency: str) -> tuple[int, int]:
    """What a line costs, and its own discounts together. Raises ValueError, with the field and a sentence."""
    quantity, quantity_parts = _decimal("quantity", line.quantity, DECIMALS)
    price, price_parts = _decimal("unit_amount", line.unit_amount, DECIMALS)
    if quantity < 0:
        raise ValueError("quantity: must not be below zero. For a credit, put the minus before the unit price.")
    if line.period_start and line.period_end and line.period_end < line.period_start:
        raise ValueError("period_end: is before period_start.")
    amount = round_half_up(quantity * price, quantity_parts * price_parts, quantum(currency))
    if abs(amount) > MOST:
        raise ValueError(f"unit_amount: the line would come to more than {_money(MOST, currency)}.")
    if line.discounts and amount < 0:
        raise ValueError("discounts: nothing can come off a line below zero. Make its price what it is in the end.")
    left = amount
    for place, given in enumerate(line.discounts):
        left -= _discount(f"discounts[{place}]", given, left, currency, "line")
    return amount, amount - left


def _priced_at(place: int, line: LineTerms, currency: str) -> tuple[int, int]:
    try:
        return priced(line, currency)
    except ValueError as error:
        raise ValueError(f"lines[{place}].{error}") from None


def _discount(field: str, given: Discount, left: int, currency: str, of: str) -> int:
    """What a discount takes off what is left."""
    if (given.percent is None) == (given.amount is None):
        raise ValueError(f"{field}: give either a percent or an amount.")
    if given.percent is not None:
        percent, parts = _decimal(f"{field}.percent", given.percent, PERCENT)
        if percent > 100 * parts:
            raise ValueError(f"{field}.percent: {given.percent} is more than 100.")
        return round_half_up(left * percent, 100 * parts, quantum(currency))
    amount = given.amount or 0
    if amount < 0 or amount % quantum(currency):
        raise ValueError(f"{field}.amount: must be zero or more, and in {currency} a multiple of {quantum(currency)}.")
    if amount > left:
        raise ValueError(
            f"{field}.amount: {_money(amount, currency)} is more than the {_money(left, currency)} left of the {of}."
        )
    return amount


def _split(amount: int, left: Sequence[int], groups: Groups, step: int) -> Iterable[tuple[int, int]]:
    """Lines and their shares of a discount on the whole. Each rate has its part of what all come to, also one that
    comes to less than nothing: half off halves what is given back at it too, and all off leaves nothing, tax or other.
    Within a rate the lines have shares that go its way, and none has more than it is."""
    if not amount:
        return
    sums = [sum(left[line] for line in lines) for lines in groups.values()]
    parts = round_shares(amount, [amount * of_rate for of_rate in sums], sum(sums), step)
    for lines, part in zip(groups.values(), parts, strict=True):
        sign = 1 if part > 0 else -1
        shares = allocate(sign * part, [max(sign * left[line], 0) for line in lines], step)
        yield from ((line, sign * share) for line, share in zip(lines, shares, strict=True))


def _line(
    line: LineTerms, price: tuple[int, int], allowance: int, tax: int, rate: TaxRate | None, place: int | None
) -> Line:
    amount, discount = price
    return Line(
        description=line.description,
        quantity=line.quantity,
        unit=line.unit,
        unit_amount=line.unit_amount,
        amount=amount,
        discount=discount,
        allowance=allowance,
        tax=tax,
        tax_percent=rate.percent if rate else None,
        rate=place,
        proration=line.proration,
        period_start=line.period_start,
        period_end=line.period_end,
    )


def _decimal(field: str, text: str, pattern: str) -> tuple[int, int]:
    try:
        return fraction(text, pattern)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _money(amount: int, currency: str) -> str:
    return format_money(amount, currency, "en")
