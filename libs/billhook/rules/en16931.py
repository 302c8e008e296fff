"""The arithmetic of EN 16931: what a document's amounts are once no price has tax in it.

The standard knows prices without tax only, and adds up from below: lines, less the discounts on the whole, are what tax
is charged on. A document whose prices include the tax has been added up the other way, so its lines are converted here:
what a line is without tax is what was charged less its share of the tax, which is exact, since the shares add up to the
tax. Only discounts are divided by the rate and rounded, and what that takes from or gives to a discount, the amount
before the discount takes or gives too. So every sum of the standard (BR-CO-10 to 15, BR-S-8) holds to the cent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import count
from typing import Final

import msgspec

from billhook.rules.document import Line, Snapshot
from billhook.rules.money import exponent, quantum
from billhook.rules.rounding import round_half_up
from billhook.rules.terms import TaxCategory

DECIMALS: Final = 2
"""Of every amount but a unit price, whatever the currency (BR-DEC-1 to 28)."""

_PRECISION: Final = 80
"""Digits: a quantity times a unit price has 54 at most, so nothing is rounded that is not meant to be."""

_CODES: Final[Mapping[TaxCategory, str]] = {
    "standard": "S",
    "zero": "Z",
    "exempt": "E",
    "reverse_charge": "AE",
    "intra_community": "K",
    "export": "G",
    "outside_scope": "O",
}
"""UNTDID 5305."""


class Rate(msgspec.Struct, frozen=True):
    """What the standard tells taxes apart by."""

    code: str
    percent: Decimal = Decimal(0)


class NetLine(msgspec.Struct, frozen=True, kw_only=True):
    """All in minor units but the price."""

    rate: Rate
    quantity: Decimal
    price: Decimal
    """Of one, in whole units of the currency. Times the quantity it rounds to `net` and `discount` together."""
    unit: str
    discount: int
    net: int
    """After the line's own discounts, before those on the whole."""
    allowance: int
    """Its share of the discounts on the whole."""
    tax: int


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of one rate, in minor units."""

    rate: Rate
    allowance: int
    taxable: int
    tax: int
    reason: str | None


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    lines: tuple[NetLine, ...]
    breakdowns: tuple[Breakdown, ...]

    @property
    def net(self) -> int:
        return sum(line.net for line in self.lines)

    @property
    def allowance(self) -> int:
        return sum(part.allowance for part in self.breakdowns)

    @property
    def taxable(self) -> int:
        return self.net - self.allowance

    @property
    def tax(self) -> int:
        return sum(part.tax for part in self.breakdowns)

    @property
    def total(self) -> int:
        return self.taxable + self.tax


def amounts(snapshot: Snapshot) -> Amounts:
    """The amounts of a snapshot whose lines all have a category."""
    lines = tuple(_net_line(line, snapshot) for line in snapshot.lines)
    reasons: dict[str, dict[str, None]] = {}
    for tax in snapshot.taxes:
        if tax.category and tax.reason:
            reasons.setdefault(rate_of(tax.category, tax.percent).code, {})[tax.reason] = None
    rates: dict[Rate, list[NetLine]] = {}
    for line in lines:
        rates.setdefault(line.rate, []).append(line)
    return Amounts(lines=lines, breakdowns=tuple(_breakdown(rate, of, reasons) for rate, of in rates.items()))


def rate_of(category: TaxCategory, percent: str | None) -> Rate:
    """Without regard to how a percentage is spelled, or to a name: each rate may be listed once only. A standard rate
    of 0 is a zero rate, as the standard has it (BR-S-5)."""
    rate = Decimal(percent or 0)
    if category != "standard" or not rate:
        return Rate(_CODES["zero" if category == "standard" else category])
    return Rate(_CODES["standard"], rate.normalize())


def decimal_text(minor: int, currency: str) -> str:
    """An amount as the standard writes it."""
    return f"{Decimal(minor).scaleb(-exponent(currency)):.{min(exponent(currency), DECIMALS)}f}"


def step(currency: str) -> int:
    """The smallest step between two amounts that the standard can write, in minor units."""
    finest: int = 10 ** max(0, exponent(currency) - DECIMALS)
    return max(quantum(currency), finest)


def _breakdown(rate: Rate, lines: Iterable[NetLine], reasons: Mapping[str, Mapping[str, None]]) -> Breakdown:
    lines = tuple(lines)
    allowance = sum(line.allowance for line in lines)
    return Breakdown(
        rate=rate,
        allowance=allowance,
        taxable=sum(line.net for line in lines) - allowance,
        tax=sum(line.tax for line in lines),
        reason="; ".join(reasons.get(rate.code, ())) or None,
    )


def _net_line(line: Line, snapshot: Snapshot) -> NetLine:
    assert line.tax_category is not None, "callers have made sure"
    rate = rate_of(line.tax_category, line.tax_percent)
    discount, allowance = line.discount, line.allowance
    charged = line.charged
    if snapshot.tax_inclusive:
        charged -= line.tax
        discount, allowance = (_without_tax(amount, rate, snapshot.currency) for amount in (discount, allowance))
    net = charged + allowance
    quantity, price, unit = _priced(line, net + discount, snapshot)
    return NetLine(
        rate=rate,
        quantity=quantity,
        price=price,
        unit=unit,
        discount=discount,
        net=net,
        allowance=allowance,
        tax=line.tax,
    )


def _without_tax(amount: int, rate: Rate, currency: str) -> int:
    percent, parts = rate.percent.as_integer_ratio()
    return round_half_up(amount * 100 * parts, 100 * parts + percent, step(currency))


def _priced(line: Line, listed: int, snapshot: Snapshot) -> tuple[Decimal, Decimal, str]:
    """Quantity, price of one, and unit, such that the two multiplied round to what is listed.

    A price may have any number of decimals but no sign (BR-27): what goes the other way has a quantity below zero.
    """
    with localcontext(prec=_PRECISION, rounding=ROUND_HALF_UP):
        amount = Decimal(listed).scaleb(-exponent(snapshot.currency))
        quantity = Decimal(line.quantity or 1)
        exact = Decimal(line.unit_amount or 0).scaleb(-exponent(snapshot.currency))
        if not snapshot.tax_inclusive and _to_cents(quantity * exact) == amount:
            return (quantity, exact, line.unit or "C62") if exact >= 0 else (-quantity, -exact, line.unit or "C62")
        if not quantity:
            return Decimal(1).copy_sign(amount), abs(amount), "C62"
        if (amount < 0) != (quantity < 0):
            quantity = -quantity
        price = abs(amount / quantity)
        rounded = (price.quantize(Decimal(1).scaleb(-places)) for places in count(DECIMALS))
        return quantity, next(one for one in rounded if _to_cents(quantity * one) == amount), line.unit or "C62"


def _to_cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-DECIMALS))
