"""The document as a page: one template for the browser and for the PDF.

Everything that customers, merchants and providers wrote is text here and never markup: the template escapes all of it,
has no script, and refers to nothing outside itself. The one address in it is the payment page, and that is http or
https.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import jinja2
from markupsafe import Markup

from billhook.documents.bidi import Text
from billhook.documents.built_in import environment
from billhook.documents.qr import qr_svg
from billhook.documents.view import Shown

_LOGO: Final = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")


def document_html(shown: Shown, *, logo: str | None = None) -> str:
    """The document as one self-contained HTML page. `logo` is a picture as a `data:` URI."""
    if logo is not None and not _LOGO.fullmatch(logo):
        raise ValueError("a logo is a PNG or JPEG as a data: URI; the page loads nothing from elsewhere")
    code = Markup(qr_svg(shown.pay_url)) if shown.pay_url else None  # made of modules, not of the address's characters
    return _template(shown.direction).render(document=shown, labels=shown.labels, logo=logo, code=code)


@lru_cache(maxsize=2)
def _template(direction: str) -> jinja2.Template:
    made = environment("billhook.documents")
    made.filters["said"] = Text(direction)  # a function among the values costs three times as much to call
    return made.get_template("document.html")
