"""What documents say, in words: every kind of them, in every language, in every currency."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from billhook.documents.colours import INK
from billhook.documents.view import Shown, shown
from billhook.documents.words import languages
from billhook.rules.book.customer import Address
from billhook.rules.document import Line, Seller, Snapshot, TaxTotal
from billhook.rules.money import format_money, parse_locale
from billhook.rules.terms import Discount, Party, TaxRate
from billhook_testing import samples

LANGUAGES = sorted(languages())


def facts(document: Shown) -> dict[str, str]:
    """Dates stand on one line, which is the test of pages."""
    return {fact.label: fact.value.replace("\N{NO-BREAK SPACE}", " ") for fact in document.facts}


def rows(document: Shown) -> dict[str, str]:
    return {row.label: row.amount for row in document.totals}


def test_an_open_invoice_says_what_is_due_when_and_how_to_pay_it() -> None:
    document = shown(samples.invoice(samples.terms(1)))
    assert document.name == "Invoice INV-2026-0042"
    assert document.headline == "€58.80 due March\xa015,\xa02026", "the day stays on one line"
    assert document.pay_url == samples.PAY_URL
    assert document.stamp is None
    assert facts(document) == {
        "Invoice number": "INV-2026-0042",
        "Date of issue": "March 1, 2026",
        "Date due": "March 15, 2026",
        "Currency": "EUR",
    }
    assert rows(document) == {
        "Subtotal": "€49.00",
        "VAT 20% on €49.00": "€9.80",
        "Total": "€58.80",
    }
    assert document.totals[-1].strength == "grand", "what is due is not said a second time"
    assert document.notes[0].splitlines()[0] == "Pay by bank transfer"
    assert document.notes[0].splitlines()[-1] == "Payment reference: INV-2026-0042"
    assert document.legal == ("Registered in England and Wales, company no. 01234567",)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_source_in_test_mode_told_is_called_a_test(language: str) -> None:
    made = samples.invoice(samples.terms(1), locale=language)
    live, test = shown(made), shown(msgspec.structs.replace(made, livemode=False))
    assert live.test is None
    assert test.test is not None
    assert test.name == f"{test.test.mark} {live.name}"
    assert len(test.test.note) > 2 * len(test.test.mark)


def test_a_receipt_says_what_was_paid_and_when_and_asks_for_nothing() -> None:
    document = shown(samples.receipt(samples.terms(1)))
    assert (document.title, document.stamp) == ("Receipt", "Paid")
    assert document.headline == "€58.80 paid on March\xa03,\xa02026"
    assert document.pay_url is None
    assert document.totals[-1].label == "Amount paid"
    assert document.notes == ()
    assert "due" not in msgspec.json.encode(document).decode().lower()


def test_a_receipt_for_a_part_is_not_stamped_as_paid_and_names_the_rest() -> None:
    document = shown(samples.receipt(samples.terms(1), amount_paid=5000, amount_remaining=880))
    assert document.stamp is None
    assert rows(document)["Still to be paid"] == "€8.80"


def test_a_void_invoice_keeps_its_number_and_says_so() -> None:
    document = shown(samples.void(samples.terms(1)))
    assert (document.name, document.stamp) == ("Invoice INV-2026-0042", "Void")
    assert document.headline == "This invoice is void. Nothing is to be paid."
    assert facts(document)["Voided on"] == "March 2, 2026"
    assert document.totals[-1].amount == "€0.00"
    assert (document.pay_url, document.notes) == (None, ())


def test_a_credit_note_says_what_it_corrects_why_and_where_the_money_went() -> None:
    document = shown(samples.credit_note(samples.terms(1), refund="re_123"))
    assert (document.title, document.stamp, document.headline) == ("Credit note", "Credit", "€58.80 refunded")
    told = facts(document)
    assert told["Corrects invoice"] == "INV-2026-0042 of February 9, 2026"
    assert (told["Reason"], told["Refund"]) == ("Change of the order", "re_123")
    assert (document.totals[-1].label, document.totals[-1].strength) == ("Amount refunded", "grand")
    assert shown(samples.credit_note(samples.terms(1))).headline == "€58.80 credited"


def test_lines_say_their_period_their_discount_and_their_unit() -> None:
    document = shown(samples.invoice(samples.terms(5)))
    period, discounted, metered, hourly, prorated = document.lines
    assert period.notes == ("Mar 1, 2026 – Apr 1, 2026",)
    assert discounted.notes == ("Discount −€60.44",)
    assert (metered.quantity, metered.unit_price, metered.amount) == ("123,456", "€0.0005", "€61.73")
    assert hourly.quantity == "2.5 hr"
    assert prorated.notes == ("Mar 1, 2026 – Apr 1, 2026 · Prorated",)
    assert document.taxed
    assert {line.tax for line in document.lines} == {"20%"}


def test_each_rate_is_summed_up_with_what_it_is_charged_on() -> None:
    named = dict(samples.samples())
    labels = list(rows(shown(named["several-rates"])))
    assert labels[:4] == [
        "Zwischensumme",
        "Rabatte auf Positionen",
        "Treuerabatt (12,5\N{NO-BREAK SPACE}%)",
        "Gutschein MÄRZ",
    ]
    assert [label.partition("\N{NO-BREAK SPACE}")[0] for label in labels[5:8]] == ["USt. 19", "USt. 7", "USt. 0"]
    assert labels[8:] == ["Gesamtbetrag"]


def test_tax_within_the_prices_stands_below_the_total_that_contains_it() -> None:
    made = msgspec.structs.replace(samples.terms(1), tax_inclusive=True)
    document = shown(samples.invoice(made))
    assert rows(document) == {
        "Subtotal": "€49.00",
        "Total": "€49.00",
        "Includes VAT 20% on €40.83": "€8.17",
    }


def test_what_the_provider_alone_knows_is_left_out_and_not_made_up() -> None:
    document = shown(samples.mirrored())
    assert not document.taxed
    assert document.lines[0].notes == ("Discount −$1.00", "Tax $3.61")
    assert rows(document)["Discount"] == "−$10.00"
    assert "Discounts on lines" not in rows(document)
    assert rows(document)["Balance applied"] == "−$26.10"
    assert document.notes[0].startswith("More lines belong to this invoice")
    assert document.buyer
    assert document.buyer.lines == ()  # the mail address is the name already


@pytest.mark.parametrize(
    "locale, note",
    [
        ("en", "Reverse charge: the recipient accounts for the tax."),
        ("de", "Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge)."),
        ("fr", "Autoliquidation : la taxe est due par le preneur."),
    ],
)
def test_reverse_charge_and_exemptions_are_explained_once(locale: str, note: str) -> None:
    taxes = (
        TaxTotal(name="VAT", percent="0", category="reverse_charge", taxable=100, tax=0, reason="Reverse charge"),
        TaxTotal(name="VAT", percent="0", category="exempt", taxable=50, tax=0, reason="Education"),
    )
    snapshot = Snapshot(
        kind="invoice", locale=locale, currency="eur", seller=Seller(name="A"), taxes=taxes, subtotal=150, total=150
    )
    assert shown(snapshot).notes == (note, "Education")


@pytest.mark.parametrize(
    ("locale", "tax", "due"),
    [
        ("en", "VAT 20%", "€24.00 due March\xa015,\xa02026"),
        ("de", "USt. 20\xa0%", "24,00\xa0€ zahlbar bis 15.\xa0März\xa02026"),
        ("fr", "TVA 20\xa0%", "24,00\xa0€ à payer au plus tard le 15\xa0mars\xa02026"),
        ("nl", "Btw 20%", "€\xa024,00 uiterlijk te betalen op 15\xa0maart\xa02026"),
    ],
)
def test_tax_and_due_date_are_in_the_words_of_an_accountant(locale: str, tax: str, due: str) -> None:
    rate = TaxTotal(name="VAT", percent="20", category="standard", taxable=2000, tax=400)
    snapshot = Snapshot(
        kind="invoice",
        locale=locale,
        currency="eur",
        seller=Seller(name="A"),
        due_at=datetime(2026, 3, 15, 11, 7, 3, tzinfo=UTC),
        taxes=(rate,),
        subtotal=2000,
        tax=400,
        total=2400,
        amount_remaining=2400,
    )
    document = shown(snapshot)
    assert any(row.label.startswith(tax) for row in document.totals), document.totals
    assert document.headline == due
    named = msgspec.structs.replace(snapshot, taxes=(msgspec.structs.replace(rate, name="Sales tax"),))
    assert any(row.label.startswith("Sales tax") for row in shown(named).totals)


def test_what_crosses_a_border_without_tax_says_so_in_the_documents_language() -> None:
    supply = TaxTotal(name="USt.", percent="0", category="intra_community", taxable=100, tax=0)
    away = TaxTotal(name="USt.", percent="0", category="export", taxable=50, tax=0, reason="§ 6 UStG")
    snapshot = Snapshot(
        kind="invoice",
        locale="de",
        currency="eur",
        seller=Seller(name="A"),
        taxes=(supply, away),
        subtotal=150,
        total=150,
    )
    assert shown(snapshot).notes == ("Steuerfreie innergemeinschaftliche Lieferung.", "§ 6 UStG")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("currency", ["eur", "jpy", "kwd"])
def test_every_language_says_everything(language: str, currency: str) -> None:
    snapshot = samples.invoice(samples.terms(30, "en", currency), locale=language)
    for kind, status in (("invoice", "open"), ("receipt", "paid"), ("void", "void"), ("credit_note", "open")):
        document = shown(msgspec.structs.replace(snapshot, kind=kind, status=status))
        assert document.language == language
        assert (
            document.direction
            == {"left-to-right": "ltr", "right-to-left": "rtl"}[parse_locale(language).character_order]
        )
        total = format_money(snapshot.total, currency, language)
        assert total in {row.amount for row in document.totals}
        texts = [document.headline, *(row.label for row in document.totals), *document.notes]
        assert not any("{" in text for text in texts)


def test_a_language_without_words_has_english_ones_and_its_own_numbers_and_dates() -> None:
    document = shown(samples.invoice(samples.terms(1), locale="sv-SE"))
    assert document.language == "en"
    assert document.headline == "58,80\N{NO-BREAK SPACE}€ due 15\xa0mars\xa02026"
    assert document.buyer
    assert "USA" in document.buyer.lines


def test_an_unknown_locale_is_refused() -> None:
    with pytest.raises(ValueError, match="no locale is called 'tlh'"):
        shown(samples.invoice(samples.terms(1), locale="tlh"))


def test_a_minus_stays_before_its_number_where_words_run_to_the_left() -> None:
    document = shown(samples.invoice(samples.terms(2, "ar")))
    assert "\u200e−60.44" in document.lines[1].notes[0]


def test_addresses_are_written_in_the_order_of_their_place() -> None:
    japan = Address(line1="丸の内1-9-1", city="千代田区", state="東京都", postal_code="100-0005", country="JP")

    def lines(address: Address, locale: str) -> tuple[str, ...]:
        buyer = Party(name="x", address=address)
        document = shown(samples.invoice(samples.terms(1), buyer=buyer, locale=locale))
        assert document.buyer
        return document.buyer.lines

    assert lines(japan, "ja") == ("〒100-0005", "東京都千代田区", "丸の内1-9-1", "日本")
    assert lines(japan, "en") == ("丸の内1-9-1", "千代田区, 東京都 100-0005", "Japan")
    london = Address(line1="12 Finsbury Square", city="London", postal_code="EC2A 1AB", country="GB")
    assert lines(london, "en") == ("12 Finsbury Square", "London EC2A 1AB", "United Kingdom")
    assert lines(Address(city="Köln", postal_code="50667", country="de"), "fr") == ("50667 Köln", "Allemagne")


@pytest.mark.parametrize("odd", ["a dozen", "NaN", "1E+999999999", "1" * 60, "Infinity"])
def test_a_number_that_is_none_is_shown_as_it_came(odd: str) -> None:
    line = Line(description="x", quantity=odd, unit_amount="x" + odd, unit="HUR", amount=2000, tax_percent=odd)
    [written] = shown(samples.invoice(samples.terms(1), lines=(line,))).lines
    assert (written.quantity, written.unit_price, written.amount) == (odd, "x" + odd, "€20.00")
    assert odd in written.tax


@pytest.mark.parametrize("url", ["https://pay.example.com/i/1?a=1&b=2", "http://127.0.0.1:8080/pay"])
def test_an_open_invoice_links_to_the_page_where_it_is_paid(url: str) -> None:
    assert shown(samples.invoice(samples.terms(1), pay_url=url)).pay_url == url


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//evil.example", "https://", "http://[", ""],
)
def test_any_other_address_is_not_a_link(url: str) -> None:
    assert shown(samples.invoice(samples.terms(1), pay_url=url)).pay_url is None


def test_nobody_turns_a_number_around() -> None:
    made = samples.invoice(samples.terms(1), number="INV-12\u202e34", description="\u202dNote \u2067\u05d0\u2069")
    lines = tuple(msgspec.structs.replace(line, description="Plan \u202e100") for line in made.lines)
    buyer = Party(name="Acme \u202eLtd", address=Address(line1="\u202e12 Row"), tax_ids=("\u202eDE1",))
    document = shown(msgspec.structs.replace(made, lines=lines, buyer=buyer))
    assert document.name == "Invoice INV-1234"
    assert document.lines[0].description == "Plan 100"
    assert document.notes[-1] == "Note \u2067\u05d0\u2069", "what Hebrew needs stays"
    assert "\u202e" not in str(msgspec.to_builtins(document))


def test_where_nothing_is_due_nothing_is_to_pay() -> None:
    free = msgspec.structs.replace(samples.terms(1), discounts=(Discount(percent="100"),))
    document = shown(samples.invoice(free))
    assert (document.headline, document.pay_url) == ("Nothing to be paid", None)


@pytest.mark.parametrize(
    "given, accent, ink, on",
    [
        ("#0f6e6e", "#0f6e6e", "#0f6e6e", "#ffffff"),
        ("#FFE14D", "#ffe14d", INK, INK),
        ("red; background: url(http://127.0.0.1/)", "#2c4a8a", "#2c4a8a", "#ffffff"),
        (None, "#2c4a8a", "#2c4a8a", "#ffffff"),
    ],
)
def test_a_colour_too_light_to_read_is_for_rules_only(given: str | None, accent: str, ink: str, on: str) -> None:
    document = shown(samples.invoice(samples.terms(1), seller=Seller(name="A", accent=given)))
    assert (document.accent, document.accent_ink, document.on_accent) == (accent, ink, on)


def test_days_are_days_of_the_merchants_zone() -> None:
    """In Berlin it is the new year while it is the old one in UTC; November begins there on what is 31 October here."""
    made = samples.invoice(
        samples.terms(1),
        issued_at=datetime(2026, 12, 31, 23, 30, tzinfo=UTC),
        period_start=datetime(2026, 10, 31, 23, 0, tzinfo=UTC),
        period_end=datetime(2026, 11, 30, 22, 59, 59, tzinfo=UTC),
        zone="Europe/Berlin",
    )
    told = facts(shown(made))
    assert told["Date of issue"] == "January 1, 2027"
    assert told["Period"] == "Nov 1, 2026 – Nov 30, 2026"


def test_what_was_made_before_documents_had_a_zone_says_what_it_said() -> None:
    late = datetime.fromisoformat("2026-03-01T23:30:00-05:00")
    stored = msgspec.json.encode(samples.invoice(samples.terms(1), issued_at=late))
    assert b'"zone"' not in stored
    assert facts(shown(msgspec.json.decode(stored, type=Snapshot)))["Date of issue"] == "March 2, 2026"


def test_a_rate_of_a_fraction_is_written_out() -> None:
    made = samples.terms(1)
    line = msgspec.structs.replace(made.lines[0], tax=TaxRate(percent="8.875"))
    document = shown(samples.invoice(msgspec.structs.replace(made, lines=(line,)), locale="de"))
    assert document.lines[0].tax == "8,875\N{NO-BREAK SPACE}%"


def test_rows_of_an_address_are_rows_but_not_a_hundred_of_them() -> None:
    def lines(line1: str) -> tuple[str, ...]:
        buyer = Party(name="Acme", address=Address(line1=line1, city="Springfield", country="US"))
        party = shown(samples.invoice(samples.terms(1, buyer=buyer))).buyer
        assert party is not None
        return party.lines

    street = "123 Technology Drive\r\n\n Suite 500\nFloor 3"
    assert lines(street) == ("123 Technology Drive", "Suite 500", "Floor 3", "Springfield", "United States")
    assert lines("x\n" * 100) == (" ".join("x" * 100), "Springfield", "United States")
