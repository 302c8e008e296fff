"""What is said of widths, beside the typeface itself."""

from __future__ import annotations

import msgspec
import pytest
from PIL import ImageFont

from billhook.documents.widths import width_of
from billhook.documents.wkhtmltopdf import FONTS
from billhook.documents.words import languages, words_for
from billhook.rules.money import parse_locale

LATIN = sorted(languages() - {"ar", "ja"})
OTHERS = (
    "€5,706,444,177.86",
    "−60.44",
    "30 de septiembre de 2026",
    "Ærøskøbing, Œuvre & Straße 17",
    "WWW.MAMMUT-MW.EXAMPLE",
)


@pytest.mark.parametrize(("weight", "most"), [("Regular", 1.2), ("Bold", 1.1)])
def test_text_takes_no_more_than_is_said_and_hardly_less(weight: str, most: float) -> None:
    font = ImageFont.truetype(FONTS / f"IBMPlexSans-{weight}.ttf", 1000)
    texts = {text for name in LATIN for text in msgspec.structs.astuple(words_for(parse_locale(name))[1])}
    for text in (*texts, *OTHERS):
        real = font.getlength(text) * 25.4 / 72 / 1000
        assert real <= width_of(text, 1.0) <= real * most + 0.5, text
