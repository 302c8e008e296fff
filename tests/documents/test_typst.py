"""Typst: what only it does, and what happens when it hangs or dies."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import psutil
import pypdf
import pytest

from billhook.documents.typst import Pdf, RenderRequest, TypstRenderer
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import FIXED_DATE, RenderError
from billhook.rules.document import Seller, Snapshot
from billhook.rules.terms import Discount, Party
from billhook_testing import samples


@pytest.fixture
def renderer() -> Iterator[TypstRenderer]:
    with closing(TypstRenderer(seconds=60)) as renderer:
        yield renderer


def request(snapshot: Snapshot, *, archival: bool = False) -> RenderRequest:
    return RenderRequest(shown(snapshot), snapshot.dated or FIXED_DATE, archival=archival)


def pages_of(pdf: bytes | RenderError) -> list[str]:
    assert isinstance(pdf, bytes), pdf
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]


def engines_running() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "billhook.documents.typst_process" in child.cmdline()]


@pytest.mark.parametrize(
    ("locale", "head", "foot"), [("en", "Description", "Page {} of {}"), ("de", "Beschreibung", "Seite {} von {}")]
)
def test_every_page_has_its_number_and_the_heads_of_the_table(
    renderer: TypstRenderer, locale: str, head: str, foot: str
) -> None:
    one = request(samples.invoice(samples.terms(200, locale)))
    pages = pages_of(renderer.render([one])[0])
    assert len(pages) > 4
    for number, page in enumerate(pages, 1):
        assert foot.format(number, len(pages)) in page
        has_lines = any(line.description in page for line in one.shown.lines)
        assert page.count(head) == has_lines


def test_no_line_is_cut_in_two(renderer: TypstRenderer) -> None:
    made = samples.invoice(samples.terms(60))
    lines = tuple(msgspec.structs.replace(line, description="begins here " * 20 + "ends") for line in made.lines)
    [pdf] = renderer.render([request(msgspec.structs.replace(made, lines=lines))])
    pages = pages_of(pdf)
    assert len(pages) > 5
    for page in pages:
        assert page.count("begins here") == 20 * page.count("ends")


def test_what_no_page_could_hold_goes_on_over_several(renderer: TypstRenderer) -> None:
    """Long, or of many short rows: nothing is off the page, least of all the totals."""
    made = samples.invoice(samples.terms(2), description="note\n" * 100, footer="foot\n" * 100)
    texts = ("many words " * 1000, "row\n" * 240)
    lines = tuple(msgspec.structs.replace(line, description=text) for line, text in zip(made.lines, texts, strict=True))
    [pdf] = renderer.render([request(msgspec.structs.replace(made, lines=lines))])
    pages = pages_of(pdf)
    for word, times in (("many", 1000), ("row", 240), ("note", 100), ("foot", 100), ("Subtotal", 1)):
        assert sum(page.count(word) for page in pages) == times
    assert min(heights(pdf)) > 0


def test_line_breaks_in_names_and_labels_push_nothing_off_the_page(renderer: TypstRenderer) -> None:
    broken = "x\n" * 100
    made = samples.terms(2, discounts=(Discount(amount=1, label=broken),) * 20, buyer=Party(name=broken))
    [pdf] = renderer.render([request(samples.invoice(made, number=broken, buyer_reference=broken))])
    assert min(heights(pdf)) > 0
    assert "Total" in "".join(pages_of(pdf))


def heights(pdf: bytes | RenderError) -> list[float]:
    """Of all texts, above the lower edge of their pages."""
    assert isinstance(pdf, bytes), pdf
    found: list[float] = []
    for page in pypdf.PdfReader(io.BytesIO(pdf)).pages:
        page.extract_text(visitor_text=lambda text, cm, tm, *_: found.append(cm[5] + tm[5] * cm[3]) if text else None)
    return found


UNHEARD_OF = "".join(map(chr, range(0x50000, 0x50000 + 30)))
"""Of a plane that has no characters."""


def test_letters_that_no_font_has_hold_nothing_up_and_are_told(renderer: TypstRenderer) -> None:
    """Each is replaced as a whole: what is melted to it goes with it."""
    farmer = "\U00050001\u200d\U0001f33e"
    made = samples.invoice(samples.terms(1), description=f'Thanks {farmer}e\u0301{UNHEARD_OF} \\n " end')
    plain, archival = renderer.render([request(made), request(made, archival=True)])
    assert isinstance(archival, Pdf)
    assert is_pdf_a(archival)
    assert archival == plain, "whether it is for an archive or not"
    assert set(archival.unshown) >= {farmer, *UNHEARD_OF[2:]}
    text = pages_of(archival)[0]
    assert re.search(r"Thanks \?é?\?{30} \\n \" end", unicodedata.normalize("NFC", text))


def is_pdf_a(pdf: bytes) -> bool:
    return b"<pdfaid:part>3</pdfaid:part>" in pdf and b"<pdfaid:conformance>B</pdfaid:conformance>" in pdf


@pytest.mark.parametrize("text", ["\x1b[31mAcme\x01", "\u0634\u0631\u0643\u0629\ufeff\u0634\u0631\u0643\u0629"])
def test_what_nobody_meant_to_write_holds_no_e_invoice_up(renderer: TypstRenderer, text: str) -> None:
    """Control characters, which no font has, and a byte order mark in a word, which no screen reader may be given."""
    made = samples.invoice(samples.terms(1), description=text)
    [pdf] = renderer.render([request(made, archival=True)])
    assert isinstance(pdf, bytes)
    assert is_pdf_a(pdf)


@pytest.mark.parametrize("locale", ["en", "de"])
def test_every_document_is_an_archives_and_a_screen_readers(renderer: TypstRenderer, locale: str) -> None:
    for made in (samples.invoice(samples.terms(30, locale)), samples.receipt(samples.terms(1, locale))):
        [pdf] = renderer.render([request(made)])
        assert isinstance(pdf, bytes)
        assert is_pdf_a(pdf)
        assert b"<pdfuaid:part>1</pdfuaid:part>" in pdf
        root = pypdf.PdfReader(io.BytesIO(pdf)).root_object
        assert root["/MarkInfo"]["/Marked"]
        assert root["/Lang"].startswith(locale)


def test_what_the_law_wants_at_the_foot_has_no_page_to_itself(renderer: TypstRenderer) -> None:
    """However full the page before is: one line stands between its text and its number."""
    asked = [request(samples.invoice(samples.terms(9), footer="Thanks\n" * rows)) for rows in range(1, 9)]
    ends = [pages_of(pdf)[-1] for pdf in renderer.render(asked)]
    assert all("Registered in England" in page for page in ends)
    assert all("Thanks" in page for page in ends)


def test_totals_are_never_alone_on_a_page(renderer: TypstRenderer) -> None:
    """The last two lines and the head of the table stand with them. So many lines fill a page and a bit."""
    for count in (13, 17, 18, 19, 40, 44, 45):
        one = request(samples.invoice(samples.terms(count)))
        [pdf] = renderer.render([one])
        page = next(page for page in pages_of(pdf) if "Subtotal" in page)
        assert all(line.description in page for line in one.shown.lines[-2:])
        assert page.index("Description") < page.index("Subtotal")
        assert "Total" in page


def test_a_file_is_read_in_the_order_of_the_page_and_its_spaces_are_spaces(renderer: TypstRenderer) -> None:
    [pdf] = renderer.render([request(samples.invoice(samples.terms(1)))])
    assert isinstance(pdf, bytes)
    text = pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text().replace("\N{NO-BREAK SPACE}", " ")
    order = (
        "Billed to",
        "From",
        "Invoice number",
        "Date of issue March 1, 2026",
        "Currency",
        "€58.80 due March 15, 2026",
    )
    places = [text.index(said) for said in order]
    assert places == sorted(places)


def test_a_seller_of_whom_there_is_but_the_name_has_no_label_without_words(renderer: TypstRenderer) -> None:
    made = samples.invoice(samples.terms(1), seller=Seller(name="Acme"))
    reference = "ch_3N5gKx2eZvKYlo2C0Xyz"
    receipt = samples.receipt(samples.terms(1), payment_reference=reference)
    bare, paid = (pages_of(pdf)[0] for pdf in renderer.render([request(made), request(receipt)]))
    assert "Acme" in bare
    assert "From" not in bare
    assert reference in paid.replace(" ", ""), "it is cut where its column ends"


@pytest.mark.parametrize(
    ("number", "cut"),
    [
        ("RG-2026-ABTEILUNG-NORD-WEST-000000042", "RG-2026-ABTEILUNG- NORD-WEST- 000000042"),
        ("N" * 37, f"{'N' * 14} {'N' * 14} {'N' * 9}"),
    ],
)
def test_a_long_number_is_cut_at_its_hyphens_where_it_has_some(renderer: TypstRenderer, number: str, cut: str) -> None:
    [pdf] = renderer.render([request(samples.invoice(samples.terms(1), number=number))])
    assert f"Invoice number {cut} Date of issue" in pages_of(pdf)[0]


def test_what_is_cut_keeps_its_order_among_words_that_run_to_the_left(renderer: TypstRenderer) -> None:
    reference, number, email = "ch_3PqrStUvWxYz0123456789", "RG-2026-ABTEILUNG-000042", f"{'x' * 30}@abc.example"
    made = samples.terms(1, "ar")
    paid = samples.receipt(
        made, payment_reference=reference, number=number, buyer=msgspec.structs.replace(made.buyer, email=email)
    )
    [pdf] = renderer.render([request(paid)])
    facts, buyer = as_seen(pdf, 0, 180), as_seen(pdf, 360, 600)
    assert reference in facts
    assert number in facts
    assert email in buyer


def as_seen(pdf: bytes | RenderError, left: int, right: int) -> str:
    """The Latin letters between two edges of the first page, row by row, from the left to the right."""
    assert isinstance(pdf, bytes), pdf
    found: list[tuple[int, float, str]] = []

    def keep(text: str, cm: list[float], tm: list[float], *_: Any) -> None:
        if left <= (x := cm[4] + tm[4] * cm[0]) < right:
            found.append((-round(cm[5] + tm[5] * cm[3]), x, text))

    pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text(visitor_text=keep)
    return "".join(c for *_, text in sorted(found) for c in text if c.isascii() and not c.isspace())


def test_amounts_above_a_billion_do_not_touch(renderer: TypstRenderer) -> None:
    made = samples.terms(1, "en", "kwd")
    lines = tuple(msgspec.structs.replace(line, quantity="1234567.25", unit_amount="98765432.1") for line in made.lines)
    one = request(samples.invoice(msgspec.structs.replace(made, lines=lines)))
    [page] = pages_of(renderer.render([one])[0])
    for line in one.shown.lines:
        assert f"{line.quantity} {line.unit_price} {line.tax} {line.amount}".replace("\xa0", " ") in page


def test_ten_thousand_lines_are_drawn_and_leave_no_swollen_process(renderer: TypstRenderer) -> None:
    made = samples.invoice(samples.terms(1))
    lines = tuple(msgspec.structs.replace(made.lines[0], description=f"Line {place}") for place in range(10_000))
    [pdf] = renderer.render([request(msgspec.structs.replace(made, lines=lines))])
    assert isinstance(pdf, bytes)
    assert engines_running() == []


def test_a_process_is_kept_for_the_next_document_and_ends_with_the_renderer() -> None:
    with closing(TypstRenderer()) as renderer:
        one = request(samples.invoice(samples.terms(1)))
        renderer.render([one])
        [process] = engines_running()
        renderer.render([one, one])
        assert engines_running() == [process]
    assert not process.is_running()


def test_a_process_that_was_ended_while_it_waited_is_replaced(renderer: TypstRenderer) -> None:
    one = request(samples.invoice(samples.terms(1)))
    [before] = renderer.render([one])
    [process] = engines_running()
    process.kill()
    process.wait()
    assert renderer.render([one]) == [before]


def test_several_threads_draw_at_once_and_each_gets_its_own(renderer: TypstRenderer) -> None:
    def draw(number: int) -> str:
        made = request(samples.invoice(samples.terms(2), number=f"N-{number}-"))
        return pages_of(renderer.render([made])[0])[0]

    with ThreadPoolExecutor(3) as pool:
        assert all(f"N-{number}-" in text for number, text in enumerate(pool.map(draw, range(12))))


def fake(body: str) -> TypstRenderer:
    return TypstRenderer(seconds=0.5, command=(sys.executable, "-c", body))


def test_one_that_hangs_is_killed_at_the_deadline() -> None:
    with closing(fake("import time; time.sleep(600)")) as renderer:
        before = psutil.Process().children()
        assert renderer.render([request(samples.invoice(samples.terms(1)))]) == [RenderError("not drawn within 0.5 s")]
        assert psutil.Process().children() == before


@pytest.mark.parametrize("body", ["import os; os.abort()", "raise ValueError('no fonts at all')"])
def test_one_that_dies_is_an_answer_and_its_trace_is_for_the_log(body: str) -> None:
    renderer = TypstRenderer(seconds=30, command=(sys.executable, "-c", body))
    with closing(renderer):
        [drawn] = renderer.render([request(samples.invoice(samples.terms(1)))])
    assert isinstance(drawn, RenderError)
    assert drawn.reason == "Typst ended and left no document"
    if "ValueError" in body:
        assert "no fonts at all" in drawn.detail


def test_one_that_cannot_be_started_is_an_answer_too() -> None:
    with closing(TypstRenderer(command=("/nowhere/python",))) as renderer:
        [drawn] = renderer.render([request(samples.invoice(samples.terms(1)))])
    assert isinstance(drawn, RenderError)
    assert "could not be started" in drawn.reason
