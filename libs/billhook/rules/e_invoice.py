"""What an electronic invoice must have: the fields and the sums that EN 16931 asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from babel import Locale

from billhook.rules.book.customer import Address
from billhook.rules.document import Line, Snapshot
from billhook.rules.en16931 import DECIMALS, Amounts, amounts, decimal_text, rate_of, step
from billhook.rules.money import exponent
from billhook.rules.tax_ids import other_id_of, vat_id_of
from billhook.rules.terms import Party, TaxCategory

_MOST_NAMED: Final = 10
"""Of problems with lines: of a thousand lines, most have the same one."""

_NEED_VAT_IDS: Final[Mapping[TaxCategory, str]] = {
    "reverse_charge": "a reverse charge",
    "intra_community": "an intra-community supply",
    "export": "an export",
}
"""BR-AE-2, BR-IC-2, BR-G-2."""

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def missing(snapshot: Snapshot) -> list[str]:
    """What EN 16931 asks for and the snapshot does not have, or says in a way that the standard cannot: a sentence
    each, and none when an e-invoice can be made."""
    if snapshot.kind not in ("invoice", "credit_note"):
        return [f"only invoices and credit notes are e-invoices, and this is a document of kind {snapshot.kind}"]
    on_lines, too_fine = list(_lines(snapshot)), _too_fine(snapshot)
    more = len(on_lines) - _MOST_NAMED
    whole = [*_document(snapshot), *_parties(snapshot), *_periods(snapshot), *_categories(snapshot)]
    whole += _xrechnung(snapshot) if snapshot.profile == "xrechnung" else ()
    whole += [*on_lines[:_MOST_NAMED], *([f"and {more} more of the lines"] if more > 0 else []), *too_fine]
    # What the amounts come to can be told only once each line says how it is taxed, in amounts that can be written.
    return whole if on_lines or too_fine else [*whole, *_sums(snapshot, amounts(snapshot))]


def asked_before_number(snapshot: Snapshot) -> list[str]:
    """What an invoice is not finalized without, though one that has its number already is drawn without it: within
    Germany, when the service was rendered (BR-FX-EN-04, § 14 UStG)."""
    if within_germany(snapshot) and not any(supplied(snapshot)):
        return [
            "the date of supply is missing, which invoices within Germany need: say period_start and period_end of the"
            " invoice or of each line (both on one day are the day of delivery)"
        ]
    return []


def within_germany(snapshot: Snapshot) -> bool:
    return _country(snapshot.seller) == "DE" and _country(snapshot.buyer) == "DE"


def supplied(snapshot: Snapshot) -> tuple[datetime | None, datetime | None]:
    """When it was rendered: the period of the whole, or where it has none, from the first to the last day of the
    lines, if each has both."""
    if snapshot.period_start or snapshot.period_end:
        return snapshot.period_start, snapshot.period_end
    starts = [line.period_start for line in snapshot.lines if line.period_start and line.period_end]
    ends = [line.period_end for line in snapshot.lines if line.period_start and line.period_end]
    if not starts or len(starts) < len(snapshot.lines):
        return None, None
    return min(starts), max(filter(None, ends))


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
    if snapshot.ship_to:  # BR-57
        yield from _place("ship_to", snapshot.ship_to.address)
    categories = {line.tax_category for line in snapshot.lines}
    for category, needs in _NEED_VAT_IDS.items():
        if category in categories and category != "export" and not vat_id_of(buyer):
            yield f"the buyer's VAT number is missing, which {needs} needs"
        if category in categories and category != "reverse_charge" and not vat_id_of(seller):
            yield f"the seller's VAT number is missing, which {needs} needs"


def _xrechnung(snapshot: Snapshot) -> Iterator[str]:
    """What Germany's public bodies ask for besides (BR-DE-2 to 15, and Peppol's rules on electronic addresses)."""
    seller, buyer = snapshot.seller, snapshot.buyer
    if not plain(snapshot.buyer_reference):
        yield "the buyer's reference is missing, which XRechnung needs: say buyer_reference, such as the Leitweg-ID"
    for what, text in (("phone", seller.phone), ("e-mail address", seller.email)):
        if not plain(text):
            yield f"the seller's {what} is missing, which XRechnung needs"
    places = [("the seller", seller.address), ("the buyer", buyer.address if buyer else None)]
    places += [("ship_to", snapshot.ship_to.address)] if snapshot.ship_to else []
    for whose, said in places:
        address = said or Address()
        for what, text in (("city", address.city), ("postal code", address.postal_code)):
            if not plain(text):
                yield f"{whose}'s {what} is missing, which XRechnung needs"
    if buyer and electronic_address(buyer) is None:
        yield "the buyer's electronic address is missing, which XRechnung needs: say electronic_address, or email"


def electronic_address(party: Party) -> tuple[str, str] | None:
    """Its scheme (of the CEF's list, where EM is e-mail) and what it is."""
    if party.electronic_address:
        scheme, _, address = party.electronic_address.partition(":")
        return scheme, address
    return ("EM", plain(party.email)) if plain(party.email) else None


def _country(party: Party | None) -> str:
    return _country_in(party.address) if party else ""


def _country_in(address: Address | None) -> str:
    return plain(address.country).upper() if address else ""


def _party(role: str, party: Party) -> Iterator[str]:
    if not plain(party.name):
        yield f"the {role}'s name is missing"
    yield from _place(f"the {role}", party.address)


def _place(whose: str, address: Address | None) -> Iterator[str]:
    country = _country_in(address)
    if not country:
        yield f"{whose}'s country is missing"
    elif len(country) != 2 or country not in Locale("en").territories:
        yield f"{whose}'s country must be a code of two letters such as DE, and is {country[:20]!r}"


def _periods(snapshot: Snapshot) -> Iterator[str]:
    periods = [("the period", snapshot.period_start, snapshot.period_end)]
    periods += [(f"line {n}'s period", line.period_start, line.period_end) for n, line in _numbered(snapshot)]
    for what, start, end in periods:
        if start and end and end < start:
            yield f"{what} ends before it begins"
    if any(line.tax_category == "intra_community" for line in snapshot.lines) and not any(supplied(snapshot)):
        yield (
            "the date of supply is missing, which an intra-community supply needs: say period_start and period_end of"
            " the invoice or of each line"
        )


def _lines(snapshot: Snapshot) -> Iterator[str]:
    for number, line in _numbered(snapshot):
        if not plain(line.description):
            yield f"line {number}'s description is missing"
        if line.tax_category is None or (line.tax_percent is None and line.tax_category == "standard"):
            yield f"line {number}'s rate and category of tax are missing"


def _numbered(snapshot: Snapshot) -> Iterator[tuple[int, Line]]:
    return enumerate(snapshot.lines, 1)


def _too_fine(snapshot: Snapshot) -> list[str]:
    written = [snapshot.amount_remaining]
    for line in snapshot.lines:
        written += [line.charged, line.tax]
        if not snapshot.tax_inclusive:  # what a discount is without tax is rounded anyway
            written += [line.discount, line.allowance]
    finest = step(snapshot.currency)
    if any(amount % finest for amount in written):
        currency = snapshot.currency.upper()
        return [f"there are amounts of {currency} with more than {DECIMALS} decimals, and EN 16931 cannot write them"]
    return []


def _categories(snapshot: Snapshot) -> Iterator[str]:
    codes = {rate_of(line.tax_category, line.tax_percent).code for line in snapshot.lines if line.tax_category}
    if "O" in codes and len(codes) > 1:
        yield "lines outside the scope of VAT cannot stand beside lines within it: say what tax each line has"
    if "E" in codes and not any(tax.category == "exempt" and plain(tax.reason) for tax in snapshot.taxes):
        yield "the reason why lines are exempt is missing"


def _sums(snapshot: Snapshot, net: Amounts) -> Iterator[str]:
    for part in net.breakdowns:
        exact = abs(part.taxable) * part.rate.percent / 100
        off = Decimal(abs(abs(part.tax) - exact)).scaleb(-exponent(snapshot.currency))
        if off >= 1 or (part.tax and not part.rate.percent):
            tax, taxable = (decimal_text(amount, snapshot.currency) for amount in (part.tax, part.taxable))
            yield f"the tax of {tax} is not {part.rate.percent:f} % of {taxable}"
    if net.total != snapshot.total or net.tax != snapshot.tax:
        yield "the lines do not add up to the total"


def plain(text: str | None) -> str:
    """The text without the characters that XML cannot hold."""
    if not text:
        return ""
    return (text if text.isprintable() else _NOT_XML.sub("", text)).strip()
