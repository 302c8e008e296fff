"""Taxes: which rates there can be, and what each comes to.

Tax is charged on the sum of all lines of a rate and rounded once (EN 16931, BR-CO-17); rounded line by line, it would
come to something else. The lines then share it by largest remainder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, get_args

from billhook.rules.document import TaxTotal
from billhook.rules.rounding import fraction, round_half_up, round_shares
from billhook.rules.terms import PERCENT, LineTerms, Party, TaxCategory, TaxRate

_CATEGORIES: Final[tuple[TaxCategory, ...]] = get_args(TaxCategory)

Groups = Mapping[TaxRate | None, Sequence[int]]
"""The places of the lines of each rate, in the order in which rates are listed."""


def rates_of(lines: Sequence[LineTerms], buyer: Party) -> list[TaxRate | None]:
    """The rate of each line, in its one spelling. Raises ValueError with a sentence for what cannot be."""
    known: dict[TaxRate, TaxRate] = {}
    for place, line in enumerate(lines):
        if line.tax is not None and line.tax not in known:
            try:
                known[line.tax] = _checked(line.tax, buyer)
            except ValueError as error:
                raise ValueError(f"lines[{place}].tax.{error}") from None
    return [known[line.tax] if line.tax else None for line in lines]


def grouped(rates: Sequence[TaxRate | None]) -> Groups:
    groups: dict[TaxRate | None, list[int]] = {}
    for line, rate in enumerate(rates):
        groups.setdefault(rate, []).append(line)
    return dict(sorted(groups.items(), key=lambda group: _listed(group[0])))


def taxes_on(
    charged: Sequence[int], groups: Groups, *, inclusive: bool, step: int
) -> tuple[tuple[TaxTotal, ...], list[int]]:
    """The tax of each rate, and each line's share of it. `charged` is what is left of each line after all discounts."""
    taxes = []
    shares = [0] * len(charged)
    for rate, lines in groups.items():
        if rate is None:
            continue
        percent, parts = fraction(rate.percent, PERCENT)
        hundred = 100 * parts
        whole = hundred + percent if inclusive else hundred
        amount = sum(charged[line] for line in lines)
        if inclusive:
            taxable = round_half_up(amount * hundred, whole, step)
            tax = amount - taxable
        else:
            taxable = amount
            tax = round_half_up(amount * percent, whole, step)
        taxes.append(
            TaxTotal(
                name=rate.name,
                percent=rate.percent,
                category=rate.category,
                taxable=taxable,
                tax=tax,
                reason=rate.reason,
            )
        )
        exact = [charged[line] * percent for line in lines]
        for line, share in zip(lines, round_shares(tax, exact, whole, step), strict=True):
            shares[line] = share
    return tuple(taxes), shares


def _checked(rate: TaxRate, buyer: Party) -> TaxRate:
    try:
        percent, _ = fraction(rate.percent, PERCENT)
    except ValueError as error:
        raise ValueError(f"percent: {error}") from None
    reason = rate.reason or None
    if rate.category not in _CATEGORIES:
        raise ValueError(f"category: must be one of {', '.join(_CATEGORIES)}.")
    if rate.category == "standard" and not percent:
        raise ValueError("percent: is 0, yet the category is standard. Say why: zero, exempt, reverse_charge, …")
    if rate.category != "standard" and percent:
        raise ValueError(f"percent: must be 0 where the category is {rate.category}.")
    if rate.category == "exempt" and not reason:
        raise ValueError("reason: say why it is exempt. It has to stand on the invoice.")
    if rate.category in ("reverse_charge", "intra_community") and not buyer.tax_ids:
        what = "a reverse charge" if rate.category == "reverse_charge" else "an intra-community supply"
        raise ValueError(f"category: for {what} the buyer needs a tax id (buyer.tax_ids).")
    if rate.category == "reverse_charge":
        reason = reason or "Reverse charge"
    plain = f"{Decimal(rate.percent).normalize():f}"
    return TaxRate(name=rate.name, percent=plain, category=rate.category, reason=reason)


def _listed(rate: TaxRate | None) -> tuple[bool, int, Decimal, str, str]:
    """The highest standard rate first; lines without a rate last."""
    if rate is None:
        return True, 0, Decimal(), "", ""
    return False, _CATEGORIES.index(rate.category), -Decimal(rate.percent), rate.name, rate.reason or ""
