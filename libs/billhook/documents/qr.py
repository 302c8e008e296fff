"""A payment address as a QR code."""

from __future__ import annotations

from typing import Any, Final

import zxingcpp

_LONGEST: Final = 500
"""Bytes. Printed 25 mm wide, the squares of a longer text are below a third of a millimetre: cameras miss them."""

_LONGEST_RUN: Final = 9
"""A longer one is drawn in parts."""


def qr_svg(text: str) -> str:
    """The code as an `<svg>` element without a size of its own; empty when it could not be read from paper."""
    if len(text.encode()) > _LONGEST:
        return ""
    # Level M outlives the loss of an eighth of the code: a fold, a stain, a staple.
    code = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.QRCode, ec_level="M")
    image: Any = zxingcpp.write_barcode_to_image(code, scale=1, add_quiet_zones=False)  # its types leave the buffer out
    side = image.shape[0]
    content = bytes(memoryview(image))
    # Each run of squares is a stroke along the middle of its row, and where there are none the pen moves on.
    strokes = b"".join(b"M0 %d.5%b" % (y, content[y * side : (y + 1) * side]) for y in range(side))
    for length in range(_LONGEST_RUN, 0, -1):
        strokes = strokes.replace(b"\x00" * length, b"h%d" % length).replace(b"\xff" * length, b"m%d 0" % length)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">'
        f'<path stroke="#000" d="{strokes.decode()}"/></svg>'
    )
