"""E-invoices: what EN 16931 wants said is said, it adds up, and the PDF around it stays one for archives."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import facturx
import msgspec
import pytest
import typst
from documents.schematron import broken_rules, number_of_rules
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lxml import etree
from pypdf import PdfReader

from billhook.documents.einvoice.facturx import embed, facturx_xml
from billhook.documents.wkhtmltopdf import is_whole
from billhook.rules.book.customer import Address
from billhook.rules.credit import credit
from billhook.rules.document import Profile, Seller, Snapshot
from billhook.rules.e_invoice import asked_before_number, missing
from billhook.rules.terms import CreditLine, CreditTerms, Discount, LineTerms, Party, ShipTo, TaxRate, Terms
from billhook.rules.totals import totals
from tests.validators.e_samples import e_invoices

RAM = "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100"
ISSUED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
DUE = datetime(2026, 3, 15, tzinfo=UTC)

SELLER = Seller(
    name="Hook & Söhne GmbH",
    email="billing@hook.example",
    phone="+49 30 1234",
    address=Address(line1="Hafen 1", city="Hamburg", postal_code="20457", country="DE"),
    tax_ids=("DE 123 456 788", "22/815/08154"),
    registration="HRB 12345, Amtsgericht Hamburg",
    bank=("IBAN DE89 3704 0044 0532 0130 00", "BIC: COBADEFFXXX"),
)
BUYER = Party(
    name="Käufer <AG>",
    email="post@kaeufer.example",
    address=Address(line1="Ring 2", line2="Stiege 4", city="Wien", postal_code="1010", country="at"),
    tax_ids=("ATU12345678",),
)
FULL = TaxRate(percent="19")
REDUCED = TaxRate(percent="7.00")
EXEMPT = TaxRate(category="exempt", reason="Education, §4 Nr. 21 UStG")
REVERSE = TaxRate(category="reverse_charge")
INTRA_COMMUNITY = TaxRate(category="intra_community")
EXPORT = TaxRate(category="export")


def invoice(terms: Terms, **changes: Any) -> Snapshot:
    sums = totals(terms)
    snapshot = Snapshot(
        kind="invoice",
        currency=terms.currency,
        locale="de-DE",
        number="INV-0042",
        seller=SELLER,
        buyer=terms.buyer,
        issued_at=ISSUED,
        due_at=DUE,
        lines=sums.lines,
        period_start=terms.period_start,
        period_end=terms.period_end,
        buyer_reference=terms.buyer_reference,
        tax_inclusive=terms.tax_inclusive,
        allowances=sums.allowances,
        taxes=sums.taxes,
        subtotal=sums.subtotal,
        discount=sums.discount,
        tax=sums.tax,
        total=sums.total,
        amount_due=sums.total,
        amount_remaining=sums.total,
    )
    return msgspec.structs.replace(snapshot, **changes)


def credit_note(of: Snapshot, terms: CreditTerms, **changes: Any) -> Snapshot:
    taken = credit(of, terms, (), of.total)
    note = msgspec.structs.replace(
        of,
        kind="credit_note",
        number="CN-0007",
        corrects=of.number,
        corrects_issued_at=of.issued_at,
        lines=taken.lines,
        allowances=(),
        discount=0,
        taxes=taken.taxes,
        subtotal=taken.subtotal,
        tax=taken.tax,
        total=taken.total,
        amount_due=0,
        amount_remaining=0,
        due_at=None,
    )
    return msgspec.structs.replace(note, **changes)


def terms(*lines: LineTerms, **more: Any) -> Terms:
    return Terms(**({"currency": "eur", "buyer": BUYER, "lines": lines} | more))


def line(unit_amount: str = "1000", quantity: str = "1", tax: TaxRate | None = FULL, **more: Any) -> LineTerms:
    return LineTerms(description="Work", quantity=quantity, unit_amount=unit_amount, tax=tax, **more)


class Read:
    """An e-invoice, as the other side reads it."""

    def __init__(self, xml: bytes) -> None:
        self.root = etree.fromstring(xml)

    def all(self, path: str) -> list[Any]:
        return self.root.findall(
            "/".join(f".//{{*}}{step}" if not n else f"{{*}}{step}" for n, step in enumerate(path.split("/")))
        )

    def text(self, path: str) -> str | None:
        found = self.all(path)
        return found[0].text if found else None

    def amount(self, path: str) -> Decimal:
        return Decimal(self.text(path) or 0)


def part(element: Any, path: str) -> Any:
    return element.find("/".join(f"{{*}}{step}" for step in path.split("/")))


def number(element: Any, path: str) -> Decimal:
    found = part(element, path)
    return Decimal(0) if found is None else Decimal(found.text)


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def check_sums(xml: bytes) -> None:
    """The rules of arithmetic, added up once more from what the file says."""
    read = Read(xml)
    assert all(
        len(one.text.partition(".")[2]) <= 2
        for one in read.all("*")
        if one.tag.endswith("Amount") and "Charge" not in one.tag
    )
    net: dict[tuple[str, Decimal], Decimal] = defaultdict(Decimal)
    for one in read.all("IncludedSupplyChainTradeLineItem"):
        settlement = part(one, "SpecifiedLineTradeSettlement")
        total = number(settlement, "SpecifiedTradeSettlementLineMonetarySummation/LineTotalAmount")
        net[_rate(part(settlement, "ApplicableTradeTax"))] += total
        price = number(one, "SpecifiedLineTradeAgreement/NetPriceProductTradePrice/ChargeAmount")
        with localcontext(prec=80):
            listed = cents(price * number(one, "SpecifiedLineTradeDelivery/BilledQuantity"))
        assert price >= 0, "BR-27"
        assert listed - number(settlement, "SpecifiedTradeAllowanceCharge/ActualAmount") == total

    allowances: dict[tuple[str, Decimal], Decimal] = defaultdict(Decimal)
    charges = allowed = Decimal()
    for one in read.all("ApplicableHeaderTradeSettlement/SpecifiedTradeAllowanceCharge"):
        amount = number(one, "ActualAmount")
        assert amount > 0
        is_charge = part(one, "ChargeIndicator/Indicator").text == "true"
        allowances[_rate(part(one, "CategoryTradeTax"))] += -amount if is_charge else amount
        charges, allowed = (charges + amount, allowed) if is_charge else (charges, allowed + amount)
    taxes = Decimal()
    seen = set()
    for one in read.all("ApplicableHeaderTradeSettlement/ApplicableTradeTax"):
        rate, tax, basis = _rate(one), number(one, "CalculatedAmount"), number(one, "BasisAmount")
        assert rate not in seen, "each rate is listed once"
        seen.add(rate)
        assert basis == net[rate] - allowances[rate], "BR-S-8, BR-AE-8, BR-E-8, BR-Z-8, BR-O-8"
        assert abs(abs(tax) - cents(abs(basis) * rate[1] / 100)) < 1, "BR-CO-17, BR-S-9"
        assert rate[0] == "S" or tax == 0, "BR-AE-9, BR-E-9, BR-Z-9, BR-O-9"
        taxes += tax
    assert seen == set(net), "BR-CO-18, BR-S-1, BR-AE-1…"

    sums = read.all("SpecifiedTradeSettlementHeaderMonetarySummation")[0]
    assert number(sums, "LineTotalAmount") == sum(net.values()), "BR-CO-10"
    assert number(sums, "AllowanceTotalAmount") == allowed, "BR-CO-11"
    assert number(sums, "ChargeTotalAmount") == charges, "BR-CO-12"
    basis = number(sums, "LineTotalAmount") - allowed + charges
    assert number(sums, "TaxBasisTotalAmount") == basis, "BR-CO-13"
    assert number(sums, "TaxTotalAmount") == taxes, "BR-CO-14"
    assert number(sums, "GrandTotalAmount") == basis + taxes, "BR-CO-15"
    due = number(sums, "GrandTotalAmount") - number(sums, "TotalPrepaidAmount")
    assert number(sums, "DuePayableAmount") == due, "BR-CO-16"


def _rate(tax: Any) -> tuple[str, Decimal]:
    return part(tax, "CategoryCode").text, number(tax, "RateApplicablePercent")


def check(snapshot: Snapshot) -> Read:
    xml = facturx_xml(snapshot)
    assert facturx.xml_check_xsd(xml, flavor="factur-x", level="en16931")
    other = "FX-SCH-A-000556"  # "this is no profile of Factur-X's own", which XRechnung's is not
    assert [rule for rule in broken_rules(xml) if snapshot.profile == "en16931" or other not in rule] == []
    check_sums(xml)
    read = Read(xml)
    major = Decimal(snapshot.total).scaleb({"jpy": 0, "kwd": -3}.get(snapshot.currency, -2))
    assert read.amount("GrandTotalAmount") == major
    return read


def test_the_rules_that_are_checked_are_hundreds() -> None:
    assert number_of_rules() > 500


@pytest.mark.parametrize(
    "right, wrong, rule",
    [
        (">AT<", ">XX<", "FX-SCH-A-000568"),
        ('unitCode="C62"', 'unitCode="QQQ"', "FX-SCH-A-000613"),
        (">10<", ">-10<", "BR-27"),
        (">1.90<", ">4.90<", "BR-S-09"),
        (">380<", ">389000<", "FX-SCH-A"),
        ("<ram:Name>Work</ram:Name>", "<ram:Name></ram:Name>", "BR-25"),
    ],
)
def test_the_rules_notice_what_is_wrong(right: str, wrong: str, rule: str) -> None:
    xml = facturx_xml(invoice(terms(line()))).decode()
    assert right in xml
    assert rule in " ".join(broken_rules(xml.replace(right, wrong).encode()))


def test_the_file_says_what_the_document_says() -> None:
    work = line(
        "7550.5",
        "12.25",
        unit="HUR",
        period_start=datetime(2026, 2, 1, tzinfo=UTC),
        period_end=datetime(2026, 2, 28, tzinfo=UTC),
    )
    read = check(
        invoice(
            terms(work, line("-500", tax=REDUCED), line("500", "3", REDUCED)),
            description="Thank you.",
            period_start=datetime(2026, 2, 1, tzinfo=UTC),
            period_end=datetime(2026, 2, 28, tzinfo=UTC),
        )
    )
    assert read.text("GuidelineSpecifiedDocumentContextParameter/ID") == "urn:cen.eu:en16931:2017"
    assert [one.text for one in read.all("ExchangedDocument/*")[:2]] == ["INV-0042", "380"]
    assert read.text("IssueDateTime/DateTimeString") == "20260301"
    assert read.text("DueDateDateTime/DateTimeString") == "20260315"
    assert read.text("ApplicableHeaderTradeSettlement/BillingSpecifiedPeriod/EndDateTime/DateTimeString") == "20260228"
    assert read.text("IncludedNote/Content") == "Thank you."

    assert read.text("SellerTradeParty/Name") == "Hook & Söhne GmbH"
    assert {one.get("schemeID"): one.text for one in read.all("SellerTradeParty/SpecifiedTaxRegistration/ID")} == {
        "VA": "DE123456788",
        "FC": "22/815/08154",
    }
    assert read.text("SellerTradeParty/Description") == "HRB 12345, Amtsgericht Hamburg"
    assert read.text("BuyerTradeParty/Name") == "Käufer <AG>"
    assert [one.text for one in read.all("BuyerTradeParty/PostalTradeAddress/*")] == [
        "1010",
        "Ring 2",
        "Stiege 4",
        "Wien",
        "AT",
    ]
    assert read.text("BuyerTradeParty/URIUniversalCommunication/URIID") == "post@kaeufer.example"

    quantity = read.all("BilledQuantity")[0]
    assert (quantity.text, quantity.get("unitCode")) == ("12.25", "HUR")
    assert read.text("NetPriceProductTradePrice/ChargeAmount") == "75.505"
    assert [one.text for one in read.all("BilledQuantity")[1:]] == ["-1", "3"]

    assert read.text("SpecifiedTradeSettlementPaymentMeans/TypeCode") == "58"
    assert read.text("PayeePartyCreditorFinancialAccount/IBANID") == "DE89370400440532013000"
    assert read.text("PayeeSpecifiedCreditorFinancialInstitution/BICID") == "COBADEFFXXX"
    assert read.text("PaymentReference") == "INV-0042"
    assert read.all("TaxTotalAmount")[0].get("currencyID") == "EUR"


def test_prices_that_include_the_tax_are_told_without_it() -> None:
    read = check(invoice(terms(line("11900"), line("10700", "3", REDUCED), tax_inclusive=True)))
    assert [one.text for one in read.all("NetPriceProductTradePrice/ChargeAmount")] == ["100", "100"]
    assert read.text("TaxBasisTotalAmount") == "400.00"
    assert read.text("TaxTotalAmount") == "40.00"


def test_a_discount_on_the_whole_is_told_once_for_each_rate() -> None:
    read = check(
        invoice(terms(line("10000"), line("5000", tax=REDUCED), discounts=(Discount(percent="10", label="Loyal"),)))
    )
    allowances = read.all("ApplicableHeaderTradeSettlement/SpecifiedTradeAllowanceCharge")
    told = [(part(one, "ActualAmount").text, *_rate(part(one, "CategoryTradeTax"))) for one in allowances]
    assert told == [("10.00", "S", 19), ("5.00", "S", 7)]
    assert [part(one, "Reason").text for one in allowances] == ["Loyal", "Loyal"]


@pytest.mark.parametrize("inclusive", [False, True])
def test_a_discount_on_a_rate_that_gives_back_is_a_charge(inclusive: bool) -> None:
    lines = (line("10000"), line("-5000", tax=REDUCED))
    read = check(invoice(terms(*lines, discounts=(Discount(percent="10", label="Loyal"),), tax_inclusive=inclusive)))
    told = read.all("ApplicableHeaderTradeSettlement/SpecifiedTradeAllowanceCharge")
    assert [(part(one, "ChargeIndicator/Indicator").text, *_rate(part(one, "CategoryTradeTax"))) for one in told] == [
        ("false", "S", 19),
        ("true", "S", 7),
    ]
    whole = terms(*lines, discounts=(Discount(percent="100"),), tax_inclusive=inclusive)
    assert check(invoice(whole)).amount("DuePayableAmount") == 0


def test_a_rate_of_two_names_is_one_rate() -> None:
    read = check(invoice(terms(line("10000"), line("5000", tax=TaxRate(name="USt", percent="19.0")))))
    assert [one.text for one in read.all("ApplicableHeaderTradeSettlement/ApplicableTradeTax/BasisAmount")] == [
        "150.00"
    ]


def test_a_reverse_charge_says_so_in_words_and_as_a_code() -> None:
    read = check(invoice(terms(line(tax=REVERSE))))
    assert read.text("ApplicableHeaderTradeSettlement/ApplicableTradeTax/CategoryCode") == "AE"
    assert read.text("ExemptionReasonCode") == "VATEX-EU-AE"
    assert read.text("ExemptionReason") == "Reverse charge"
    assert read.text("IncludedNote/Content") == "Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge)."


def test_a_supply_to_another_member_state_says_what_it_is_where_to_and_when() -> None:
    supply = terms(line(tax=INTRA_COMMUNITY), discounts=(Discount(percent="10"),))
    read = check(invoice(supply, period_start=ISSUED, period_end=DUE))
    assert read.text("ApplicableHeaderTradeSettlement/ApplicableTradeTax/CategoryCode") == "K"
    assert read.text("ExemptionReasonCode") == "VATEX-EU-IC"
    assert read.text("ExemptionReason") == "Steuerfreie innergemeinschaftliche Lieferung."
    assert read.text("ShipToTradeParty/PostalTradeAddress/CountryID") == "AT"
    check(credit_note(invoice(supply, period_start=ISSUED, period_end=DUE), CreditTerms()))


def test_where_it_is_delivered_to_is_told() -> None:
    to = ShipTo(name="Lager Süd", address=Address(line1="Kai 3", city="Graz", postal_code="8010", country="at"))
    for tax in (FULL, INTRA_COMMUNITY):
        read = check(invoice(terms(line(tax=tax)), ship_to=to, period_start=ISSUED, period_end=DUE))
        assert (read.text("ShipToTradeParty/Name"), read.text("ShipToTradeParty/PostalTradeAddress/CityName")) == (
            *("Lager Süd", "Graz"),
        )
    unnamed = invoice(terms(line()), ship_to=ShipTo(address=to.address))
    assert check(unnamed).text("ShipToTradeParty/Name") == BUYER.name
    assert check(invoice(terms(line()))).all("ShipToTradeParty") == []
    somewhere = invoice(terms(line()), ship_to=ShipTo(address=Address(line1="Kai 3")), profile="xrechnung")
    assert [sentence for sentence in missing(somewhere) if sentence.startswith("ship_to")] == [
        "ship_to's country is missing",
        "ship_to's city is missing, which XRechnung needs",
        "ship_to's postal code is missing, which XRechnung needs",
    ]


def test_an_export_says_what_it_is() -> None:
    read = check(invoice(terms(line(tax=EXPORT))))
    assert read.text("ApplicableHeaderTradeSettlement/ApplicableTradeTax/CategoryCode") == "G"
    assert (read.text("ExemptionReasonCode"), read.text("ExemptionReason")) == (
        "VATEX-EU-G",
        "Steuerfreie Ausfuhrlieferung.",
    )


def test_supplies_and_exports_without_tax_need_vat_numbers_and_a_supply_its_date() -> None:
    seller = msgspec.structs.replace(SELLER, tax_ids=("22/815/08154",))
    buyer = msgspec.structs.replace(BUYER, tax_ids=("12345",))
    assert missing(invoice(terms(line(tax=EXPORT), buyer=buyer), seller=seller)) == [
        "the seller's VAT number is missing, which an export needs"
    ]
    assert missing(invoice(terms(line(tax=INTRA_COMMUNITY), buyer=buyer), seller=seller)) == [
        "the buyer's VAT number is missing, which an intra-community supply needs",
        "the seller's VAT number is missing, which an intra-community supply needs",
        "the date of supply is missing, which an intra-community supply needs: say period_start and period_end of the"
        " invoice or of each line",
    ]


def test_within_germany_the_date_of_supply_is_asked_for_and_the_delivery_party_told() -> None:
    berlin = Address(line1="Torstr. 1", city="Berlin", postal_code="10119", country="de")
    german = terms(line(), line(), buyer=msgspec.structs.replace(BUYER, address=berlin))
    undated = invoice(german)
    [lacking] = asked_before_number(undated)
    assert "the date of supply is missing" in lacking
    check(undated)  # one that has its number already is drawn
    dated = [
        invoice(german, period_start=ISSUED, period_end=DUE),
        invoice(msgspec.structs.replace(german, lines=(line(period_start=ISSUED, period_end=DUE),) * 2)),
    ]
    for made in dated:
        assert asked_before_number(made) == []
        read = check(made)
        place = "ShipToTradeParty/PostalTradeAddress"
        assert [
            read.text("ShipToTradeParty/Name"),
            *map(read.text, (f"{place}/CityName", f"{place}/PostcodeCode")),
        ] == [
            "Käufer <AG>",
            "Berlin",
            "10119",
        ]
        period = "ApplicableHeaderTradeSettlement/BillingSpecifiedPeriod"
        assert read.text(f"{period}/StartDateTime/DateTimeString") == "20260301"
    assert asked_before_number(invoice(terms(line()))) == []


def test_xrechnung_asks_for_its_fields_and_tells_them() -> None:
    buyer = Party(name="Bundesamt", address=Address(country="DE"))
    lacking = missing(
        invoice(terms(line(), buyer=buyer), profile="xrechnung", seller=msgspec.structs.replace(SELLER, phone=None))
    )
    assert [sentence.partition(" is missing, which XRechnung needs")[0] for sentence in lacking] == [
        "the buyer's reference",
        "the seller's phone",
        "the buyer's city",
        "the buyer's postal code",
        "the buyer's electronic address",
    ]
    body = Party(
        name="Bundesamt",
        address=Address(city="Berlin", postal_code="10117", country="DE"),
        electronic_address="0204:04011000-12345-34",
    )
    asked = terms(line(), buyer=body, buyer_reference="04011000-12345-34", period_start=ISSUED, period_end=ISSUED)
    read = check(invoice(asked, profile="xrechnung"))
    assert read.text("GuidelineSpecifiedDocumentContextParameter/ID") == (
        "urn:cen.eu:en16931:2017#compliant#urn:xeinkauf.de:kosit:xrechnung_3.0"
    )
    assert read.text("BuyerReference") == "04011000-12345-34"
    addresses = [(one.get("schemeID"), one.text) for one in read.all("URIUniversalCommunication/URIID")]
    assert ("0204", "04011000-12345-34") in addresses
    assert ("EM", "billing@hook.example") in addresses
    assert read.text("SpecifiedTradeSettlementPaymentMeans/TypeCode") == "58"
    paid = check(invoice(asked, profile="xrechnung", amount_remaining=0, status="paid"))
    assert paid.text("SpecifiedTradeSettlementPaymentMeans/TypeCode") == "1"


def test_an_exemption_gives_its_reason_and_zero_rates_give_none() -> None:
    read = check(invoice(terms(line(tax=EXEMPT), line(tax=TaxRate(category="zero")), line())))
    assert [one.text for one in read.all("ExemptionReason")] == ["Education, §4 Nr. 21 UStG"]


def test_what_is_outside_the_scope_of_vat_names_no_vat_number() -> None:
    read = check(invoice(terms(line(tax=None), line(tax=TaxRate(category="outside_scope")))))
    assert not [one for one in read.all("SpecifiedTaxRegistration/ID") if one.get("schemeID") == "VA"]
    assert read.text("SellerTradeParty/ID") == "22/815/08154"


def test_a_small_business_without_a_vat_number_has_its_tax_number() -> None:
    seller = msgspec.structs.replace(SELLER, tax_ids=("22/815/08154",))
    check(invoice(terms(line(tax=TaxRate(category="exempt", reason="§ 19 UStG"))), seller=seller))


@pytest.mark.parametrize("inclusive", [False, True])
def test_a_credit_note_names_its_invoice_and_counts_forward(inclusive: bool) -> None:
    billed = invoice(
        terms(
            line("11900", "3", discounts=(Discount(percent="5"),)),
            line("10701", tax=REDUCED),
            discounts=(Discount(amount=777),),
            tax_inclusive=inclusive,
        )
    )
    note = credit_note(billed, CreditTerms(lines=(CreditLine(line=0, amount=5001), CreditLine(line=1))))
    read = check(note)
    assert read.text("ExchangedDocument/TypeCode") == "381"
    assert read.text("InvoiceReferencedDocument/IssuerAssignedID") == "INV-0042"
    assert read.text("InvoiceReferencedDocument/FormattedIssueDateTime/DateTimeString") == "20260301"
    assert read.amount("DuePayableAmount") > 0
    assert not read.all("SpecifiedTradeSettlementPaymentMeans")
    assert check(msgspec.structs.replace(note, refund="re_1")).amount("DuePayableAmount") == 0


def test_what_is_paid_already_is_told() -> None:
    billed = invoice(terms(line("10000")))
    read = check(
        msgspec.structs.replace(billed, status="paid", amount_paid=billed.total, amount_remaining=0, due_at=None)
    )
    assert (read.text("TotalPrepaidAmount"), read.text("DuePayableAmount")) == ("119.00", "0.00")


def test_a_transfer_that_is_not_sepa_is_an_ordinary_one() -> None:
    read = check(invoice(terms(line(), currency="usd")))
    assert read.text("SpecifiedTradeSettlementPaymentMeans/TypeCode") == "30"


@pytest.mark.parametrize(
    "bank", [(), ("Pay us in gold",), ("DE89 3704 0044 0532 0130 01",), ("DEUTSCHE BANK", "Account 12345678")]
)
def test_lines_without_a_valid_iban_are_left_to_people(bank: tuple[str, ...]) -> None:
    assert not check(invoice(terms(line()), seller=msgspec.structs.replace(SELLER, bank=bank))).all("IBANID")


def test_yen_have_no_decimals_and_dinars_at_most_two() -> None:
    read = check(invoice(terms(line("33", "3"), currency="jpy", tax_inclusive=True)))
    assert read.text("GrandTotalAmount") == "99"
    assert check(invoice(terms(line("1230", tax=REVERSE), currency="kwd"))).text("GrandTotalAmount") == "1.23"
    with pytest.raises(ValueError, match="amounts of KWD with more than 2 decimals"):
        facturx_xml(invoice(terms(line("1234", tax=REVERSE), currency="kwd")))


def test_what_xml_cannot_hold_is_left_out() -> None:
    buyer = msgspec.structs.replace(BUYER, name="Nul\x00 Bell\x07 \ufffe<&>\"'")
    assert check(invoice(terms(line(), buyer=buyer))).text("BuyerTradeParty/Name") == "Nul Bell <&>\"'"


def test_everything_that_is_missing_is_said_at_once() -> None:
    bare = invoice(terms(line()), number=None, issued_at=None, due_at=None, seller=Seller(name="Hook"), buyer=None)
    assert missing(bare) == [
        "the number is missing",
        "the date of issue is missing",
        "the due date is missing",
        "the seller's country is missing",
        "the seller's tax id is missing",
        "the buyer is missing",
    ]
    with pytest.raises(
        ValueError, match="no e-invoice can be made of this invoice: the number is missing; the date of"
    ):
        facturx_xml(bare)


def test_lines_that_say_too_little_do_not_hide_what_else_is_missing() -> None:
    billed = invoice(terms(line(), line(tax=EXEMPT), line("1234567", tax=REVERSE), currency="kwd"))
    vague = msgspec.structs.replace(billed.lines[0], tax_percent=None)
    bare = msgspec.structs.replace(billed, lines=(vague, *billed.lines[1:]), taxes=(), due_at=None)
    assert missing(bare) == [
        "the due date is missing",
        "the reason why lines are exempt is missing",
        "line 1's rate and category of tax are missing",
        "there are amounts of KWD with more than 2 decimals, and EN 16931 cannot write them",
    ]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"kind": "receipt"}, "only invoices and credit notes are e-invoices, and this is a document of kind receipt"),
        ({"kind": "credit_note"}, "the number of the corrected invoice is missing"),
        ({"lines_complete": False}, "some of the lines are missing"),
        ({"total": 1}, "the lines do not add up to the total"),
        ({"period_start": DUE, "period_end": ISSUED}, "the period ends before it begins"),
        (
            {"buyer": Party(name="B", address=Address(country="Austria"))},
            "the buyer's country must be a code of two letters such as DE, and is 'AUSTRIA'",
        ),
        ({"buyer": Party(name=" \x00 ", address=Address(country="AT"))}, "the buyer's name is missing"),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert missing(invoice(terms(line()), **changes)) == [sentence]


def test_a_reverse_charge_needs_the_buyers_vat_number() -> None:
    buyer = msgspec.structs.replace(BUYER, tax_ids=("12345",))
    assert missing(invoice(terms(line(tax=REVERSE), buyer=buyer))) == [
        "the buyer's VAT number is missing, which a reverse charge needs"
    ]


def test_what_is_taxed_and_what_is_outside_the_scope_do_not_mix() -> None:
    assert missing(invoice(terms(line(), line(tax=None)))) == [
        "lines outside the scope of VAT cannot stand beside lines within it: say what tax each line has"
    ]


def test_a_mirrored_invoice_says_too_little_of_its_taxes() -> None:
    billed = invoice(terms(*[line()] * 12))
    vague = [msgspec.structs.replace(one, tax_percent=None, tax_category=None) for one in billed.lines]
    found = missing(msgspec.structs.replace(billed, lines=tuple(vague)))
    assert found[0] == "line 1's rate and category of tax are missing"
    assert found[-1] == "and 2 more of the lines"


RATES = st.sampled_from(
    [
        *(FULL, TaxRate(name="USt", percent="19"), REDUCED, TaxRate(percent="7")),
        *(TaxRate(percent="8.1"), TaxRate(percent="25.5"), TaxRate(category="zero")),
        *(EXEMPT, TaxRate(category="exempt", reason="Bank"), REVERSE, EXPORT, INTRA_COMMUNITY),
    ]
)
DISCOUNTS = st.lists(
    st.one_of(
        st.builds(Discount, percent=st.sampled_from(["5", "33.33", "100"]), label=st.sampled_from([None, "Loyal"])),
        st.builds(Discount, amount=st.sampled_from([0, 100, 700])),
    ),
    max_size=2,
).map(tuple)
DECIMALS = st.decimals(0, 3000, places=3).map(lambda value: f"{value:f}")
CHARGES = st.builds(
    LineTerms,
    description=st.just("Work"),
    quantity=st.one_of(st.integers(0, 12).map(str), DECIMALS),
    unit_amount=DECIMALS,
    discounts=DISCOUNTS,
    tax=RATES,
)
CREDITS = st.builds(
    LineTerms, description=st.just("Unused"), unit_amount=DECIMALS.map(lambda text: f"-{text}"), tax=RATES
)
TERMS = st.builds(
    Terms,
    currency=st.sampled_from(["eur", "usd", "jpy", "isk"]),
    buyer=st.just(BUYER),
    lines=st.lists(st.one_of(CHARGES, CHARGES, CREDITS), min_size=1, max_size=6).map(tuple),
    discounts=DISCOUNTS,
    tax_inclusive=st.booleans(),
    period_start=st.just(ISSUED),
    period_end=st.just(ISSUED),
    buyer_reference=st.just("04011000-12345-34"),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(asked=TERMS, profile=st.sampled_from(["en16931", "xrechnung"]), data=st.data())
def test_whatever_is_charged_and_credited_makes_a_valid_e_invoice(
    asked: Terms, profile: Profile, data: st.DataObject
) -> None:
    try:
        billed = invoice(asked, profile=profile)
    except ValueError:
        assume(False)
    check_unless_refused(billed)

    lines = data.draw(st.sets(st.integers(0, len(billed.lines) - 1), max_size=2))
    try:
        note = credit_note(billed, CreditTerms(lines=tuple(CreditLine(line=place) for place in sorted(lines))))
    except ValueError:
        return
    check_unless_refused(note)


def check_unless_refused(snapshot: Snapshot) -> None:
    """The standard lets a tax be off by less than 1. Where the smallest coin is 1, two roundings can be more."""
    if lacking := missing(snapshot):
        assert snapshot.currency in ("jpy", "isk")
        assert all("% of" in sentence for sentence in lacking)
    else:
        check(snapshot)


def archival(text: str = "Invoice INV-0042") -> bytes:
    page = f'#set document(title: "Invoice", date: datetime(year: 2026, month: 3, day: 1))\n= {text}\n'
    return typst.compile(page.encode(), format="pdf", pdf_standards="a-3b", ignore_system_fonts=True)


@pytest.fixture(scope="module")
def plain_pdf() -> bytes:
    return archival()


def test_the_pdf_carries_the_invoice_and_readers_find_it(plain_pdf: bytes) -> None:
    snapshot = invoice(terms(line()))
    xml = facturx_xml(snapshot)
    pdf = embed(plain_pdf, xml, snapshot)
    assert facturx.get_xml_from_pdf(pdf, check_xsd=True) == ("factur-x.xml", xml)
    assert "INV-0042" in PdfReader(io.BytesIO(pdf)).pages[0].extract_text()


def test_the_attachment_is_an_associated_file_as_pdf_a_3_wants_it(plain_pdf: bytes) -> None:
    snapshot = invoice(terms(line()))
    root = PdfReader(io.BytesIO(embed(plain_pdf, facturx_xml(snapshot), snapshot))).root_object
    names = root["/Names"]["/EmbeddedFiles"]["/Names"]
    assert names[0] == "factur-x.xml"
    (associated,) = root["/AF"]
    assert associated.get_object() == names[1].get_object()
    specification = associated.get_object()
    assert specification["/AFRelationship"] == "/Alternative"
    assert specification["/F"] == specification["/UF"] == "factur-x.xml"
    file = specification["/EF"]["/F"]
    assert file["/Subtype"] == "/text/xml"
    assert file["/Params"]["/ModDate"].startswith("D:20260301093000")


def test_the_pdf_still_says_and_has_what_pdf_a_3_asks_for(plain_pdf: bytes) -> None:
    snapshot = invoice(terms(line()))
    pdf = embed(plain_pdf, facturx_xml(snapshot), snapshot)
    reader, before = PdfReader(io.BytesIO(pdf)), PdfReader(io.BytesIO(plain_pdf))
    assert pdf.startswith(b"%PDF-1.7\n%")
    assert min(pdf[10:14]) > 127, "the bytes after the header say that the file is binary"
    assert reader.metadata == before.metadata
    assert reader.trailer["/ID"]
    assert "/Encrypt" not in reader.trailer
    intent = reader.root_object["/OutputIntents"][0]
    assert intent["/S"] == "/GTS_PDFA1"
    assert intent["/DestOutputProfile"].get_data()
    assert reader.root_object["/MarkInfo"]["/Marked"]
    assert "/StructTreeRoot" in reader.root_object

    fonts = [font for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    descriptors = [font["/DescendantFonts"][0]["/FontDescriptor"] for font in fonts]
    assert descriptors
    assert all({"/FontFile", "/FontFile2", "/FontFile3"} & set(one) for one in descriptors)

    xmp = reader.root_object["/Metadata"]
    assert "/Filter" not in xmp
    told = etree.fromstring(xmp.get_data())
    texts = {etree.QName(one).localname: one.text for one in told.iter("*") if one.text}
    assert (texts["part"], texts["conformance"]) == ("3", "B")
    fx = {
        etree.QName(one).localname: one.text
        for one in told.iter("{urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#}*")
    }
    assert fx == {
        "DocumentType": "INVOICE",
        "DocumentFileName": "factur-x.xml",
        "Version": "1.0",
        "ConformanceLevel": "EN 16931",
    }
    assert len(told.findall(".//{http://www.aiim.org/pdfa/ns/extension/}schemas")) == 1
    described = {one.text for one in told.iter("{http://www.aiim.org/pdfa/ns/property#}name")}
    assert described >= set(fx)


def test_an_xrechnung_is_called_so_in_its_pdf(plain_pdf: bytes) -> None:
    asked = terms(line(), buyer_reference="04011000-12345-34", period_start=ISSUED, period_end=ISSUED)
    billed = invoice(asked, profile="xrechnung")
    pdf = embed(plain_pdf, facturx_xml(billed), billed)
    assert list(PdfReader(io.BytesIO(pdf)).attachments) == ["xrechnung.xml"]
    xmp = PdfReader(io.BytesIO(pdf)).root_object["/Metadata"].get_object().get_data()
    assert b">XRECHNUNG</fx:ConformanceLevel>" in xmp
    assert b">xrechnung.xml</fx:DocumentFileName>" in xmp


def test_equal_invoices_are_equal_bytes() -> None:
    snapshot = invoice(terms(line()))
    one, other = (embed(archival(), facturx_xml(snapshot), snapshot) for _ in range(2))
    assert one == other
    assert embed(archival("Another"), facturx_xml(snapshot), snapshot) != one


def test_what_validators_in_java_are_given_passes_what_can_be_checked_without() -> None:
    for _, snapshot in e_invoices():
        assert asked_before_number(snapshot) == []
        check(snapshot)


def test_a_pdf_that_is_not_for_archives_is_refused() -> None:
    ordinary = typst.compile(b"= Invoice", format="pdf", ignore_system_fonts=True)
    snapshot = invoice(terms(line()))
    with pytest.raises(ValueError, match="needs a PDF/A-3 to be in"):
        embed(ordinary, facturx_xml(snapshot), snapshot)


def test_what_was_drawn_stays_as_it_is_before_what_is_added(plain_pdf: bytes) -> None:
    snapshot = invoice(terms(line()))
    pdf = embed(plain_pdf, facturx_xml(snapshot), snapshot)
    assert pdf.startswith(plain_pdf)
    assert is_whole(pdf)
    with pytest.raises(ValueError, match="needs a PDF/A-3 to be in"):
        embed(pdf, facturx_xml(snapshot), snapshot)


@pytest.mark.parametrize("torn", [b"", b"%PDF-1.7\ntrailer\n<<>>\nstartxref\n9\n%%EOF", b"%PDF-1.7\n%%EOF"])
def test_a_pdf_that_cannot_be_read_is_refused(torn: bytes) -> None:
    snapshot = invoice(terms(line()))
    with pytest.raises(ValueError, match="needs a PDF/A-3 to be in"):
        embed(torn, facturx_xml(snapshot), snapshot)


def test_only_who_embeds_loads_the_libraries_for_it() -> None:
    heavy = {"lxml", "pypdf", "facturx", "stdnum"}
    asks = f"import sys, billhook.documents.einvoice.facturx; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout == "set()\n"
