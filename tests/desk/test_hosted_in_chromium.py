"""Hosted pages as people meet them: in a browser, by keyboard, on a phone, on paper, and through a screen reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from desk.browser import chromium
from desk.hosting import Hosted, host
from desk.world import Desk, new_env, serving
from playwright.sync_api import Browser, BrowserContext, Page
from store.databases import lay_ledger

from billhook.documents.hosted_page import hosted_html
from billhook.documents.view import shown
from billhook.rules.terms import Party, Terms
from billhook_testing import samples

__all__ = ["chromium"]

PDF = b"%PDF-1.4 the invoice"

CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let text; (text = texts.nextNode()); ) {
    if (!text.data.trim() || !text.parentElement.checkVisibility()) continue;
    const pair = [parse(getComputedStyle(text.parentElement).color), behind(text.parentElement)].map(luminance);
    found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), text.data.trim()]);
  }
  return found;
}"""
"""The contrast of every text with what is behind it, as WCAG 2 (1.4.3) counts it."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    var = tmp_path_factory.mktemp("var")
    lay_ledger(var / "billhook.db")
    env = new_env(f"sqlite:///{var / 'billhook.db'}", var)
    with serving(env) as found:
        yield found
    env.close()


class Visit:
    """A page in a browser that notes what the page asks for, and what goes wrong in it."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)

    def reach(self, selector: str) -> bool:
        """By the tab key alone."""
        for _ in range(10):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return True
        return False

    def value(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context(viewport={"width": 1100, "height": 900}) as context:
        yield context


def hosted(desk: Desk, terms: Terms, pdf: bytes | None = PDF, **seller: Any) -> Hosted:
    found = host(desk, terms, **seller)
    if pdf is not None:
        found.settle("invoice", pdf)
    return found


def test_by_keyboard_one_gets_to_the_pdf_and_sees_where_one_is(desk: Desk, context: BrowserContext) -> None:
    visit = Visit(context, hosted(desk, samples.terms(3)).link()["here"])
    page = visit.page
    assert visit.reach(".skip")
    assert page.locator(".skip").bounding_box()["y"] >= 0, "the skip link comes into sight"  # type: ignore[index]
    assert visit.reach("a[download]")
    assert visit.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert visit.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    assert started.value.suggested_filename == "invoice-INV-0001.pdf"
    assert Path(started.value.path()).read_bytes() == PDF
    assert visit.said == []
    assert {url.split("/")[2] for url in visit.requests if not url.startswith("data:")} == {
        desk.address.removeprefix("http://")
    }


def test_figures_end_at_one_place_also_where_words_run_to_the_left(context: BrowserContext) -> None:
    page = context.new_page()
    page.set_content(hosted_html(shown(samples.invoice(samples.terms(4, "ar"))), [], nonce="n"))
    ends = """selector => [...document.querySelectorAll(selector)].map(cell => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        return text.getBoundingClientRect().right;
    })"""
    for figures in (".totals dd", "td:last-child"):
        found = page.evaluate(ends, figures)
        assert len(found) > 3
        assert max(found) - min(found) < 1


def test_on_the_narrowest_phone_nothing_is_to_the_side(desk: Desk, context: BrowserContext) -> None:
    long = dict(samples.samples())["long-texts"]
    terms = samples.terms(4)
    lines = tuple(
        msgspec.structs.replace(line, description=shown.description)
        for line, shown in zip(terms.lines, long.lines, strict=True)
    )
    assert long.buyer is not None
    buyer = msgspec.structs.replace(long.buyer, email="a" * 60 + "@example.com")  # as long as one can be written to
    visit = Visit(context, hosted(desk, msgspec.structs.replace(terms, lines=lines, buyer=buyer)).link()["here"])
    for width in (320, 500, 768, 1100):
        visit.page.set_viewport_size({"width": width, "height": 700})
        assert visit.value("document.documentElement.scrollWidth") == width
        if width == 320:  # the button to pay is in reach of a thumb, wherever one is on the page
            for place in ("0", "document.body.scrollHeight"):
                visit.value(f"scrollTo(0, {place})")
                button = visit.page.locator(".pay").bounding_box()
                assert button is not None
                assert 400 < button["y"] < 700 - button["height"]


@pytest.mark.parametrize("accent", ["#ffe14d", "#808080", "#0f6e6e"])
def test_all_text_can_be_read_whatever_colour_the_merchant_likes(
    desk: Desk, context: BrowserContext, accent: str
) -> None:
    found = hosted(desk, samples.terms(2), accent=accent)
    visit = Visit(context, found.link()["here"])
    for width in (320, 1100):
        visit.page.set_viewport_size({"width": width, "height": 700})
        contrasts = visit.value(CONTRASTS)
        assert len(contrasts) > 40
        assert [(text, contrast) for contrast, text in contrasts if contrast < 4.5] == []
    found.becomes("void")
    visit.page.reload()
    assert [text for contrast, text in visit.value(CONTRASTS) if contrast < 4.5] == []


def test_on_paper_there_is_a_code_to_pay_by_and_nothing_to_press(desk: Desk, context: BrowserContext) -> None:
    visit = Visit(context, hosted(desk, samples.terms(60)).link()["here"])
    page = visit.page
    assert not page.locator(".onpaper").is_visible()
    page.emulate_media(media="print")
    for hidden in (".actions", ".skip"):
        assert not page.locator(hidden).is_visible()
    assert page.locator(".onpaper svg").is_visible()
    assert page.get_by_text(samples.PAY_URL).is_visible()
    assert visit.value("getComputedStyle(document.querySelector('thead')).display") == "table-header-group"


@pytest.mark.parametrize("width", [320, 1100])
def test_a_screen_reader_finds_names_headings_and_the_heads_of_the_table(
    desk: Desk, context: BrowserContext, width: int
) -> None:
    visit = Visit(context, hosted(desk, samples.terms(2, "de")).link()["here"])
    page = visit.page
    page.set_viewport_size({"width": width, "height": 700})
    assert page.title() == "Rechnung INV-0001 · Nordlicht Software GmbH"
    said = page.locator("body").aria_snapshot()
    for expected in (
        '- link "Zum Dokument springen"',
        '- heading "Rechnung INV-0001" [level=1]',
        '- link "Online bezahlen"',
        '- link "PDF herunterladen"',
        '- heading "Rechnung an" [level=2]',
        '- table "Positionen"',
        '- columnheader "Einzelpreis"',
        '- rowheader "Team-Tarif',
        '- cell "50,37 €"',
    ):
        assert expected in said.replace("\u00a0", " "), said
    levels = visit.value("[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    nameless = "[...document.querySelectorAll('a,button,input')].filter((control) => !control.innerText.trim()).length"
    assert visit.value(nameless) == 0


def test_arabic_reads_from_right_to_left(desk: Desk, context: BrowserContext) -> None:
    visit = Visit(context, hosted(desk, samples.terms(2, "ar", "kwd")).link()["here"])
    assert visit.value("[document.documentElement.lang, document.documentElement.dir]") == ["ar", "rtl"]
    first, last = (visit.page.locator("thead th").nth(at).bounding_box() for at in (0, -1))
    assert first is not None
    assert last is not None
    assert first["x"] > last["x"]


def test_what_customers_write_is_text(desk: Desk, context: BrowserContext) -> None:
    evil = '</style><script>document.title="x"</script><img src=//127.0.0.1:9/x onerror=alert(1)>"><base href=//x>'
    terms = samples.terms(1)
    lines = (msgspec.structs.replace(terms.lines[0], description=evil),)
    terms = msgspec.structs.replace(terms, lines=lines, buyer=Party(name=evil), footer=evil, description=evil)
    visit = Visit(context, hosted(desk, terms, name=f"Evil {evil}").link()["here"])
    assert visit.page.get_by_text(evil).count() >= 5
    assert visit.value("document.querySelectorAll('script, img, base, [href^=javascript]').length") == 0
    assert visit.page.title() != "x"
    assert visit.said == []
    assert [url for url in visit.requests if not url.startswith("data:") and "/i/fonts/" not in url] == [visit.page.url]
