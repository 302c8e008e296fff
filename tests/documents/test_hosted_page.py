"""The hosted page: what became of an invoice since it was issued, in the words of its document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest
from babel import Locale, localedata
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from billhook.documents.hosted_page import Download, gone_html, hosted_html, shown_now
from billhook.documents.view import Shown, shown
from billhook.documents.words import hosted_words, words_for
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import Snapshot
from billhook.rules.terms import Party
from billhook_testing import samples

ISSUED = samples.invoice(samples.terms(3))
LATER = datetime(2026, 3, 5, tzinfo=UTC)


def now(issued: Snapshot, **fields: object) -> Invoice:
    """What the book has of it now: open, if nothing else is said."""
    known: dict[str, object] = {
        "status": "open",
        "amount_paid": 0,
        "amount_remaining": issued.total,
        **fields,
    }
    sums = {name: getattr(issued, name) for name in ("currency", "subtotal", "total")}
    return msgspec.convert({"external_id": "in_1", "amount_due": issued.total, **sums, **known}, Invoice)


def page(document: Shown, *downloads: Download) -> str:
    return hosted_html(document, downloads, nonce="n")


def rows(document: Shown) -> list[tuple[str, str]]:
    return [(row.label, row.amount) for row in document.totals]


def test_an_open_invoice_says_what_its_document_says() -> None:
    assert shown_now(ISSUED, now(ISSUED)) == shown(ISSUED)


def test_a_test_says_so_before_all_else() -> None:
    """Also when it was paid, or is void, since."""
    for later in ({}, {"status": "paid", "amount_paid": ISSUED.total, "amount_remaining": 0}, {"status": "void"}):
        document = shown_now(msgspec.structs.replace(ISSUED, livemode=False), now(ISSUED, **later))
        assert document.test
        html = page(document)
        assert html.index(document.test.note) < html.index("<h1>")
        assert f"<title>TEST {document.title}" in html
        assert "TEST" not in page(shown_now(ISSUED, now(ISSUED, **later)))


def test_where_it_is_shipped_to() -> None:
    document = shown(samples.mirrored())
    assert document.ship_to is not None
    for text in (document.ship_to.label, document.ship_to.name, *document.ship_to.lines):
        assert str(escape(text)) in page(document)


def test_paid_since() -> None:
    document = shown_now(
        ISSUED, now(ISSUED, status="paid", amount_paid=ISSUED.total, amount_remaining=0, paid_at=LATER)
    )
    assert (document.stamp, document.pay_url) == ("Paid", None)
    assert "paid on March\xa05,\xa02026" in document.headline
    assert document.title == "Invoice"


def test_paid_in_part() -> None:
    document = shown_now(ISSUED, now(ISSUED, amount_paid=568, amount_remaining=ISSUED.total - 568))
    assert document.stamp is None
    assert document.pay_url == samples.PAY_URL
    assert rows(document)[-2:] == [("Amount paid", "−€5.68"), ("Amount due", "€780.00")]


def test_void_since() -> None:
    document = shown_now(ISSUED, now(ISSUED, status="void", voided_at=LATER))
    assert (document.stamp, document.pay_url) == ("Void", None)
    assert ("Voided on", "March 5, 2026".replace(" ", "\N{NO-BREAK SPACE}")) in [
        (fact.label, fact.value) for fact in document.facts
    ]
    assert rows(document)[-1] == ("Amount due", "€0.00")


def test_written_off_can_still_be_paid() -> None:
    assert shown_now(ISSUED, now(ISSUED, status="uncollectible")).pay_url == samples.PAY_URL


def test_taken_back_in_part() -> None:
    document = shown_now(ISSUED, now(ISSUED, amount_remaining=ISSUED.total - 568), credited=568)
    assert rows(document)[-2:] == [("Amount credited", "−€5.68"), ("Amount due", "€780.00")]


def test_of_two_documents_each_has_its_button_and_its_name() -> None:
    said = page(shown(ISSUED), Download("Invoice", "t/document.pdf", "ready"), Download("Receipt", "t/r.pdf", "making"))
    assert 'href="t/document.pdf" type="application/pdf" download>Download PDF – Invoice</a>' in said
    assert f"Receipt: {hosted_words('en').making}" in said
    assert "t/r.pdf" not in said


LANGUAGES = {words_for(Locale(name))[0] for name in localedata.locale_identifiers() if "_" not in name}


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_the_page_speaks_every_language_that_documents_do(language: str) -> None:
    assert language == "en" or hosted_words(language) != hosted_words("en")
    assert hosted_words(f"{language}-XX") == hosted_words(language)
    assert f'lang="{language}"' in gone_html(f"{language};q=0.5", nonce="n")


class Reading(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str | None] = []
        self.handlers: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("made", [samples.invoice(samples.terms(5, "de")), samples.mirrored()])
def test_the_page_says_all_that_the_document_says_in_its_order(made: Snapshot) -> None:
    document = shown(made)
    parties = [party for party in (document.seller, document.buyer, document.ship_to) if party]
    facts = [text for fact in document.facts for text in (fact.label, fact.value)]
    lines = [
        text
        for line in document.lines
        for text in (line.description, *line.notes, line.quantity, line.unit_price, line.tax, line.amount)
    ]
    totals = [text for row in document.totals for text in (row.label, row.amount)]
    text, place = Reading(page(document)).text, 0
    said = [text for party in parties for text in (party.name, *party.lines)]
    for value in (document.name, document.headline, *said, *facts, *lines, *totals, *document.notes):
        place = text.index(value, place) + len(value)


HOSTILE = (
    "<script>alert(1)</script>",
    "</td></table><iframe src=file:///etc/passwd></iframe>",
    '" onmouseover=alert(1) x="',
    "</style><link rel=stylesheet href=//x>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- ",
)


@settings(deadline=None)
@given(st.sampled_from(HOSTILE) | st.text(alphabet="<>&\"'=/ aم{%-!", min_size=1, max_size=30))
def test_whatever_people_write_stays_text(evil: str) -> None:
    line = msgspec.structs.replace(ISSUED.lines[0], description=evil, quantity=evil, unit_amount=evil)
    document = shown(
        msgspec.structs.replace(
            ISSUED,
            number=evil,
            seller=msgspec.structs.replace(ISSUED.seller, name=evil, phone=evil, registration=evil, bank=(evil,)),
            buyer=Party(name=evil, email=evil, tax_ids=(evil,)),
            lines=(line,),
            footer=evil,
            description=evil,
            pay_url=f"https://pay.example.com/{evil}",
        )
    )
    plain, read = Reading(page(shown(ISSUED))), Reading(page(document))
    assert set(read.tags) <= set(plain.tags)
    assert read.handlers == []
    assert set(read.addresses) <= {"data:,", "#document", document.pay_url}
    assert read.text.count(evil) >= 8


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "file:///etc/passwd"])
def test_an_address_that_is_not_of_the_web_is_no_link(url: str) -> None:
    said = page(shown(msgspec.structs.replace(ISSUED, pay_url=url)))
    assert Reading(said).addresses == ["data:,", "#document"]


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    said = hosted_html(shown(ISSUED), [], nonce="n", logo=samples.logo())
    assert re.findall(r"url\((.+?)\)|@import|<script|<form|<iframe", said) == [
        '"fonts/IBMPlexSans-Regular.woff2"',
        '"fonts/IBMPlexSans-Bold.woff2"',
    ]
    assert [address[:15] for address in Reading(said).addresses if address and address.startswith("data:")] == [
        "data:,",
        "data:image/png;",
    ]
