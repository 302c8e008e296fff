"""An invoice or credit note as XML: UN/CEFACT Cross Industry Invoice, as far as EN 16931 uses it (Factur-X 1.0x).

The order of the elements is the schema's. It is written with the standard library, which loads in no time, and by the
prefixes everybody uses for its three namespaces; some readers look for those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from billhook.documents.bank_lines import account_in
from billhook.documents.einvoice.xml_text import xml_of
from billhook.documents.words import Words, words_for
from billhook.rules.book.customer import Address
from billhook.rules.days import day_of
from billhook.rules.document import Line, Profile, Snapshot
from billhook.rules.e_invoice import electronic_address, plain, supplied, within_germany
from billhook.rules.en16931 import Amounts, Breakdown, NetLine, Rate, decimal_text
from billhook.rules.money import parse_locale
from billhook.rules.tax_ids import other_id_of, vat_id_of
from billhook.rules.terms import Party, ShipTo

PROFILES: Final[Mapping[Profile, str]] = {
    "en16931": "urn:cen.eu:en16931:2017",
    "xrechnung": "urn:cen.eu:en16931:2017#compliant#urn:xeinkauf.de:kosit:xrechnung_3.0",
}
_PROCESS: Final = "urn:fdc:peppol.eu:2017:poacc:billing:01:1.0"
"""How the invoice is dealt with, which XRechnung wants said: as Peppol's billing, the common one."""

_NAMESPACES: Final = {
    "rsm": "urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100",
    "ram": "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100",
    "qdt": "urn:un:unece:uncefact:data:standard:QualifiedDataType:100",
    "udt": "urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100",
}
_DISCOUNT: Final = "95"
"""UNTDID 5189."""
_EXEMPTIONS: Final = {"AE": "VATEX-EU-AE", "K": "VATEX-EU-IC", "G": "VATEX-EU-G", "O": "VATEX-EU-O"}
"""Why no VAT is charged, of the CEF's list, where there is one reason only."""


def cii(snapshot: Snapshot, amounts: Amounts) -> bytes:
    """The XML of a snapshot of which nothing is `missing`."""
    root = Element("rsm:CrossIndustryInvoice", {f"xmlns:{prefix}": uri for prefix, uri in _NAMESPACES.items()})
    context = SubElement(root, "rsm:ExchangedDocumentContext")
    if snapshot.profile == "xrechnung":
        _text(SubElement(context, "ram:BusinessProcessSpecifiedDocumentContextParameter"), "ram:ID", _PROCESS)
    _text(SubElement(context, "ram:GuidelineSpecifiedDocumentContextParameter"), "ram:ID", PROFILES[snapshot.profile])
    _, words = words_for(parse_locale(snapshot.locale))
    writer = _Writer(snapshot, amounts, words)
    writer.document(SubElement(root, "rsm:ExchangedDocument"))
    writer.transaction(SubElement(root, "rsm:SupplyChainTradeTransaction"))
    return xml_of(root)


class _Writer:
    def __init__(self, snapshot: Snapshot, amounts: Amounts, words: Words) -> None:
        self.snapshot = snapshot
        self.amounts = amounts
        self.words = words
        self.credit = snapshot.kind == "credit_note"
        self.untaxed = any(part.rate.code == "O" for part in amounts.breakdowns)

    def document(self, into: Element) -> None:
        _text(into, "ram:ID", self.snapshot.number)
        _text(into, "ram:TypeCode", "381" if self.credit else "380")
        self.date(into, "ram:IssueDateTime", self.snapshot.issued_at)
        for note in dict.fromkeys(filter(None, map(plain, self.notes()))):
            _text(SubElement(into, "ram:IncludedNote"), "ram:Content", note)

    def notes(self) -> Iterator[str | None]:
        if any(part.rate.code == "AE" for part in self.amounts.breakdowns):
            yield self.words.reverse_charge_note
        yield self.snapshot.description
        yield self.snapshot.footer

    def transaction(self, into: Element) -> None:
        for place, (line, net) in enumerate(zip(self.snapshot.lines, self.amounts.lines, strict=True), 1):
            self.line(SubElement(into, "ram:IncludedSupplyChainTradeLineItem"), place, line, net)
        agreement = SubElement(into, "ram:ApplicableHeaderTradeAgreement")
        _text(agreement, "ram:BuyerReference", self.snapshot.buyer_reference)
        self.seller(SubElement(agreement, "ram:SellerTradeParty"))
        self.buyer(SubElement(agreement, "ram:BuyerTradeParty"))
        delivery = SubElement(into, "ram:ApplicableHeaderTradeDelivery")
        self.ship_to(delivery)
        start, end = supplied(self.snapshot)
        one_day = start and end and self.day(start) == self.day(end)
        if one_day:
            self.date(SubElement(delivery, "ram:ActualDeliverySupplyChainEvent"), "ram:OccurrenceDateTime", start)
        settlement = SubElement(into, "ram:ApplicableHeaderTradeSettlement")
        self.settlement(settlement, None if one_day else start, None if one_day else end)

    def line(self, into: Element, place: int, line: Line, net: NetLine) -> None:
        _text(SubElement(into, "ram:AssociatedDocumentLineDocument"), "ram:LineID", str(place))
        _text(SubElement(into, "ram:SpecifiedTradeProduct"), "ram:Name", line.description)
        agreement = SubElement(into, "ram:SpecifiedLineTradeAgreement")
        price = SubElement(agreement, "ram:NetPriceProductTradePrice")
        _text(price, "ram:ChargeAmount", _number(net.price))
        delivery = SubElement(into, "ram:SpecifiedLineTradeDelivery")
        _text(delivery, "ram:BilledQuantity", _number(net.quantity), unitCode=net.unit)
        settlement = SubElement(into, "ram:SpecifiedLineTradeSettlement")
        _rate(SubElement(settlement, "ram:ApplicableTradeTax"), net.rate)
        self.period(settlement, line.period_start, line.period_end)
        if net.discount:
            self.allowance(settlement, net.discount, self.words.discount)
        total = SubElement(settlement, "ram:SpecifiedTradeSettlementLineMonetarySummation")
        self.amount(total, "ram:LineTotalAmount", net.net)

    def seller(self, into: Element) -> None:
        seller = self.snapshot.seller
        vat, other = vat_id_of(seller), other_id_of(seller)
        if self.untaxed or vat is None:
            # A seller has to have some identifier (BR-CO-26), and must not have that of VAT where none is due (BR-O-2).
            _text(into, "ram:ID", other or vat)
        _text(into, "ram:Name", seller.name)
        _text(into, "ram:Description", seller.registration)
        if plain(seller.phone) or plain(seller.email):
            contact = SubElement(into, "ram:DefinedTradeContact")
            _text(contact, "ram:PersonName", seller.name)
            if plain(seller.phone):
                _text(SubElement(contact, "ram:TelephoneUniversalCommunication"), "ram:CompleteNumber", seller.phone)
            if plain(seller.email):
                _text(SubElement(contact, "ram:EmailURIUniversalCommunication"), "ram:URIID", seller.email)
        _whereabouts(into, seller)
        if vat and not self.untaxed:
            _text(SubElement(into, "ram:SpecifiedTaxRegistration"), "ram:ID", vat, schemeID="VA")
        if other:
            _text(SubElement(into, "ram:SpecifiedTaxRegistration"), "ram:ID", other, schemeID="FC")

    def buyer(self, into: Element) -> None:
        buyer = self.snapshot.buyer
        assert buyer is not None, "callers have made sure"
        _text(into, "ram:ID", other_id_of(buyer))
        _text(into, "ram:Name", buyer.name)
        _whereabouts(into, buyer)
        if (vat := vat_id_of(buyer)) and not self.untaxed:
            _text(SubElement(into, "ram:SpecifiedTaxRegistration"), "ram:ID", vat, schemeID="VA")

    def ship_to(self, delivery: Element) -> None:
        """BG-13. Where nothing is said it is the buyer's address: an intra-community supply has to say where to
        (BR-IC-12), and so has an invoice within Germany (BR-FX-EN-04)."""
        snapshot, buyer = self.snapshot, self.snapshot.buyer
        assert buyer is not None, "callers have made sure"
        wanted = within_germany(snapshot) or any(part.rate.code == "K" for part in self.amounts.breakdowns)
        if snapshot.ship_to or wanted:
            to = snapshot.ship_to or ShipTo(address=buyer.address or Address())
            into = SubElement(delivery, "ram:ShipToTradeParty")
            _text(into, "ram:Name", to.name or buyer.name)
            _address(into, to.address)

    def settlement(self, into: Element, start: datetime | None, end: datetime | None) -> None:
        snapshot = self.snapshot
        due = self.due()
        if due and not self.credit:
            _text(into, "ram:PaymentReference", snapshot.number)
        _text(into, "ram:InvoiceCurrencyCode", snapshot.currency.upper())
        self.payment_means(into, transfer=bool(due) and not self.credit)
        for part in self.amounts.breakdowns:
            self.breakdown(SubElement(into, "ram:ApplicableTradeTax"), part)
        self.period(into, start, end)
        labels = "; ".join(dict.fromkeys(one.label or self.words.discount for one in snapshot.allowances))
        for part in self.amounts.breakdowns:
            if part.allowance:
                self.allowance(into, part.allowance, labels or self.words.discount, part.rate)
        self.payment_terms(into, due)
        self.totals(SubElement(into, "ram:SpecifiedTradeSettlementHeaderMonetarySummation"), due)
        if self.credit:
            corrected = SubElement(into, "ram:InvoiceReferencedDocument")
            _text(corrected, "ram:IssuerAssignedID", snapshot.corrects)
            self.date(corrected, "ram:FormattedIssueDateTime", snapshot.corrects_issued_at, of="qdt")

    def due(self) -> int:
        """What is to be paid still; of a credit note, what is to be given back."""
        if self.credit:
            return 0 if self.snapshot.refund else self.amounts.total
        return self.snapshot.amount_remaining

    def payment_means(self, into: Element, *, transfer: bool) -> None:
        account = account_in(self.snapshot.seller.bank) if transfer else None
        if account is None:
            if self.snapshot.profile == "xrechnung":  # which wants one named (BR-DE-1): 1 is "not defined"
                _text(SubElement(into, "ram:SpecifiedTradeSettlementPaymentMeans"), "ram:TypeCode", "1")
            return
        means = SubElement(into, "ram:SpecifiedTradeSettlementPaymentMeans")
        # UNTDID 4461: a SEPA credit transfer is one in euro.
        _text(means, "ram:TypeCode", "58" if account.sepa and self.snapshot.currency == "eur" else "30")
        payee = SubElement(means, "ram:PayeePartyCreditorFinancialAccount")
        _text(payee, "ram:IBANID", account.iban)
        _text(payee, "ram:AccountName", self.snapshot.seller.name)
        if account.bic:
            bank = SubElement(means, "ram:PayeeSpecifiedCreditorFinancialInstitution")
            _text(bank, "ram:BICID", account.bic)

    def breakdown(self, into: Element, part: Breakdown) -> None:
        default = {
            "AE": self.words.reverse_charge,
            "K": self.words.intra_community_note,
            "G": self.words.export_note,
            "O": self.words.outside_scope,
        }.get(part.rate.code)
        reason = (part.reason or default) if part.rate.code not in ("S", "Z") else None  # BR-S-10, BR-Z-10
        self.amount(into, "ram:CalculatedAmount", part.tax)
        _text(into, "ram:TypeCode", "VAT")
        _text(into, "ram:ExemptionReason", reason)
        self.amount(into, "ram:BasisAmount", part.taxable)
        _text(into, "ram:CategoryCode", part.rate.code)
        _text(into, "ram:ExemptionReasonCode", _EXEMPTIONS.get(part.rate.code))
        _percent(into, part.rate)

    def allowance(self, into: Element, amount: int, reason: str, rate: Rate | None = None) -> None:
        """Off a rate that comes to less than nothing, a discount is a charge."""
        allowance = SubElement(into, "ram:SpecifiedTradeAllowanceCharge")
        _text(SubElement(allowance, "ram:ChargeIndicator"), "udt:Indicator", "true" if amount < 0 else "false")
        self.amount(allowance, "ram:ActualAmount", abs(amount))
        _text(allowance, "ram:ReasonCode", _DISCOUNT if amount > 0 else None)
        _text(allowance, "ram:Reason", reason)
        if rate:
            _rate(SubElement(allowance, "ram:CategoryTradeTax"), rate)

    def payment_terms(self, into: Element, due: int) -> None:
        if not self.credit and self.snapshot.due_at:
            self.date(SubElement(into, "ram:SpecifiedTradePaymentTerms"), "ram:DueDateDateTime", self.snapshot.due_at)
        elif self.credit and due:
            # BR-CO-25: where anything is to be paid, say by when or under which terms.
            terms = SubElement(into, "ram:SpecifiedTradePaymentTerms")
            _text(terms, "ram:Description", f"{self.words.corrects} {self.snapshot.corrects}")

    def totals(self, into: Element, due: int) -> None:
        amounts = self.amounts
        self.amount(into, "ram:LineTotalAmount", amounts.net)
        charged = sum(-part.allowance for part in amounts.breakdowns if part.allowance < 0)
        if charged:
            self.amount(into, "ram:ChargeTotalAmount", charged)
        if any(part.allowance > 0 for part in amounts.breakdowns):
            self.amount(into, "ram:AllowanceTotalAmount", amounts.allowance + charged)
        self.amount(into, "ram:TaxBasisTotalAmount", amounts.taxable)
        self.amount(into, "ram:TaxTotalAmount", amounts.tax, currencyID=self.snapshot.currency.upper())
        self.amount(into, "ram:GrandTotalAmount", amounts.total)
        if amounts.total != due:
            self.amount(into, "ram:TotalPrepaidAmount", amounts.total - due)
        self.amount(into, "ram:DuePayableAmount", due)

    def amount(self, into: Element, tag: str, minor: int, **attributes: str) -> None:
        _text(into, tag, decimal_text(minor, self.snapshot.currency), **attributes)

    def period(self, into: Element, start: datetime | None, end: datetime | None) -> None:
        if start or end:
            period = SubElement(into, "ram:BillingSpecifiedPeriod")
            self.date(period, "ram:StartDateTime", start)
            self.date(period, "ram:EndDateTime", end)

    def date(self, into: Element, tag: str, at: datetime | None, of: str = "udt") -> None:
        if at:
            _text(SubElement(into, tag), f"{of}:DateTimeString", self.day(at), format="102")

    def day(self, at: datetime) -> str:
        """The day that the document for people shows."""
        return day_of(at, self.snapshot.zone).strftime("%Y%m%d")


def _whereabouts(into: Element, party: Party) -> None:
    _address(into, party.address)
    if found := electronic_address(party):  # BT-34 and BT-49
        _text(SubElement(into, "ram:URIUniversalCommunication"), "ram:URIID", found[1], schemeID=found[0])


def _address(into: Element, address: Address | None) -> None:
    if address:
        at = SubElement(into, "ram:PostalTradeAddress")
        _text(at, "ram:PostcodeCode", address.postal_code)
        _text(at, "ram:LineOne", address.line1)
        _text(at, "ram:LineTwo", address.line2)
        _text(at, "ram:CityName", address.city)
        _text(at, "ram:CountryID", (address.country or "").upper())
        _text(at, "ram:CountrySubDivisionName", address.state)


def _rate(into: Element, rate: Rate) -> None:
    _text(into, "ram:TypeCode", "VAT")
    _text(into, "ram:CategoryCode", rate.code)
    _percent(into, rate)


def _percent(into: Element, rate: Rate) -> None:
    if rate.code != "O":  # BR-O-5
        _text(into, "ram:RateApplicablePercent", f"{rate.percent:f}")


def _number(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(into: Element, tag: str, text: str | None, **attributes: str) -> None:
    if text := plain(text):
        SubElement(into, tag, attributes).text = text
