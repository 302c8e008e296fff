"""Merchants' own templates: what they get, what they cannot reach, and what one that runs wild costs its neighbours."""

from __future__ import annotations

import pytest

from billhook.documents.templating import check_template, own_html
from billhook.documents.view import Shown, shown
from billhook.documents.wkhtmltopdf import RenderError
from billhook_testing import samples


@pytest.fixture(scope="module")
def document() -> Shown:
    return shown(samples.invoice(samples.terms(2)))


def reason(page: str | RenderError) -> str:
    assert isinstance(page, RenderError), page
    return page.reason


def test_a_template_says_what_it_likes_of_the_document(document: Shown) -> None:
    source = (
        "<h1>{{ document.name }}</h1>{% if logo %}<img src='{{ logo }}'>{% endif %}"
        "{% for line in document.lines %}<p>{{ loop.index }} {{ line.description }} {{ line.amount }}</p>{% endfor %}"
        "<p>{{ document.labels.pay_online }}: {{ document.pay_url }}</p>{{ document.pay_qr | safe }}"
    )
    check_template(source)
    [page] = own_html([(source, document, "data:image/png;base64,AAAA")])
    assert isinstance(page, str)
    assert page.startswith(
        "<h1>Invoice INV-2026-0042</h1><img src='data:image/png;base64,AAAA'><p>1 Team plan €49.00</p>"
    )
    assert "<svg" in page


def test_what_people_wrote_is_escaped_in_merchants_templates_too(document: Shown) -> None:
    hostile = shown(samples.invoice(samples.terms(1), description="<script>{{ 7*7 }}</script>"))
    [page] = own_html([("{% for note in document.notes %}{{ note }}{% endfor %}", hostile, None)])
    assert isinstance(page, str)
    assert "&lt;script&gt;{{ 7*7 }}&lt;/script&gt;" in page


def test_arabic_can_be_put_into_boxes_as_our_own_page_does() -> None:
    arabic = shown(samples.invoice(samples.terms(1, "ar")))
    [page] = own_html([("{{ document.title | text }}", arabic, None)])
    assert page == '<bdi dir="rtl"><bdi dir="rtl"><span class="word">فاتورة</span></bdi></bdi>'


@pytest.mark.parametrize(
    "source, said",
    [
        ("one\ntwo {% if %}", "line 2: Expected an expression"),
        ("one\n\n{% for line in document.lines %}", "line 3: Unexpected end of template"),
        ("{{ document.title | shout }}", "line 1: No filter named 'shout'"),
        ("{{ document.lines | random }}", "line 1: No filter named 'random'"),  # no two drawings would be the same file
        ("\n{% include '/etc/passwd' %}", "line 2: a template stands alone"),
        ("{% extends 'base' %}", "line 1: a template stands alone"),
        ("{% import 'x' as y %}", "line 1: a template stands alone"),
        ("{% from 'x' import y %}", "line 1: a template stands alone"),
        ("{{" + "(" * 3000 + ")" * 3000 + "}}", "nested too deeply"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_its_line(source: str, said: str) -> None:
    with pytest.raises(ValueError, match="The template cannot be used") as refusal:
        check_template(source)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "source, said",
    [
        ("\n{{ document.titel }}", "line 2: 'dict object' has no attribute 'titel'"),
        ("{{ settings }}", "line 1: 'settings' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "line 1: access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ document.lines.append(1) }}", "line 1: access to attribute 'append' of 'list' object is unsafe"),
        ("{{ self.__init__.__globals__ }}", "is unsafe"),
        ("{{ lipsum.__globals__ }}", "line 1: 'lipsum' is undefined"),
        ("{{ '{0.__class__}'.format(logo) }}", "is unsafe"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "nested too deeply"),
        (
            "{% set all = namespace(a='x') %}\n{% for _ in range(99) %}{% set all.a = all.a ~ all.a %}{% endfor %}",
            "line 2: it takes more memory",
        ),
        ("{% for _ in range(99999) %}{{ document.seller.name * 999 }}{% endfor %}", "more than 16,777,216 characters"),
    ],
)
def test_what_leads_out_or_runs_wild_is_an_error_and_its_neighbours_are_drawn(
    document: Shown, source: str, said: str
) -> None:
    before, wild, after = own_html([("before", document, None), (source, document, None), ("after", document, None)])
    assert (before, after) == ("before", "after")
    assert reason(wild).startswith("the merchant's template failed: ")
    assert said in reason(wild)


def test_a_template_that_loops_is_stopped_once_and_its_line_is_named(document: Shown) -> None:
    loops = "\n{% for _ in range(99999) %}{% for _ in range(99999) %}{% endfor %}{% endfor %}"
    pages = [(source, document, None) for source in ("one", loops, "two", loops, loops, "three")]
    one, first, two, *others, three = own_html(pages, seconds=1)
    assert (one, two, three) == ("one", "two", "three")
    assert reason(first) == "the merchant's template failed: line 2: it takes more work than a page may"
    assert others == [first, first]


def test_work_that_python_cannot_interrupt_is_ended_by_the_kernel(document: Shown) -> None:
    endless = "{{ 9 ** (9 ** 9) }}"
    pages = [(source, document, None) for source in ("one", endless, "two", endless)]
    one, first, two, second = own_html(pages, seconds=3)
    assert (one, two) == ("one", "two")
    assert "more work or more memory than a page may" in reason(first)
    assert second == first


def test_ten_thousand_lines_are_no_trouble() -> None:
    long = shown(samples.invoice(samples.terms(10_000)))
    source = "{% for line in document.lines %}<p>{{ line.description }} {{ line.amount }}</p>{% endfor %}"
    [page] = own_html([(source, long, None)])
    assert isinstance(page, str)
    assert page.count("<p>") == 10_000


def test_no_pages_are_no_work() -> None:
    assert own_html([]) == []
