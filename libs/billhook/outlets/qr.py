"""A payment address as a QR code, for phones held over paper."""

from __future__ import annotations

from typing import Final

import segno

_LONGEST: Final = 500
"""Bytes. Printed 25 mm wide, the squares of a longer text are below a third of a millimetre: cameras miss them."""

_MASK: Final = 3
"""Which of the eight patterns is laid over the data is a matter of looks. Trying all eight takes four times as long as
the rest, and a renderer has about ten milliseconds for a whole document."""


def qr_svg(text: str) -> str:
    """The code as an `<svg>` element without a size of its own; empty when it could not be read from paper."""
    if len(text.encode()) > _LONGEST:
        return ""
    code = segno.make_qr(text, mask=_MASK)
    svg: str = code.svg_inline(omitsize=True, border=0, svgclass=None, lineclass=None)
    return svg
