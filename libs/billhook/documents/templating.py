"""Merchants' own templates.

They are Jinja, and get the document as plain data (`document`, the fields of `view.Shown`, and `document.pay_qr`, an
`<svg>`) and the logo as a `data:` URI (`logo`). Whatever a template does, it does in a process of its own
(`sandbox`), and the markup it makes goes to a PDF engine that reaches neither files nor the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from billhook.documents.qr import qr_svg
from billhook.documents.sandbox import CPU_SECONDS
from billhook.documents.view import Shown
from billhook.documents.wkhtmltopdf import RenderError

_STARTING: Final = 20.0
_BUSY: Final = 3
"""So much longer than on a machine of its own may a page take where others work too."""

_KILLED: Final = {"error": "it took more work or more memory than a page may"}
_LATE: Final = {"error": "the machine was too busy to finish it in time"}

OwnPage = tuple[str, Shown, str | None]
"""A template's source, what to show, and the logo."""


def check_template(source: str) -> None:
    """Refuse a template that cannot work. Raises ValueError with the line and what is wrong there."""
    [answer] = _run([source], [{"template": 0}], time.monotonic() + _STARTING + _BUSY * CPU_SECONDS, CPU_SECONDS) or [
        _KILLED
    ]
    if "error" in answer:
        raise ValueError(f"The template cannot be used: {answer['error']}.")


def own_html(pages: Sequence[OwnPage], *, seconds: int = CPU_SECONDS) -> list[str | RenderError]:
    """Each document as its merchant's template writes it, or why it could not, in order.

    A page that breaks a limit delays the others and does nothing else to them. The other pages of its template are not
    tried, since they would use up as much. `seconds` of the processor's time are for each page; by the clock it may be
    three times that, and the longest a call can take is 20 s more than all pages may.
    """
    templates = list(dict.fromkeys(source for source, _, _ in pages))
    asked = [
        {"template": templates.index(source), "document": _plain(document), "logo": logo}
        for source, document, logo in pages
    ]
    until = time.monotonic() + _STARTING + _BUSY * seconds * len(pages)
    done: dict[int, dict[str, Any]] = {}
    while left := [place for place in range(len(pages)) if place not in done]:
        done |= zip(left, _run(templates, [asked[place] for place in left], until, seconds), strict=False)
        if at_fault := [place for place in left if place not in done][:1]:
            late = time.monotonic() >= until
            done |= {
                place: _LATE if late else _KILLED
                for place in left
                if place not in done and (late or asked[place]["template"] == asked[at_fault[0]]["template"])
            }
    return [
        answer["html"] if "html" in answer else RenderError(f"the merchant's template failed: {answer['error']}")
        for _, answer in sorted(done.items())
    ]


def _plain(document: Shown) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain | {"pay_qr": qr_svg(document.pay_url) if document.pay_url else ""}


def _run(templates: Sequence[str], asked: Sequence[dict[str, Any]], until: float, seconds: int) -> list[dict[str, Any]]:
    """The answers of the process: fewer than requested if it was killed or ran out of time."""
    with tempfile.TemporaryFile() as questions, tempfile.TemporaryFile() as answers:
        for line in (templates, *asked):
            questions.write(json.dumps(line).encode() + b"\n")
        questions.seek(0)
        with subprocess.Popen(
            [sys.executable, "-I", "-m", "billhook.documents.sandbox", str(seconds)],
            stdin=questions,
            stdout=answers,
            stderr=subprocess.PIPE,  # read because its end wakes us at once; `wait` with a timeout polls
            env={},
            cwd=tempfile.gettempdir(),
        ) as process:
            try:
                process.communicate(timeout=max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                pass
            finally:
                process.kill()
        answers.seek(0)
        # The last line may be cut off in the middle.
        return [json.loads(line) for line in answers if line.endswith(b"\n")]
