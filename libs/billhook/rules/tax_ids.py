"""Tax ids: which of those a party gave is its VAT number, in the form registers and e-invoices know."""

from __future__ import annotations

import re
from typing import Final

from billhook.rules.terms import Party

_EU: Final = "AT BE BG CY CZ DE DK EE EL ES FI FR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK XI"
"""As VAT numbers have them: EL is Greece, and XI Northern Ireland."""
_VAT: Final = re.compile(r"[A-Z]{2}[0-9A-Z+*]*[0-9][0-9A-Z+*]*")
_SEPARATORS: Final = re.compile(r"[\s./-]")


def vat_id_of(party: Party) -> str | None:
    """The first that begins with a country of the EU or the party's own and has a digit. Whether it exists, only the
    country's register knows."""
    return next(filter(None, (_vat_id(text, party) for text in party.tax_ids)), None)


def other_id_of(party: Party) -> str | None:
    """The first that is not a VAT number, such as one of a local tax office."""
    return next((text.strip() for text in party.tax_ids if text.strip() and not _vat_id(text, party)), None)


def _vat_id(text: str, party: Party) -> str | None:
    compact = _SEPARATORS.sub("", text).upper()
    country = (party.address.country or "").upper() if party.address else ""
    known = compact[:2] in _EU.split() or compact[:2] == country
    return compact if known and _VAT.fullmatch(compact) else None
