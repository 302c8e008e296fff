"""Numbering: the series that numbers are drawn from, and how a number is written.

A series is a text such as "INV-2026-", and each has a counter of its own. What stands in it is chosen so that two
customers, or a customer and a year, never come to the same text by accident: the whole point of a number is that there
is one document to it. Every series ends in something other than a digit, so its counter may grow beyond its digits.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final, Literal

import msgspec

from billhook.rules.days import day_of

PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,19}(?<![0-9])")
"""Up to 20 letters, digits and . _ / -, which do not end in a digit."""
MOST_DIGITS: Final = 12

_PLAIN_CUSTOMER: Final = re.compile(r"(?![0-9]{4}\Z)[A-Za-z0-9_]{1,32}")
"""What may stand in a series as it is: no hyphen, which parts its words, no dot, which parts a digest, and no year."""
_KEPT: Final = 16
_DIGEST: Final = 12
"""Hex digits: 48 bits keep a million customers apart."""


class Numbering(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    prefix: str = "INV-"
    per: Literal["merchant", "customer"] = "merchant"
    yearly: bool = False
    """Begin again at 1 with each year of the merchant's zone."""
    digits: int = 4
    """At least so many: 7 is written 0007, and 12345 as it is."""


def series_of(numbering: Numbering, customer: str | None, at: datetime, zone: str) -> str:
    """The series of a document that is issued at a time (aware), in at most 64 characters.

    Where each customer has a series, those documents that name none share the one with the bare prefix.
    """
    words = [_customer_word(customer)] if numbering.per == "customer" and customer else []
    if numbering.yearly:
        words.append(f"{day_of(at, zone).year:04d}")
    return numbering.prefix + "".join(f"{word}-" for word in words)


def number_text(series: str, sequence: int, digits: int) -> str:
    return f"{series}{sequence:0{digits}d}"


def _customer_word(customer: str) -> str:
    """The customer in a series. What cannot stand there is dropped, and a digest of all of it kept."""
    if _PLAIN_CUSTOMER.fullmatch(customer):
        return customer
    kept = re.sub(r"[^A-Za-z0-9_]+", "", customer)[:_KEPT] or "customer"
    return f"{kept}.{hashlib.sha256(customer.encode('utf-8', 'surrogatepass')).hexdigest()[:_DIGEST]}"
