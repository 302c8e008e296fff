"""Letters that no font of a machine has."""

from __future__ import annotations

import io
import re
import sys
from contextlib import closing

import msgspec
import pypdf
import pytest

from billhook.documents.letters import OURS, Letters
from billhook.documents.typst import Pdf, RenderRequest, TypstRenderer
from billhook.documents.view import Shown, shown
from billhook.documents.wkhtmltopdf import FIXED_DATE
from billhook_testing import samples


def says(text: str) -> Shown:
    return shown(samples.invoice(samples.terms(1), footer=text))


def machine(charsets: str) -> Letters:
    """One with these fonts."""
    return Letters((sys.executable, "-Sc", f"print('''{charsets}''')"))


def test_a_mark_stands_for_what_is_in_no_font() -> None:
    letters = machine("20-7e a0-ff\n\n3b1 30a0-30ff")
    document, unshown = letters.legible(says("Ω カ 漢 ก\u0e49 \u200f\ufe0f\u00a0 漢"))
    assert (document.footer, unshown) == ("Ω カ ? ? \u200f\ufe0f\u00a0 ?", ("漢", "ก\u0e49")), "a letter with its marks"
    assert msgspec.structs.replace(document, footer=None) == msgspec.structs.replace(says(""), footer=None)


@pytest.mark.parametrize("ask", [("/nowhere/fc-list",), (sys.executable, "-Sc", "raise SystemExit(1)")])
def test_where_nobody_can_tell_nothing_is_said_to_be_missing(ask: tuple[str, ...]) -> None:
    document = says("漢")
    assert Letters(ask).legible(document) == (document, ())


def test_nothing_is_asked_for_what_our_typeface_has() -> None:
    ours = "".join(letter for letter in map(chr, range(0x2300)) if re.match(f"[{OURS}]", letter))
    one = says(ours)
    assert machine("").legible(one) == (one, ())
    with closing(TypstRenderer()) as renderer:
        [pdf] = renderer.render([RenderRequest(one, FIXED_DATE)])
    assert isinstance(pdf, Pdf)
    fonts = {
        name["/BaseFont"]
        for page in pypdf.PdfReader(io.BytesIO(pdf)).pages
        for name in page["/Resources"]["/Font"].values()
    }
    assert {font.rpartition("+")[2] for font in fonts} == {"IBMPlexSans", "IBMPlexSans-Bold"}, "nothing is of another"
