"""Rounding: how a fraction becomes a whole amount, and how a whole amount is split, so that nothing is lost on the way.

All of it is integers, and fractions are two of them: no precision to choose, and no float near money.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def fraction(text: str, pattern: str) -> tuple[int, int]:
    """The number in a decimal text, as a numerator and a power of ten. Raises ValueError unless it is of the pattern
    (`terms.DECIMALS` or `terms.PERCENT`)."""
    if not re.fullmatch(pattern, text):
        raise ValueError(f"{text[:40]!r} is not a plain decimal number, or has too many digits.")
    whole, _, places = text.partition(".")
    return int(whole + places), 10 ** len(places)


def round_half_up(numerator: int, denominator: int, step: int = 1) -> int:
    """A fraction as the nearest multiple of `step`; halfway between two of them, the one further from zero."""
    whole = denominator * step
    steps = (2 * abs(numerator) + whole) // (2 * whole)
    return step * (steps if numerator >= 0 else -steps)


def allocate(amount: int, weights: Sequence[int], step: int = 1) -> tuple[int, ...]:
    """Split an amount in proportion to weights of zero or more, by largest remainder: each share is its exact value
    rounded down or up to a multiple of `step`, and together they are the amount. Of equal remainders the first goes up.
    """
    whole = sum(weights)
    if amount == 0:
        return (0,) * len(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError(f"cannot split {amount} by the weights {list(weights[:10])}: none may be negative, nor all 0")
    return round_shares(amount, [amount * weight for weight in weights], whole, step)


def round_shares(amount: int, numerators: Sequence[int], denominator: int, step: int = 1) -> tuple[int, ...]:
    """Round exact shares, known as fractions, so that together they are the amount.

    Their exact sum may be half a step away from it. Still only shares that are not exact are rounded up: the steps to
    hand out are fewer than the sum of the remainders and a half, and each remainder is less than one.
    """
    whole = denominator * step
    shares = [numerator // whole * step for numerator in numerators]
    if missing := (amount - sum(shares)) // step:
        for place in sorted(range(len(shares)), key=lambda place: -(numerators[place] % whole))[:missing]:
            shares[place] += step
    return tuple(shares)
