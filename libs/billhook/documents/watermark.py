"""The mark of a test across every page that wkhtmltopdf draws, whatever template made it.

A merchant's own template says of a document what it likes, and may leave out that it is a test. So the mark is laid
over the page that came out of it, as the background of a box as high as the whole: the engine repeats nothing on each
of its pages by itself. Typst has a way for this, in `document.typ`.
"""

from __future__ import annotations

import base64
from typing import Final

from markupsafe import escape

from billhook.documents.view import ShownTest

_TILE: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="420"><text x="320" y="230" text-anchor="middle"'
    ' transform="rotate(-25 320 210)" font-family="IBM Plex Sans, Noto Sans, DejaVu Sans, sans-serif" font-size="110"'
    ' font-weight="bold" fill="#b3261e" fill-opacity="0.13">{}</text></svg>'
)
"""Less than half as high as a page of any paper, so that none is without."""
_STYLE: Final = (
    "<style>html body {{ position: relative !important; }}"
    ' html body::after {{ content: "" !important; display: block !important; position: absolute !important;'
    " top: 0 !important; right: 0 !important; bottom: 0 !important; left: 0 !important; z-index: 2147483647 !important;"
    " opacity: 1 !important; visibility: visible !important; pointer-events: none;"
    ' background: url("data:image/svg+xml;base64,{}") center top !important; }}</style>'
)


def watermarked(html: str, test: ShownTest | None) -> str:
    """A page with the mark over it; as it is, where it is of no test. What follows its end is taken into it."""
    if test is None:
        return html
    tile = base64.b64encode(_TILE.format(escape(test.mark)).encode()).decode()
    return html + _STYLE.format(tile)
