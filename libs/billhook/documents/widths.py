"""How wide text is in our typeface, never less and hardly more than it will be.

Typst could measure it, but what is measured is set twice, and all around it is looked at twice: that took a sixth of
the time of a document.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from unicodedata import east_asian_width, normalize

_GROUPS: Final = {
    0.25: " \xa0\u202f",
    0.31: "',.ijl’",
    0.35: "!():;[]",
    0.41: "-frt{|}",
    0.47: "/I\\",
    0.53: '"?Lcsz',
    0.57: "J_aegovxy",
    0.61: "$*+0123456789<=>EFTZ^`bdhknpqu~−–",
    0.66: "CPSVY€",
    0.73: "#&ABDGHKNOQRUXß",
    0.91: "@Mmw",
    0.98: "%WÆæŒœ",
}
"""How many em a letter takes, in bold, which is the wider."""
_EM: Final = {letter: em for em, letters in _GROUPS.items() for letter in letters}

_MM_A_POINT: Final = 25.4 / 72


@lru_cache(maxsize=4096)  # labels are the same on all documents
def width_of(text: str, points: float) -> float:
    """In mm, on one line, at a size in points."""
    return sum(_EM.get(letter) or _of_other(letter) for letter in text) * points * _MM_A_POINT


@lru_cache(maxsize=1024)
def _of_other(letter: str) -> float:
    """Of what is not listed: a letter with an accent is as wide as without. Another font's may take more."""
    if letter <= "\u024f":
        return _EM.get(normalize("NFD", letter)[0], 0.73)
    return 1.0 if east_asian_width(letter) in "WF" else 0.8
