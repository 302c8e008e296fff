"""Documents for validators: e-invoices of every category of tax and both profiles, and what is drawn without data."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from billhook.rules.book.customer import Address
from billhook.rules.document import Snapshot
from billhook.rules.terms import Discount, LineTerms, Party, ShipTo, TaxCategory, TaxRate, Terms
from billhook_testing import samples

LEITWEG_ID = "04011000-12345-34"
ABROAD = Party(
    name="Kaffeehaus GmbH",
    email="post@kaffee.example",
    address=Address(line1="Ring 2", city="Wien", postal_code="1010", country="AT"),
    tax_ids=("ATU12345678",),
)
OVERSEAS = Party(
    name="Bergbahn AG",
    email="post@bergbahn.example",
    address=Address(line1="Gasse 3", city="Zürich", postal_code="8001", country="CH"),
)
ARCHIVE_ONLY = "archive-only"
"""In the names of files that are PDF/A and no PDF/UA, as `Validate.java` knows them."""
MARKED = "\u0634\u0631\u0643\u0629\ufeff\u0634\u0631\u0643\u0629"
"""With a byte order mark in a word, which no screen reader may be given."""
UNTAXED: dict[TaxCategory, Party] = {
    "reverse_charge": ABROAD,
    "intra_community": ABROAD,
    "exempt": ABROAD,
    "zero": ABROAD,
    "export": OVERSEAS,
    "outside_scope": OVERSEAS,
}


def e_invoices() -> Iterator[tuple[str, Snapshot]]:
    german = samples.terms(8, "de")
    named = dict(samples.samples())
    yield "german", _supplied(samples.invoice(german))
    yield "german-200", _supplied(samples.invoice(samples.terms(200, "de")))
    yield "german-inclusive", _supplied(samples.invoice(msgspec.structs.replace(german, tax_inclusive=True)))
    yield "german-several-rates", _supplied(named["several-rates"])
    yield "german-given-back", _supplied(samples.invoice(_giving_back(german)))
    yield "german-paid", _supplied(samples.invoice(german, status="paid", amount_remaining=0, pay_url=None))
    yield "german-credit", _supplied(samples.credit_note(german))
    yield "german-refunded", _supplied(samples.credit_note(german, refund="re_3PqrStUvWxYz"))
    yield "british", samples.invoice(samples.terms(3))
    yield f"german-{ARCHIVE_ONLY}", _supplied(samples.invoice(german, description=MARKED))
    for category, buyer in UNTAXED.items():
        reason = "Exempt under section 4 no. 21 of the VAT act" if category == "exempt" else None
        made = _taxed(german, TaxRate(category=category, reason=reason))
        made = msgspec.structs.replace(made, buyer=buyer)
        yield category, _supplied(samples.invoice(made))
        yield f"{category}-credit", _supplied(samples.credit_note(made))
    public = {"profile": "xrechnung", "buyer_reference": LEITWEG_ID}
    yield "xrechnung", _supplied(samples.invoice(german, **public))
    yield "xrechnung-paid", _supplied(samples.invoice(german, status="paid", amount_remaining=0, **public))
    yield "xrechnung-credit", _supplied(samples.credit_note(german, **public))
    depot = ShipTo(
        name="Lager Süd",
        address=Address(line1="Kai 3", city="Graz", postal_code="8010", state="Steiermark", country="AT"),
    )
    yield "xrechnung-shipped", _supplied(samples.invoice(german, ship_to=depot, **public))
    addressed = msgspec.structs.replace(german.buyer, electronic_address=f"0204:{LEITWEG_ID}")
    yield "xrechnung-addressed", _supplied(samples.invoice(msgspec.structs.replace(german, buyer=addressed), **public))


def others() -> Iterator[tuple[str, Snapshot]]:
    """Without data. The wide scripts are drawn with what fonts there are."""
    for name, snapshot in samples.samples():
        if name.endswith("-eur") or not name.startswith("invoice-"):
            yield name, snapshot
    yield "letters-without-a-font", samples.invoice(samples.terms(3), description="Thanks \U00050001\u200d\U0001f33e!")
    yield ARCHIVE_ONLY, samples.invoice(samples.terms(3), description=MARKED)


def _supplied(snapshot: Snapshot) -> Snapshot:
    """On one day. A line's period has to lie within that of the whole, and the samples' do not."""
    lines = tuple(msgspec.structs.replace(line, period_start=None, period_end=None) for line in snapshot.lines)
    return msgspec.structs.replace(snapshot, period_start=samples.ISSUED, period_end=samples.ISSUED, lines=lines)


def _giving_back(made: Terms) -> Terms:
    """A rate at which more is given back than charged: a discount on the whole is a charge there."""
    back = LineTerms(description="Rückgabe", unit_amount="-2500", tax=TaxRate(percent="7"))
    return msgspec.structs.replace(made, lines=(*made.lines, back), discounts=(Discount(percent="10"),))


def _taxed(made: Terms, tax: TaxRate) -> Terms:
    return msgspec.structs.replace(made, lines=tuple(msgspec.structs.replace(line, tax=tax) for line in made.lines))
