"""The invoice page: it says everything, and nothing that people wrote in it is markup."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook.outlets.page import invoice_html
from billhook.rules.book import Address, Invoice
from billhook.rules.invoice import TEMPLATE_VERSION, InvoiceSnapshot, snapshot_of

MakeInvoice = Callable[..., Invoice]

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "div", "span", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Reading(HTMLParser):
    """What a browser would make of a page: its tags, its attributes, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._in_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def links(self) -> list[str | None]:
        return [value for name, value in self.attributes if name in ("href", "src")]


def shown(invoice: Invoice, locale: str = "en") -> Reading:
    return Reading(invoice_html(snapshot_of(invoice, kind="invoice", seller_name="Acme Cloud", locale=locale)))


def test_an_invoice_says_who_what_when_and_how_much(make_invoice: MakeInvoice) -> None:
    text = shown(make_invoice()).text
    for said in (
        *("Invoice number ACME-2026-0042", "Acme Cloud", "Müller & Söhne", "Hauptstraße 12", "10115 Berlin", "Germany"),
        *("billing@mueller.example", "Tax ID DE123456789", "Date of issue March 1, 2026", "Date due March 31, 2026"),
        *("$62.86 due March 31, 2026", "Service 0 Mar 1, 2026 – Apr 1, 2026 2 $10.00 $20.00", "Currency USD"),
        *("Subtotal $60.06", "Discount -$1.00", "Tax $3.80", "Total $62.86", "Amount due $62.86"),
        *("Thank you for your business.", "Commercial register Berlin"),
    ):
        assert said in text


def test_a_receipt_says_what_was_paid_and_asks_for_nothing(make_invoice: MakeInvoice) -> None:
    invoice = make_invoice(
        status="paid", amount_paid=6286, amount_remaining=0, paid_at=datetime(2026, 3, 2, tzinfo=UTC)
    )
    reading = Reading(invoice_html(snapshot_of(invoice, kind="receipt", seller_name="Acme")))
    assert "$62.86 paid on March 2, 2026" in reading.text
    assert "Date paid March 2, 2026" in reading.text
    assert "Amount paid $62.86" in reading.text
    assert "due" not in reading.text.lower()
    assert reading.links == []


def test_lines_show_proration_discount_and_tax(make_invoice: MakeInvoice) -> None:
    invoice = make_invoice(lines=5)
    *others, last = invoice.lines
    last = msgspec.structs.replace(last, discount=50, tax=19, tax_inclusive=True, unit_amount="0.05", quantity="1234.5")
    text = shown(msgspec.structs.replace(invoice, lines=(*others, last))).text
    assert "Apr 1, 2026 · Prorated Discount -$0.50 Includes tax $0.19 1,234.5 $0.0005 -$20.08" in text


@pytest.mark.parametrize("odd", ["a dozen", "NaN", "1E+999999999", "1" * 60])
def test_a_number_that_is_none_is_shown_as_it_came(make_invoice: MakeInvoice, odd: str) -> None:
    invoice = make_invoice(lines=1)
    line = msgspec.structs.replace(invoice.lines[0], quantity=odd, unit_amount="x" + odd)
    assert f"{odd} x{odd} $20.00" in shown(msgspec.structs.replace(invoice, lines=(line,))).text


def test_tax_inside_the_prices_and_a_balance_are_named(make_invoice: MakeInvoice) -> None:
    invoice = make_invoice()
    text = shown(msgspec.structs.replace(invoice, total=invoice.total - 380, amount_due=1000)).text
    assert "Tax included $3.80" in text
    assert "Balance applied -$49.06 Amount due $10.00" in text


def test_a_page_that_has_not_all_lines_says_so(make_invoice: MakeInvoice) -> None:
    assert "More lines belong to this invoice" in shown(make_invoice(lines_complete=False)).text
    assert "More lines belong to this invoice" not in shown(make_invoice()).text


def test_dates_and_amounts_are_written_as_the_locale_does(make_invoice: MakeInvoice) -> None:
    text = shown(make_invoice(currency="eur"), locale="de-DE").text
    assert "62,86 € due 31. März 2026" in text
    assert "Deutschland" in text


@pytest.mark.parametrize("url", ["https://pay.example.com/i/1?a=1&b=2", "http://127.0.0.1:8080/pay"])
def test_an_open_invoice_links_to_the_page_where_it_is_paid(make_invoice: MakeInvoice, url: str) -> None:
    assert shown(make_invoice(hosted_url=url)).links == [url]


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//evil.example", "https://", "http://[", ""],
)
def test_any_other_address_is_not_a_link(make_invoice: MakeInvoice, url: str) -> None:
    assert shown(make_invoice(hosted_url=url)).links == []


def test_nothing_due_is_nothing_to_pay(make_invoice: MakeInvoice) -> None:
    assert shown(make_invoice(amount_due=0)).links == []


HOSTILE = (
    "<script>alert(1)</script>",
    "</td></table><iframe src=file:///etc/passwd></iframe>",
    '"><img src=http://127.0.0.1/x onerror=alert(1)>',
    '<meta name="pdfkit-enable-local-file-access" content="">',
    "</style><link rel=stylesheet href=http://127.0.0.1/x>",
    "</title><object data=file:///etc/passwd>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- ",
    "مرحبا <b onmouseover=alert(1)>بالعالم</b>",
)
hostile = st.sampled_from(HOSTILE) | st.text(alphabet="<>&\"'=/ aم{%-!", max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(hostile)
def test_whatever_people_write_stays_text(make_invoice: MakeInvoice, evil: str) -> None:
    invoice = make_invoice(lines=1)
    line = msgspec.structs.replace(invoice.lines[0], description=evil, quantity="1" + evil)
    snapshot = InvoiceSnapshot(
        kind="invoice",
        seller_name=evil,
        seller_country=evil,
        invoice=msgspec.structs.replace(
            invoice,
            number=evil,
            customer_name=evil,
            customer_email=evil,
            customer_address=Address(line1=evil, line2=evil, city=evil, state=evil, postal_code=evil, country=evil),
            customer_tax_ids=(evil,),
            description=evil,
            footer=evil,
            hosted_url=f"https://pay.example.com/{evil}",
            lines=(line,),
        ),
    )
    reading = Reading(invoice_html(snapshot))
    assert set(reading.tags) <= TAGS
    assert {name for name, _ in reading.attributes} <= {
        *("lang", "charset", "name", "content", "class", "width", "href", "rel", "dir"),
    }
    assert reading.tags.count("meta") == 3
    assert set(reading.links) <= {f"https://pay.example.com/{evil}"}
    assert " ".join(evil.split()) in reading.text or "م" in evil


def test_the_template_version_names_the_template() -> None:
    """Stored documents are found by this version: a change of the template needs a new one, here and in the rule."""
    template = files("billhook.outlets").joinpath("templates/invoice.html").read_bytes()
    assert (TEMPLATE_VERSION, hashlib.sha256(template).hexdigest()[:16]) == (1, "c6e75b4e376b424b")
