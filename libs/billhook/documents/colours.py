"""A merchant's colour, and what can be read on it and in it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

INK: Final = "#1f2430"
PAPER: Final = "#ffffff"
_ACCENT: Final = "#2c4a8a"
_READABLE: Final = 4.5
"""The contrast that WCAG 2 (1.4.3, level AA) asks of text."""


def accent(colour: str | None) -> str:
    """The merchant's colour as `#rrggbb`, or ours where there is none."""
    return colour.lower() if colour and re.fullmatch("#[0-9a-fA-F]{6}", colour) else _ACCENT


def ink(colour: str) -> str:
    """The colour where it can be read on paper, and plain ink where it is too light for that."""
    return colour if _contrast(colour, PAPER) >= _READABLE else INK


def ink_on(colour: str) -> str:
    """What can be read on an area of this colour."""
    return max(PAPER, INK, key=lambda other: _contrast(colour, other))


@lru_cache(maxsize=256)
def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours, from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
