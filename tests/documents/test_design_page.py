"""What docs/design.md says to a designer is so."""

from __future__ import annotations

import re
from pathlib import Path

from billhook.documents import typst
from billhook.documents.view import Shown
from billhook.rules.document import TEMPLATE
from billhook_testing import samples

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design.md").read_text("utf-8")
TEMPLATES = ROOT / "libs/billhook/documents/templates"


def test_it_lists_the_templates() -> None:
    listed = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))
    assert listed == {file.name for file in TEMPLATES.iterdir() if file.suffix in (".html", ".typ")}


def test_it_names_the_fonts_that_both_engines_are_told_of() -> None:
    rows = dict(re.findall(r"^\| (all|Arabic|Japanese|what is left) \| (.*) \|$", PAGE, re.MULTILINE))
    fonts = {script: tuple(names.split(", ")) for script, names in rows.items()}
    assert fonts == {
        "all": typst._FONTS,
        "Arabic": typst._FONTS_OF["ar"],
        "Japanese": typst._FONTS_OF["ja"],
        "what is left": typst._LAST_FONTS,
    }
    page = (TEMPLATES / "document.html").read_text("utf-8")
    assert [font for names in fonts.values() for font in names if font not in page] == []


def test_it_names_the_version_of_the_look_and_samples_that_there_are() -> None:
    assert f"`{TEMPLATE}`" in PAGE
    named = {name for name, _ in samples.samples()} | {f"language-{name}" for name in ("ar",)}
    assert set(re.findall(r"`((?:long|language)-\w+)`", PAGE)) <= named


def test_every_field_of_a_document_is_named_in_the_page_for_templates() -> None:
    words = (ROOT / "docs/invoices.md").read_text("utf-8")
    assert [field for field in Shown.__struct_fields__ if f"`{field}`" not in words] == []
