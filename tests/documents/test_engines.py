"""Both PDF engines: they say the same, equal documents are equal files, and each is taken where it draws best."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pypdf
import pytest
from PIL import Image

from billhook.documents.engines import Drawn, Engines, choose
from billhook.documents.typst import Pdf, Picture, RenderRequest
from billhook.documents.view import Shown, shown
from billhook.documents.wkhtmltopdf import FIXED_DATE, RendererMissing, Wkhtmltopdf
from billhook.rules.book.invoice import CustomField
from billhook.rules.document import Snapshot
from billhook.rules.engine import Engine
from billhook_testing import samples

HOSTILE = (
    "<script>document.location='http://127.0.0.1:9'</script><iframe src='file:///etc/passwd'></iframe>"
    '<meta name="pdfkit-enable-local-file-access" content=""> #read("/etc/passwd") #panic() $x$ *b* _i_ @ref <label>'
    " // no comment \\ {{ 7 * 7 }} {% raw %}"
)


@pytest.fixture(params=["wkhtmltopdf", "typst"])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """One of the two, forced."""
    if request.param == "wkhtmltopdf":
        request.getfixturevalue("wkhtmltopdf")
    with closing(Engines(request.param)) as engines:
        yield engines


def request(snapshot: Snapshot, **fields: Any) -> RenderRequest:
    return RenderRequest(shown(snapshot), snapshot.dated or FIXED_DATE, **fields)


def draw(engines: Engines, *requests: RenderRequest) -> list[Drawn]:
    drawn = dict(engines.draw([engines.route(one) for one in requests]))
    return [drawn[place] for place in range(len(requests))]


def reader(pdf: Drawn) -> pypdf.PdfReader:
    assert isinstance(pdf, bytes), pdf
    return pypdf.PdfReader(io.BytesIO(pdf))


def text_of(pdf: Drawn) -> str:
    """All it says, without any space: engines place words, and what is between them is the reader's guess."""
    return bare("".join(page.extract_text() for page in reader(pdf).pages))


def bare(text: str) -> str:
    return re.sub(r"[\s\u200b\u200e\u200f]+", "", text)


def said(document: Shown) -> list[str]:
    """Number, parties, lines and totals, in their order."""
    buyer = [document.buyer.name, *document.buyer.lines] if document.buyer else []
    lines = [
        cell
        for line in document.lines
        for cell in (line.description, *line.notes, line.quantity, line.unit_price, line.tax, line.amount)
    ]
    totals = [cell for row in document.totals for cell in (row.label, row.amount)]
    facts = [fact.value for fact in document.facts]
    return [document.seller.name, *document.seller.lines, *buyer, *facts, document.headline, *lines, *totals]


def latin(text: str) -> list[str]:
    """The words and numbers that every machine has glyphs for, and that are read as they are written."""
    return re.findall(r"[0-9A-Za-zÀ-ÿ][0-9A-Za-zÀ-ÿ.,@/-]*[0-9A-Za-zÀ-ÿ]", text)


@pytest.mark.parametrize("currency", ["eur", "jpy", "kwd"])
@pytest.mark.parametrize("locale", ["en", "de", "ja", "ar"])
def test_number_parties_lines_and_totals_are_in_the_file(engines: Engines, locale: str, currency: str) -> None:
    one = request(samples.invoice(samples.terms(8, locale, currency)))
    text = text_of(draw(engines, one)[0])
    whole = locale in ("en", "de")
    for value in said(one.shown):
        for word in [value] if whole else latin(value):
            assert bare(word) in text


def test_what_was_written_in_lines_is_shown_in_lines(engines: Engines) -> None:
    text = "Consulting\nMonday: 3 h\r\nTuesday:\t4 h\n"
    snapshot = samples.invoice(samples.terms(1), description=text, footer=text)
    lines = tuple(msgspec.structs.replace(line, description=text) for line in snapshot.lines)
    [pdf] = draw(engines, request(msgspec.structs.replace(snapshot, lines=lines)))
    found = [" ".join(line.split()) for line in reader(pdf).pages[0].extract_text().split("\n")]
    assert [found.count(line) for line in ("Consulting", "Monday: 3 h", "Tuesday: 4 h")] == [3, 3, 3]


def test_a_long_reference_stays_within_its_column(engines: Engines) -> None:
    """It is cut, for it has no spaces."""
    reference = "ch_3PqrStUvWxYz0123456789" * 2
    one = request(samples.receipt(samples.terms(1), payment_reference=reference))
    page = reader(draw(engines, one)[0]).pages[0]
    assert reference in bare(page.extract_text())
    assert not any(reference in line for line in page.extract_text().split("\n"))


def test_a_date_stays_on_one_line(engines: Engines) -> None:
    """The longest are those of September in Romance languages."""
    day = datetime(2026, 9, 30, 12, tzinfo=UTC)
    note = samples.credit_note(samples.terms(1), locale="es", issued_at=day, corrects_issued_at=day)
    page = reader(draw(engines, request(note))[0]).pages[0].extract_text().replace("\N{NO-BREAK SPACE}", " ")
    assert page.replace("\t", " ").count("30 de septiembre de 2026") == 2


def test_letters_that_no_font_has_are_marks_and_are_told(engines: Engines) -> None:
    """Whichever engine draws: a blank in a name is seen by nobody. What leads to a payment stays as it is."""
    farmer, pay_url = "\U00050001\u200d\U0001f33e", "https://pay.test/\U00050001"
    made = samples.invoice(samples.terms(1), description=f"Thanks {farmer}e\u0301\u202f!", pay_url=pay_url)
    plain, odd = draw(engines, request(samples.invoice(samples.terms(1))), request(made))
    assert "Thanks?é!" in unicodedata.normalize("NFC", text_of(odd))
    assert isinstance(odd, Pdf)
    assert odd.unshown == (farmer,)
    assert getattr(plain, "unshown", ()) == ()
    notes = [note.get_object() for note in reader(odd).pages[0]["/Annots"]]
    assert notes
    assert not any("?" in note["/A"]["/URI"] for note in notes)


def test_the_typeface_is_ours_on_every_machine(engines: Engines) -> None:
    [pdf] = draw(engines, request(samples.invoice(samples.terms(5, "de"))))
    fonts = {font["/BaseFont"] for page in reader(pdf).pages for font in page["/Resources"]["/Font"].values()}
    assert {font.lstrip("/").rpartition("+")[2].replace(" ", "") for font in fonts} == {
        "IBMPlexSans",
        "IBMPlexSans-Bold",
    }


def test_totals_stand_with_the_last_two_lines_and_how_to_pay_is_not_cut(engines: Engines) -> None:
    asked = [request(samples.invoice(samples.terms(count))) for count in (1, 2, 12, 13, 14, 16)]
    for one, pdf in zip(asked, draw(engines, *asked), strict=True):
        pages = [page.extract_text() for page in reader(pdf).pages]
        page = next(text for text in pages if "Subtotal" in text)
        assert any("IBAN" in text and "Paymentreference" in bare(text) for text in pages), "how to pay stands whole"
        assert all(bare(line.description) in bare(page) for line in one.shown.lines[-2:])
        assert bare(one.shown.totals[-1].amount) in bare(page)


def test_a_test_says_so_at_its_head_and_on_every_page(engines: Engines) -> None:
    """No page of one may be taken for a real document's, nor one of a real document for a test's."""
    asked = [request(samples.receipt(samples.terms(30), livemode=livemode)) for livemode in (False, True)]
    test, live = draw(engines, *asked)
    assert asked[0].shown.test
    assert bare(f"TEST – {asked[0].shown.test.note}") in bare(reader(test).pages[0].extract_text())
    assert len(reader(test).pages) > 1
    assert all(is_marked(page) for page in reader(test).pages)
    assert not any(is_marked(page) for page in reader(live).pages)
    assert "TEST" not in text_of(live)


def is_marked(page: pypdf.PageObject) -> bool:
    """As a word, or as a pattern: wkhtmltopdf tiles the page with a picture."""
    return bool(page["/Resources"].get("/Pattern")) or page.extract_text().replace("TEST Receipt", "").count("TEST") > 0


def test_figures_stand_one_below_the_other_also_where_words_run_to_the_left(engines: Engines) -> None:
    """They end at one place, so the longer begins farther left."""
    snapshot = samples.invoice(samples.terms(2, "ar"))
    amounts = (12_345_678, 131)
    lines = tuple(msgspec.structs.replace(line, amount=to) for line, to in zip(snapshot.lines, amounts, strict=True))
    begins: dict[str, float] = {}

    def visit(text: str, transformed: list[float], placed: list[float], *_: object) -> None:
        if (figure := re.search(r"123,456\.78|(?<![\d,.])1\.31", text)) and figure[0] not in begins:
            begins[figure[0]] = transformed[0] * placed[4] + transformed[4]

    page = reader(draw(engines, request(msgspec.structs.replace(snapshot, lines=lines)))[0]).pages[0]
    page.extract_text(visitor_text=visit)
    assert begins["123,456.78"] + 20 < begins["1.31"]


def test_two_hundred_lines_are_all_there_in_their_order_over_many_pages(engines: Engines) -> None:
    one = request(samples.invoice(samples.terms(200)))
    [pdf] = draw(engines, one)
    assert len(reader(pdf).pages) > 4
    text, place = text_of(pdf), 0
    for line in one.shown.lines:
        place = text.index(bare(line.description), place)
        place = text.index(bare(line.amount), place)


def test_equal_documents_are_equal_files_whoever_draws_them_and_beside_what(engines: Engines) -> None:
    requests = [request(samples.invoice(samples.terms(lines, locale))) for lines, locale in ((3, "en"), (9, "de"))]
    first = draw(engines, *requests)
    assert first == draw(engines, *reversed(requests))[::-1]
    engines.close()
    assert first == draw(engines, *requests)


def test_files_are_dated_as_their_documents_are(engines: Engines) -> None:
    [pdf] = draw(engines, request(samples.receipt(samples.terms(1))))
    info = reader(pdf).metadata
    assert info is not None
    paid_at = samples.receipt(samples.terms(1)).paid_at
    assert paid_at is not None
    assert info.creation_date == paid_at.replace(microsecond=0)


def test_any_moment_can_be_a_files(engines: Engines) -> None:
    """Documents are issued when somebody asks for it: in parts of a second, and wherever the clock stands."""
    moments = [
        datetime.now(UTC),
        datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2027, 1, 1, 0, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),  # when the clocks go forward
    ]
    made = samples.invoice(samples.terms(1))
    for moment, pdf in zip(
        moments, draw(engines, *(RenderRequest(shown(made), moment) for moment in moments)), strict=True
    ):
        info = reader(pdf).metadata
        assert info is not None
        assert info.creation_date == moment.astimezone(UTC).replace(microsecond=0)


SIZES = {"en": "A4", "de-AT": "A4", "en-US": "Letter", "fr_CA": "Letter", "en-GB": "A4"}


def test_paper_is_what_the_country_uses(engines: Engines) -> None:
    asked = [request(samples.invoice(samples.terms(1), locale=locale)) for locale in SIZES]
    asked.append(request(samples.invoice(samples.terms(1), locale="en-US", paper="a4")))
    widths = [round(reader(pdf).pages[0].mediabox.width) for pdf in draw(engines, *asked)]
    assert [{595: "A4", 612: "Letter"}[width] for width in widths] == [*SIZES.values(), "A4"]


def test_what_a_provider_puts_on_the_invoice_besides_is_on_the_page(engines: Engines) -> None:
    """As long as Stripe lets them be."""
    named = {"Purchase order": "PO-2026-0815", "N" * 20 + " of the framework": "one word " * 15, "Ref": "R" * 140}
    fields = tuple(CustomField(name=name, value=value.strip()) for name, value in named.items())
    one = request(msgspec.structs.replace(samples.mirrored(), custom_fields=fields))
    page = text_of(draw(engines, one)[0])
    for name, value in named.items():
        assert bare(name) in page
        assert bare(value) in page
    assert one.shown.ship_to is not None
    for value in (one.shown.ship_to.label, one.shown.ship_to.name, *one.shown.ship_to.lines):
        assert bare(value) in page


@pytest.mark.parametrize("kind", ["receipt", "void", "credit_note"])
def test_every_kind_says_what_it_is(engines: Engines, kind: str) -> None:
    one = request(getattr(samples, kind)(samples.terms(2)))
    text = text_of(draw(engines, one)[0])
    for value in (one.shown.title, one.shown.stamp, one.shown.headline):
        assert bare(value or "") in text


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
def test_the_logo_is_in_the_file(engines: Engines, media_type: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (64, 16), "#0f6e6e").save(content, media_type.partition("/")[2])
    plain = request(samples.invoice(samples.terms(1), pay_url=None))
    one = RenderRequest(plain.shown, plain.dated, Picture(media_type, content.getvalue(), 64, 16))
    without, with_logo = draw(engines, plain, one)
    assert [len(page.images) for page in reader(without).pages] == [0]
    assert [len(page.images) for page in reader(with_logo).pages] == [1]


def test_markup_and_code_in_customers_words_are_words(engines: Engines) -> None:
    snapshot = samples.invoice(samples.terms(2), description=HOSTILE, footer=HOSTILE, number=HOSTILE[:60])
    buyer = msgspec.structs.replace(samples.terms(1).buyer, name=HOSTILE[-80:], email=HOSTILE[:90])
    lines = tuple(msgspec.structs.replace(line, description=HOSTILE) for line in snapshot.lines)
    one = request(msgspec.structs.replace(snapshot, buyer=buyer, lines=lines))
    text = text_of(draw(engines, one)[0])
    for value in (HOSTILE, HOSTILE[:60], HOSTILE[-80:]):
        assert bare(value) in text
    assert "root:" not in text


@pytest.mark.parametrize("odd", ["", "\x00", "\x07\x1b", "W" * 4000, "אבג עברית", "🦄🏳️\u200d🌈", "\ufffe", "<" * 500])
def test_odd_texts_are_drawn_and_spoil_no_neighbour(engines: Engines, odd: str) -> None:
    snapshot = samples.invoice(samples.terms(1))
    seller = msgspec.structs.replace(snapshot.seller, name=odd)
    lines = tuple(msgspec.structs.replace(line, description=odd) for line in snapshot.lines)
    hurt = msgspec.structs.replace(snapshot, seller=seller, lines=lines, footer=odd, number=odd)
    first, drawn, last = draw(engines, request(snapshot), request(hurt), request(snapshot))
    assert isinstance(drawn, bytes)
    assert first == last
    assert "INV-2026-0042" in text_of(first)


def test_typst_draws_unless_somebody_wishes_otherwise() -> None:
    assert choose(wish="auto", setting="auto", own=False) == "typst"
    assert choose(wish="wkhtmltopdf", setting="auto", own=False) == "wkhtmltopdf"


def test_the_operators_setting_goes_before_the_merchants_wish() -> None:
    assert choose(wish="typst", setting="wkhtmltopdf", own=False) == "wkhtmltopdf"
    assert choose(wish="wkhtmltopdf", setting="typst", own=False) == "typst"


def test_a_template_of_the_merchants_needs_wkhtmltopdf_whatever_is_set() -> None:
    assert choose(wish="typst", setting="typst", own=True) == "wkhtmltopdf"


def test_a_batch_for_both_engines_comes_back_in_its_places(wkhtmltopdf: Path) -> None:
    with closing(Engines(wkhtmltopdf=Wkhtmltopdf(wkhtmltopdf))) as engines:
        requests = [request(samples.invoice(samples.terms(1, locale), number=f"N-{locale}")) for locale in ("en", "ar")]
        wishes: list[Engine] = ["wkhtmltopdf", "auto"] * 2
        orders = [engines.route(one, wish=wish) for one, wish in zip([*requests, *requests], wishes, strict=True)]
        assert [order.engine for order in orders] == ["wkhtmltopdf", "typst"] * 2
        drawn = dict(engines.draw(orders))
        assert ["N-en" in text_of(drawn[place]) for place in range(4)] == [True, False, True, False]
        assert ["N-ar" in text_of(drawn[place]) for place in range(4)] == [False, True, False, True]


def test_a_merchants_template_is_drawn_and_a_broken_one_spoils_only_itself(wkhtmltopdf: Path) -> None:
    with closing(Engines(wkhtmltopdf=Wkhtmltopdf(wkhtmltopdf))) as engines:
        plain = request(samples.invoice(samples.terms(1)))
        orders = [
            engines.route(plain),
            engines.route(plain, own="<h1>Ours: {{ document.title }}</h1>"),
            engines.route(plain, own="{{ document.nothing.at.all }}"),
            engines.route(request(samples.invoice(samples.terms(1), livemode=False)), own="<h1>No word of it</h1>"),
        ]
        drawn = dict(engines.draw(orders))
    assert [is_marked(reader(drawn[place]).pages[0]) for place in (1, 3)] == [False, True], "whatever it leaves out"
    assert "INV-2026-0042" in text_of(drawn[0])
    assert text_of(drawn[1]) == "Ours:Invoice"
    assert not isinstance(drawn[2], bytes)
    assert drawn[2].reason


def test_what_needs_a_missing_engine_says_what_to_install(tmp_path: Path) -> None:
    with closing(Engines(wkhtmltopdf=Wkhtmltopdf(tmp_path / "absent"))) as engines:
        plain = request(samples.invoice(samples.terms(1)))
        drawn = dict(engines.draw([engines.route(plain), engines.route(plain, wish="wkhtmltopdf")]))
    assert "INV-2026-0042" in text_of(drawn[0])
    assert drawn[1] == RendererMissing()
