"""Letters that no font of this machine has: a mark stands for each, and the document says so.

Typst refuses to draw them and tells which they are. wkhtmltopdf leaves a blank and says nothing, so what fontconfig
knows of the machine's fonts, from which the engine takes them, is asked before. Most documents are in letters of our
own typeface, and nothing is asked for those.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import unicodedata
from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from billhook.decoding import decode
from billhook.documents.clusters import replaced
from billhook.documents.typst_process import REPLACEMENT
from billhook.documents.view import Shown
from billhook.documents.wkhtmltopdf import fonts_conf

OURS: Final = (
    "!-~\u00a0-\u017f\u0391-\u03a1\u03a3-\u03ce\u0400-\u045f\u1ea0-\u1ef9\u2010-\u2015\u2018-\u201a\u201c-\u201e"
    "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2212"
)
"""Of IBM Plex Sans, what documents are mostly written in."""
_OTHERS: Final = re.compile(rf"[^\s{OURS}]")
_NEVER_DRAWN: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_SELECTORS: Final = ("\ufe00", "\ufe0f")

# In colour alone is not at all: the engine draws outlines.
_ASK: Final = ("fc-list", ":color=false", "--format", "%{charset}\n")
_ALL: Final = "0-10ffff"
_ENVIRONMENT: Final = ("PATH", "HOME", "FONTCONFIG_PATH")
"""What it needs from ours. Keys and passwords stay here."""
_SECONDS: Final = 10.0
_FRESH: Final = 60.0
"""Seconds after which a font that was installed meanwhile is noticed."""


class Letters:
    """What the fonts of this machine have. May be used from several threads."""

    def __init__(self, ask: tuple[str, ...] = _ASK) -> None:
        """`ask` is what is run to be told of them. Where it cannot be, no letter is said to be missing."""
        self._ask = ask
        self._fonts: list[tuple[int, int]] = []
        """The first and last of each range of letters that they have, in their order."""
        self._asked = float("-inf")

    def legible(self, shown: Shown) -> tuple[Shown, tuple[str, ...]]:
        """A document with a mark for what no font has, and what that is."""
        document = msgspec.json.encode(shown)
        others = set(_OTHERS.findall(document.decode()))
        missing = self._missing(others)
        if missing and time.monotonic() > self._asked + _FRESH:
            self._fonts, self._asked = _merged(self._told()), time.monotonic()
            missing = self._missing(others)
        if not missing:
            return shown, ()
        document, found = replaced(document, missing, REPLACEMENT)
        return decode(document, Shown), tuple(found)

    def _missing(self, letters: Iterable[str]) -> set[str]:
        fonts = self._fonts
        return {letter for letter in letters if not _among(fonts, ord(letter)) and _is_drawn(letter)}

    def _told(self) -> str:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as conf:
            conf.write(fonts_conf(os.environ.get("FONTCONFIG_FILE")))
            conf.flush()
            environment["FONTCONFIG_FILE"] = conf.name
            try:
                ran = subprocess.run(self._ask, env=environment, capture_output=True, timeout=_SECONDS, check=True)
            except (OSError, subprocess.SubprocessError):
                return _ALL
        return ran.stdout.decode("ascii", "replace")


def _merged(charsets: str) -> list[tuple[int, int]]:
    """`20-7e a0 …` of many fonts as ranges that do not overlap."""
    ranges: list[tuple[int, int]] = []
    parts = (part.partition("-") for part in set(charsets.split()))
    for first, last in sorted((int(first, 16), int(last or first, 16)) for first, _, last in parts):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


def _among(ranges: Sequence[tuple[int, int]], code: int) -> bool:
    place = bisect(ranges, (code, sys.maxunicode))
    return place > 0 and code <= ranges[place - 1][1]


def _is_drawn(letter: str) -> bool:
    """Whether a letter leaves a trace on paper."""
    first, last = _SELECTORS
    return unicodedata.category(letter) not in _NEVER_DRAWN and not first <= letter <= last
