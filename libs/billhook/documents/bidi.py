"""Text of both directions on one page, and Arabic for an engine that cannot set it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from markupsafe import Markup, escape

_RIGHT_TO_LEFT: Final = re.compile("[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTERS: Final = "[\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u08ff\ufb50-\ufdff\ufe70-\ufefc]"
_ARABIC: Final = re.compile(_LETTERS)
_SCRIPTS: Final = re.compile(f"{_LETTERS}+|(?:(?!{_LETTERS}).)+")
_STRONG: Final = re.compile(r"[^\W\d_]|\u200f")
_SPACES: Final = re.compile(r"(\s+)")
_MARKS: Final = "\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}"


class Text:
    """Writes a value so that it keeps its own direction between words of the other one.

    wkhtmltopdf shifts Arabic letters that share a line with other characters, so that they overlap. So each word is a
    box of its own, and inside it whatever is not a letter is another. The engine does not know the order of boxes
    either: a run of them is given its direction, and the text between two runs is isolated.
    """

    def __init__(self, direction: str) -> None:
        self._rtl = direction == "rtl"

    def __call__(self, value: str) -> Markup | str:
        if not _RIGHT_TO_LEFT.search(value):
            return Markup("<bdi>{}</bdi>").format(value) if self._rtl else value
        strong = _STRONG.search(value.lstrip(_MARKS))
        if strong is None:  # a number with marks around it
            return Markup('<bdi dir="ltr">{}</bdi>').format(value.lstrip(_MARKS))
        direction = "rtl" if _RIGHT_TO_LEFT.match(strong[0]) else "ltr"
        return Markup('<bdi dir="{}">{}</bdi>').format(direction, Markup("").join(_runs(value)))


def _runs(value: str) -> Iterator[Markup]:
    *parts, last = _SPACES.split(value)
    words = [*zip(parts[::2], parts[1::2], strict=True), (last, "")]
    gap = ""
    for arabic, run in groupby(words, key=lambda word: bool(_ARABIC.search(word[0]))):
        yield escape(gap)  # between two runs, where it would be lost inside of one
        *before, (word, gap) = run
        texts = [*(part for pair in before for part in pair), word]
        if arabic:
            yield Markup('<bdi dir="rtl">{}</bdi>').format(Markup("").join(map(_boxed, texts)))
        else:
            yield Markup("<bdi>{}</bdi>").format("".join(text.lstrip(_MARKS) for text in texts))


def _boxed(word: str) -> Markup:
    if not word or word.isspace():
        return escape(word)
    box = Markup('<span class="word">{}</span>')
    parts = _SCRIPTS.findall(word)
    return box.format(word) if len(parts) == 1 else box.format(Markup("").join(map(box.format, parts)))
