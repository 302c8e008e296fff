"""The page of a document: it says all there is to show, is mirrored where words run to the left, and has a version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files

import msgspec
import pytest

from billhook.documents.page import document_html
from billhook.documents.view import Shown, shown
from billhook.rules.document import TEMPLATE
from billhook_testing import samples


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
        return squeezed("".join(self.texts))

    @property
    def links(self) -> list[str | None]:
        return [value for name, value in self.attributes if name in ("href", "src")]


def squeezed(text: str) -> str:
    """Without white space, and without the marks that only order characters."""
    return re.sub(r"[\s\u200e\u200f]", "", text)


def texts_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from texts_of(part)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from texts_of(getattr(value, name))


NOT_TEXT = ("kind", "language", "direction", "paper", "accent", "accent_ink", "on_accent", "taxed", "pay_url")
"""The address to pay at is behind a word, and in a code for cameras."""


def said_by(document: Shown) -> Iterator[str]:
    for name in Shown.__struct_fields__:
        if name not in (*NOT_TEXT, "labels", "totals"):
            yield from texts_of(getattr(document, name))
    for row in document.totals:
        yield from (row.label, row.amount)


def test_the_page_says_all_there_is_to_show() -> None:
    logo = samples.logo()
    # A page of 200 lines says no more than one of 30, and takes seconds to search.
    for name, snapshot in ((name, made) for name, made in samples.samples() if "-200-" not in name):
        document = shown(snapshot)
        reading = Reading(document_html(document, logo=logo))
        missing = [said for said in said_by(document) if squeezed(said) not in reading.text]
        assert (name, missing) == (name, [])
        assert reading.links == [logo, *([document.pay_url] if document.pay_url else [])]


def test_only_an_address_that_a_phone_can_read_is_a_code() -> None:
    made = samples.terms(1)
    assert "svg" in Reading(document_html(shown(samples.invoice(made)))).tags
    for url in ("https://pay.example.com/" + "a" * 900, "https://pay.example.com/" + "あ" * 300):
        page = Reading(document_html(shown(samples.invoice(made, pay_url=url))))
        assert "svg" not in page.tags
        assert url in page.text
    assert "svg" not in Reading(document_html(shown(samples.receipt(made)))).tags


def test_the_tax_column_is_there_only_where_rates_are_known() -> None:
    heads = [
        Reading(document_html(shown(snapshot))).tags.count("th")
        for snapshot in (samples.invoice(samples.terms(1)), samples.mirrored())
    ]
    assert heads == [5, 4]


def test_where_words_run_to_the_left_the_page_is_mirrored_and_numbers_are_not() -> None:
    html = document_html(shown(samples.invoice(samples.terms(2, "ar"))))
    assert '<html lang="ar" dir="rtl">' in html
    assert ".end { text-align: left; }" in html
    assert "<bdi>+965 2222 1234</bdi>" in html
    assert "<bdi>−60.44\N{NO-BREAK SPACE}€</bdi>" in html


def test_arabic_words_are_boxes_for_an_engine_that_would_draw_them_over_each_other() -> None:
    made = samples.terms(1)
    line = msgspec.structs.replace(made.lines[0], description="خطة الفريق، API")
    html = document_html(shown(samples.invoice(msgspec.structs.replace(made, lines=(line,)))))
    box = '<span class="word">'
    assert (
        f'<bdi dir="rtl"><bdi dir="rtl">{box}خطة</span> {box}{box}الفريق</span>{box}،</span></span></bdi>'
        " <bdi>API</bdi></bdi>" in html
    )


@pytest.mark.parametrize(
    "logo",
    [
        "https://evil.example/x.png",
        "file:///etc/passwd",
        'data:image/png;base64,a" onerror="',
        "data:image/svg+xml;base64,AAAA",
    ],
)
def test_a_logo_that_is_not_a_picture_in_the_page_is_refused(logo: str) -> None:
    with pytest.raises(ValueError, match="PNG or JPEG"):
        document_html(shown(samples.mirrored()), logo=logo)


def test_the_version_names_the_look() -> None:
    """Stored documents are found by this version: a change of how they look needs a new one."""
    templates = (files("billhook.documents").joinpath(f"templates/document.{name}") for name in ("typ", "html"))
    digest = hashlib.sha256(b"".join(template.read_bytes() for template in templates)).hexdigest()
    assert (TEMPLATE, digest[:16]) == ("billhook-3", "beff0ab7a03a8acc")
