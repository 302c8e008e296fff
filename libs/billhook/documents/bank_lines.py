"""Bank lines: the account a merchant writes for people to read, found for machines."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

_SEPA: Final = (
    "AD AL AT BE BG CH CY CZ DE DK EE ES FI FR GB GI GR HR HU IE IS IT LI LT LU LV MC MD ME MK MT NL NO PL PT RO RS SE"
    " SI SK SM VA"
)
"""Countries whose banks the European Payments Council's schemes reach."""
_WORD: Final = re.compile(r"[A-Z0-9]+")
_MOST_WORDS: Final = 10
"""An IBAN has 34 characters at most, written in groups of four."""
_LONGEST: Final = 200
_BIC: Final = re.compile(r"\b(?:BIC|SWIFT)\b[^A-Z0-9]*([A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?)\b")
"""Only behind its name: eight capital letters may be any word."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    iban: str
    bic: str | None = None

    @property
    def sepa(self) -> bool:
        return self.iban[:2] in _SEPA.split()


@lru_cache(maxsize=1024)  # a merchant's are the same on all its invoices
def account_in(bank: tuple[str, ...]) -> Account | None:
    """The first IBAN whose check digits are right, and the BIC, where one is named."""
    lines = [line[:_LONGEST].upper() for line in bank]
    iban = next(filter(None, map(_iban_in, lines)), None)
    if iban is None:
        return None
    bic = next(filter(None, map(_BIC.search, lines)), None)
    return Account(iban=iban, bic=bic[1] if bic else None)


def _iban_in(line: str) -> str | None:
    # It reads tables of all countries when it is imported, a tenth of a second that only e-invoices need.
    from stdnum import iban

    words = _WORD.findall(line)
    for start in range(len(words)):
        for end in range(start + 1, min(start + _MOST_WORDS, len(words)) + 1):
            text = "".join(words[start:end])
            if iban.is_valid(text):
                return text
    return None
