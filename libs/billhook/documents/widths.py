"""How wide text is in our typeface, never less and hardly more than it will be.

Typst could measure it, but what is measured is set twice, and all around it is looked at twice: that took a sixth of
the time of a document.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from unicodedata import east_asian_width

_EM: Final = {
    **dict.fromkeys(" \xa0\u202f.,:;'’!|ijl[]()", 0.35),
    **dict.fromkeys('frt{}/\\-I*"', 0.47),
    **dict.fromkeys("MW@%mw", 0.98),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&#", 0.73),
}
"""What is not 0.63 em wide at most, as figures and most letters are. Letters that another font has may take more."""

_MM_A_POINT: Final = 25.4 / 72


@lru_cache(maxsize=4096)  # labels are the same on all documents
def width_of(text: str, points: float) -> float:
    """In mm, on one line, at a size in points."""
    return sum(_EM.get(letter) or _of_other(letter) for letter in text) * points * _MM_A_POINT


def _of_other(letter: str) -> float:
    if letter <= "\u024f" or letter in "€−":
        return 0.63 if letter.islower() or not letter.isalpha() else 0.73
    return 1.0 if east_asian_width(letter) in "WF" else 0.8
