"""A payment address as a QR code."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree

import zxingcpp

_LONGEST: Final = 500
"""Bytes. Printed 25 mm wide, the squares of a longer text are below a third of a millimetre: cameras miss them."""

_SVG: Final = "{http://www.w3.org/2000/svg}"


def qr_svg(text: str) -> str:
    """The code as an `<svg>` element without a size of its own; empty when it could not be read from paper."""
    if len(text.encode()) > _LONGEST:
        return ""
    # Level M outlives the loss of an eighth of the code: a fold, a stain, a staple.
    code = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.QRCode, ec_level="M")
    drawn = ElementTree.fromstring(zxingcpp.write_barcode_to_svg(code, add_quiet_zones=False))
    side, path = drawn.get("width"), drawn.find(f".//{_SVG}path")
    assert path is not None
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}"><path d="{path.get("d")}"/></svg>'
