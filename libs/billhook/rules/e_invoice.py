"""What an electronic invoice must have: the fields and the sums that EN 16931 asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from babel import Locale

from billhook.rules.document import Line, Snapshot
from billhook.rules.en16931 import DECIMALS, Amounts, amounts, decimal_text, step
from billhook.rules.money import exponent
from billhook.rules.tax_ids import other_id_of, vat_id_of
from billhook.rules.terms import Party

_MOST_NAMED: Final = 10
"""Of problems with lines: of a thousand lines, most have the same one."""

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def missing(snapshot: Snapshot) -> list[str]:
    """What EN 16931 asks for and the snapshot does not have, or says in a way that the standard cannot: a sentence
    each, and none when an e-invoice can be made."""
    if snapshot.kind not in ("invoice", "credit_note"):
        return [f"only invoices and credit notes are e-invoices, and this is a document of kind {snapshot.kind}"]
    whole = [*_document(snapshot), *_parties(snapshot), *_periods(snapshot)]
    if on_lines := list(_lines(snapshot)):
        # What the amounts come to can be told only once each line says how it is taxed.
        more = len(on_lines) - _MOST_NAMED
        return [*whole, *on_lines[:_MOST_NAMED], *([f"and {more} more of the lines"] if more > 0 else [])]
    if too_fine := _too_fine(snapshot):
        return [*whole, too_fine]
    return [*whole, *_taxes(snapshot, amounts(snapshot))]


def _document(snapshot: Snapshot) -> Iterator[str]:
    if not plain(snapshot.number):
        yield "the number is missing"
    if snapshot.issued_at is None:
        yield "the date of issue is missing"
    if snapshot.kind == "credit_note" and not plain(snapshot.corrects):
        yield "the number of the corrected invoice is missing"
    if snapshot.kind == "invoice" and snapshot.amount_remaining > 0 and snapshot.due_at is None:
        yield "the due date is missing"
    if not snapshot.lines:
        yield "there are no lines"
    if not snapshot.lines_complete:
        yield "some of the lines are missing"


def _parties(snapshot: Snapshot) -> Iterator[str]:
    seller, buyer = snapshot.seller, snapshot.buyer
    yield from _party("seller", seller)
    if not vat_id_of(seller) and not other_id_of(seller):
        yield "the seller's tax id is missing"
    if buyer is None:
        yield "the buyer is missing"
        return
    yield from _party("buyer", buyer)
    reverse_charge = any(line.tax_category == "reverse_charge" for line in snapshot.lines)
    if reverse_charge and not vat_id_of(buyer):
        yield "the buyer's VAT number is missing, which a reverse charge needs"


def _party(role: str, party: Party) -> Iterator[str]:
    if not plain(party.name):
        yield f"the {role}'s name is missing"
    country = plain(party.address.country).upper() if party.address else ""
    if not country:
        yield f"the {role}'s country is missing"
    elif len(country) != 2 or country not in Locale("en").territories:
        yield f"the {role}'s country must be a code of two letters such as DE, and is {country[:20]!r}"


def _periods(snapshot: Snapshot) -> Iterator[str]:
    periods = [("the period", snapshot.period_start, snapshot.period_end)]
    periods += [(f"line {n}'s period", line.period_start, line.period_end) for n, line in _numbered(snapshot)]
    for what, start, end in periods:
        if start and end and end < start:
            yield f"{what} ends before it begins"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    for number, line in _numbered(snapshot):
        if not plain(line.description):
            yield f"line {number}'s description is missing"
        if line.tax_category is None or (line.tax_percent is None and line.tax_category == "standard"):
            yield f"line {number}'s rate and category of tax are missing"


def _numbered(snapshot: Snapshot) -> Iterator[tuple[int, Line]]:
    return enumerate(snapshot.lines, 1)


def _too_fine(snapshot: Snapshot) -> str | None:
    written = [snapshot.amount_remaining]
    for line in snapshot.lines:
        written += [line.charged, line.tax]
        if not snapshot.tax_inclusive:  # what a discount is without tax is rounded anyway
            written += [line.discount, line.allowance]
    if any(amount % step(snapshot.currency) for amount in written):
        currency = snapshot.currency.upper()
        return f"there are amounts of {currency} with more than {DECIMALS} decimals, and EN 16931 cannot write them"
    return None


def _taxes(snapshot: Snapshot, net: Amounts) -> Iterator[str]:
    codes = {part.rate.code for part in net.breakdowns}
    if "O" in codes and len(codes) > 1:
        yield "lines outside the scope of VAT cannot stand beside lines within it: say what tax each line has"
    for part in net.breakdowns:
        if part.rate.code == "E" and not plain(part.reason):
            yield "the reason why lines are exempt is missing"
        exact = abs(part.taxable) * part.rate.percent / 100
        off = Decimal(abs(abs(part.tax) - exact)).scaleb(-exponent(snapshot.currency))
        if off >= 1 or (part.tax and not part.rate.percent):
            tax, taxable = (decimal_text(amount, snapshot.currency) for amount in (part.tax, part.taxable))
            yield f"the tax of {tax} is not {part.rate.percent:f} % of {taxable}"
    if net.total != snapshot.total or net.tax != snapshot.tax:
        yield "the lines do not add up to the total"


def plain(text: str | None) -> str:
    """The text without the characters that XML cannot hold."""
    return _NOT_XML.sub("", text or "").strip()
