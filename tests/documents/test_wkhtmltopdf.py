"""The real PDF engine: what it draws, what it cannot be made to do, and what happens when it fails."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pypdf
import pytest
from documents.canary import SECRET, canary

from billhook.documents.page import document_html
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import HtmlPage, RendererMissing, RenderError, Wkhtmltopdf
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import Seller
from billhook.rules.invoice import snapshot_of
from billhook_testing import samples

__all__ = ["canary"]

MakeInvoice = Callable[..., Invoice]


def page_of(invoice: Invoice, locale: str = "en") -> str:
    return document_html(shown(snapshot_of(invoice, kind="invoice", seller=Seller(name="Acme Cloud"), locale=locale)))


def text_of(pdf: bytes | RenderError) -> str:
    assert isinstance(pdf, bytes), pdf
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages).split())


def plain(text: str) -> str:
    return f"<!DOCTYPE html><html><head><meta charset=utf-8></head><body><p>{text}</p></body></html>"


@pytest.fixture
def renderer(wkhtmltopdf: Path) -> Iterator[Wkhtmltopdf]:
    with closing(Wkhtmltopdf(wkhtmltopdf)) as renderer:
        yield renderer


def test_the_pdf_says_what_the_page_says(renderer: Wkhtmltopdf, make_invoice: MakeInvoice) -> None:
    [pdf] = renderer.render([page_of(make_invoice(currency="eur"), locale="de")])
    text = text_of(pdf)
    for said in ("ACME-2026-0042", "Acme Cloud", "Müller & Söhne", "Service 1", "20,02", "62,86", "31. März 2026"):
        assert said in text


def test_short_labels_stay_on_one_line(renderer: Wkhtmltopdf) -> None:
    """Beside a long value, and over a narrow column."""
    asked = (samples.mirrored(), samples.invoice(samples.terms(1), locale="pt-BR"))
    beside, narrow = map(lines_of, renderer.render([document_html(shown(snapshot)) for snapshot in asked]))
    assert "Purchase order" in beside
    assert "Imposto" in narrow


def lines_of(pdf: bytes | RenderError) -> str:
    assert isinstance(pdf, bytes), pdf
    return pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text().replace("\t", " ")


def test_a_long_invoice_has_all_its_lines_and_cuts_none_in_two(
    renderer: Wkhtmltopdf, make_invoice: MakeInvoice
) -> None:
    [pdf] = renderer.render([page_of(make_invoice(lines=120))])
    assert isinstance(pdf, bytes)
    pages = [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]
    assert len(pages) > 2
    for page in pages:
        # The name and the period of a line stand together, so each page has as many of the one as of the other.
        periods = page.count("Mar 1, 2026 – Apr 1, 2026") - (page is pages[0])  # which says that of the whole, too
        assert page.count("Service ") + page.count("Unused time") == periods
    assert sum(page.count("Service ") for page in pages) == 96


def test_a_batch_draws_exactly_what_singles_draw(renderer: Wkhtmltopdf, make_invoice: MakeInvoice) -> None:
    pages = [page_of(make_invoice(lines=1 + number, number=f"N-{number}")) for number in range(20)]
    batch = renderer.render(pages)
    assert batch == [renderer.render([page])[0] for page in pages]
    assert all(f"N-{number}" in text_of(pdf) for number, pdf in enumerate(batch))


def test_a_pdf_is_dated_as_told(renderer: Wkhtmltopdf) -> None:
    day = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    first, second = renderer.render([plain("one"), plain("two")], [day, datetime(2025, 1, 1, tzinfo=UTC)])
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    info = pypdf.PdfReader(io.BytesIO(first)).metadata
    assert info is not None
    assert info.creation_date == day
    assert b"D:20250101000000" in second


def leaks(url: str, secret: Path) -> list[str]:
    """Every way known to make the engine load something."""
    targets = (url, secret.as_uri())
    return [
        *(f"<img src='{target}/img'>" for target in targets),
        *(f"<iframe src='{target}' width=500 height=300></iframe>" for target in targets),
        *(f"<object data='{target}' type='text/html' width=500 height=300></object>" for target in targets),
        *(f"<embed src='{target}' type='text/html' width=500 height=300>" for target in targets),
        *(f"<link rel=stylesheet href='{target}'>" for target in targets),
        *(f"<style>@import url('{target}'); body {{ background: url('{target}') }}</style>" for target in targets),
        *(f"<meta http-equiv=refresh content='0; url={target}'>" for target in targets),
        *(f"<script>document.location = '{target}'</script>" for target in targets),
        *(f"<video src='{target}' poster='{target}'></video><audio src='{target}'></audio>" for target in targets),
        *(
            f"<svg xmlns:xlink='http://www.w3.org/1999/xlink'><image xlink:href='{target}'/></svg>"
            for target in targets
        ),
        "<meta name='pdfkit-enable-local-file-access' content=''>"
        f"<meta name='pdfkit-proxy' content='None'><iframe src='{secret.as_uri()}' width=500 height=300></iframe>",
        f'<meta name="pdfkit-cover" content="{secret}"><meta name="pdfkit-run-script" content="x">',
        "<iframe src='0.html'></iframe><iframe src='messages'></iframe>",
    ]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def test_raw_markup_reaches_neither_network_nor_files_nor_its_neighbours(
    renderer: Wkhtmltopdf, canary: tuple[str, list[str]], secret: Path
) -> None:
    url, calls = canary
    neighbour, *drawn = renderer.render([plain(SECRET), *map(plain, leaks(url, secret))])
    assert SECRET in text_of(neighbour)  # so the engine draws it where it may
    assert all(isinstance(pdf, bytes) for pdf in drawn)
    assert not any(SECRET in text_of(pdf) for pdf in drawn)
    assert calls == []


def test_no_print_server_is_asked_for_its_printers(
    wkhtmltopdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qt does so before each page, be there one or not."""
    with socket.create_server(("127.0.0.1", 0)) as server, closing(Wkhtmltopdf(wkhtmltopdf, seconds=10)) as renderer:
        (tmp_path / ".cups").mkdir()
        (tmp_path / ".cups/client.conf").write_text(f"ServerName 127.0.0.1:{server.getsockname()[1]}\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        renderer.render([plain("one")])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_markup_in_a_customers_words_is_drawn_as_words(
    renderer: Wkhtmltopdf, canary: tuple[str, list[str]], secret: Path, make_invoice: MakeInvoice
) -> None:
    url, calls = canary
    evil = leaks(url, secret)
    [pdf] = renderer.render([page_of(make_invoice(description="\n".join(evil), customer_name=evil[-3]))])
    text = text_of(pdf)
    assert SECRET not in text
    assert "<iframe src=" in text
    assert "pdfkit-enable-local-file-access" in text
    assert calls == []


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def ends(pid: int) -> bool:
    """Wait until a process is gone, or only its name is left for its parent to read."""
    try:
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=0.1)
    except psutil.NoSuchProcess:
        pass
    return True


def test_an_engine_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    binary = script(tmp_path / "engine", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    drawn = Wkhtmltopdf(binary, seconds=0.5).render([plain("one")])
    assert drawn == [RenderError("not drawn within 0.5 s")]
    assert ends(int((tmp_path / "child").read_text()))


@pytest.fixture
def mortal(wkhtmltopdf: Path, tmp_path: Path) -> Iterator[Wkhtmltopdf]:
    """An engine that dies at the page with POISON in it, and hangs at the one with SLEEP."""
    body = f"""
while read -r source target; do
  if grep -q POISON "$source"; then printf '%%PDF-1.4 torn' > "$target"; echo 'a crash' >&2; kill -9 $$; fi
  if grep -q SLEEP "$source"; then sleep 600; fi
  echo "$source $target" | {wkhtmltopdf} "$@" || exit 1
done"""
    with closing(Wkhtmltopdf(script(tmp_path / "engine", body), seconds=5)) as renderer:
        yield renderer


def test_one_page_that_kills_the_engine_does_not_spoil_the_batch(mortal: Wkhtmltopdf) -> None:
    first, poisoned, *rest = mortal.render(list(map(plain, ["first", "POISON", "third", "POISON", "last"])))
    assert text_of(first) == "first"
    assert (text_of(rest[0]), text_of(rest[2])) == ("third", "last")
    assert isinstance(poisoned, RenderError)
    assert isinstance(rest[1], RenderError)
    assert "a crash" in poisoned.detail


def test_an_engine_that_ends_without_a_word_is_known_at_once_and_what_it_drew_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It draws one page, and ends over the next without a byte of it."""
    body = """
read -r source target; printf '%%PDF-1.4 drawn %%%%EOF' > "$target"
read -r source target; : > "$target"; exit 3"""
    monkeypatch.setattr("billhook.documents.wkhtmltopdf.AT_ONCE", 1)
    with closing(Wkhtmltopdf(script(tmp_path / "engine", body), seconds=600)) as renderer:
        first, second, third = renderer.render([plain("first"), plain("second"), plain("third")])
    assert first == third == b"%PDF-1.4 drawn %%EOF"
    assert second == RenderError("wkhtmltopdf ended and left no document", "it ended with 3. ")


def test_pages_of_two_merchants_templates_never_meet_in_a_process(tmp_path: Path) -> None:
    """Each process says what it was given to draw, and what else lay in its directory."""
    body = f"""
while read -r source target; do
  echo "$$ $(cat *.html)" >> {tmp_path}/seen
  printf '%%PDF-1.4 %%%%EOF' > "$target"
done"""
    templates = ["one", None, "two", "one", None] * 4
    pages = [HtmlPage(f"<{template}>", datetime.now(UTC), template=template) for template in templates]
    with closing(Wkhtmltopdf(script(tmp_path / "engine", body))) as renderer:
        assert list(renderer.draw(pages)) == [b"%PDF-1.4 %%EOF"] * len(pages)
    seen: dict[str, set[str]] = {}
    for line in (tmp_path / "seen").read_text().splitlines():
        process, drawn = line.split()
        seen.setdefault(process, set()).update(drawn.replace("><", "> <").split())
    assert {len(names) for names in seen.values()} == {1}
    assert set.union(*seen.values()) == {"<one>", "<two>", "<None>"}


def test_one_page_that_hangs_is_given_up_at_its_deadline_and_the_others_are_drawn(mortal: Wkhtmltopdf) -> None:
    first, hung, last = mortal.render(list(map(plain, ["first", "SLEEP", "last"])))
    assert (text_of(first), text_of(last)) == ("first", "last")
    assert hung == RenderError("not drawn within 5 s")


def test_pages_are_asked_for_as_the_engine_gets_through_them(renderer: Wkhtmltopdf) -> None:
    asked: list[int] = []

    def pages() -> Iterator[HtmlPage]:
        for number in range(40):
            asked.append(number)
            yield HtmlPage(plain(str(number)), datetime(2026, 1, 1, tzinfo=UTC))

    drawn = renderer.draw(pages())
    assert text_of(next(drawn)) == "0"
    assert len(asked) < 10
    assert [text_of(pdf) for pdf in drawn] == [str(number) for number in range(1, 40)]


def test_an_engine_is_kept_for_the_next_batch_and_draws_the_same_as_a_fresh_one(wkhtmltopdf: Path) -> None:
    with closing(Wkhtmltopdf(wkhtmltopdf)) as worn, closing(Wkhtmltopdf(wkhtmltopdf)) as fresh:
        for number in range(5):
            worn.render([plain(f"{number} {text}") for text in ("Ünïcode", "日本語", "plain")])
        assert worn.render([plain("one"), plain("Zwölf")]) == fresh.render([plain("one"), plain("Zwölf")])


def test_a_batch_that_nobody_waits_for_leaves_no_engine_behind(wkhtmltopdf: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    drawn = Wkhtmltopdf(wkhtmltopdf).draw(HtmlPage(plain(str(number)), datetime.now(UTC)) for number in range(20))
    assert isinstance(drawn, Generator)
    assert text_of(next(drawn)) == "0"
    drawn.close()
    assert all(ends(child.pid) for child in psutil.Process().children() if child.pid not in before)


@pytest.mark.parametrize("page", ["", "\x00", "no markup at all", "<html", "\ud800 half a character", "<p>" * 3000])
def test_odd_pages_are_drawn_and_their_neighbours_too(renderer: Wkhtmltopdf, page: str) -> None:
    first, odd, last = renderer.render([plain("first"), page, plain("last")])
    assert (text_of(first), text_of(last)) == ("first", "last")
    assert isinstance(odd, bytes)


def test_no_pages_are_no_work(renderer: Wkhtmltopdf) -> None:
    assert renderer.render([]) == []


def test_where_the_engine_is_missing_every_page_says_what_to_install(tmp_path: Path) -> None:
    drawn = Wkhtmltopdf(tmp_path / "absent").render([plain("one"), plain("two")])
    assert drawn == [RendererMissing()] * 2
    assert "apt-get install wkhtmltopdf" in RendererMissing().reason


def test_an_engine_that_cannot_be_started_is_an_answer_too(tmp_path: Path) -> None:
    binary = tmp_path / "engine"
    binary.write_text("not a program")
    [drawn] = Wkhtmltopdf(binary).render([plain("one")])
    assert isinstance(drawn, RenderError)
    assert str(binary) in drawn.detail
    assert str(binary) not in drawn.reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's data")
def test_a_page_that_takes_all_memory_costs_only_itself(wkhtmltopdf: Path) -> None:
    """Nineteen kilobytes of a template took three gigabytes."""
    swollen = "<p>" * 200 + "<table><tr><td>x</table>" * 400_000
    with closing(Wkhtmltopdf(wkhtmltopdf, seconds=120)) as renderer:
        first, drawn, last = renderer.render([plain("first"), swollen, plain("last")])
    assert (text_of(first), text_of(last)) == ("first", "last")
    assert isinstance(drawn, RenderError)
