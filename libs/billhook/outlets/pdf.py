"""Pages into PDF.

The engine is wkhtmltopdf 0.12.6, an old WebKit that nobody mends any more, so it is given nothing to hurt with: no
script, no file but the page itself, no network, little environment, and a deadline after which it is killed. Many
pages go through one process, since starting it costs five times what drawing a page does.

pdfkit spells the command. It is never handed a page: pdfkit turns `<meta name="pdfkit-…">` inside a page into
command-line options (CVE-2025-26240), which is how a customer's name could read a server's files. It also waits for
the process without a limit, so the process is run here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import pdfkit


@dataclass(frozen=True)
class RenderError:
    """Why a page did not become a PDF."""

    reason: str


@dataclass(frozen=True)
class RendererMissing(RenderError):
    """No page can be drawn on this machine until somebody installs the engine; the pages are not at fault."""

    reason: str = "wkhtmltopdf is not installed: apt-get install wkhtmltopdf, then the documents are tried again"


class Renderer(Protocol):
    """Draws pages. Equal pages with equal dates give equal bytes."""

    @property
    def name(self) -> str:
        """Of the engine, a part of a document's content address."""

    def render(self, pages: Sequence[str], dated: Sequence[datetime] = ()) -> list[bytes | RenderError]:
        """One PDF, or the reason there is none, for each HTML page, in order; no page can spoil another.

        `dated` is what each PDF says of its making, since the real moment would make every copy a different file.
        """


_OPTIONS: Final[Mapping[str, str]] = {
    "page-size": "A4",
    "margin-top": "13mm",
    "margin-bottom": "15mm",
    "margin-left": "8mm",
    "margin-right": "8mm",
    "encoding": "UTF-8",
    "disable-javascript": "",
    "javascript-delay": "0",  # the default waits 200 ms for scripts on every page
    "disable-local-file-access": "",  # the page's own file is let through, nothing else
    "disable-plugins": "",
    "proxy": "http://127.0.0.1:9",  # the discard port: no option turns the network off, but nothing answers there
    "load-error-handling": "ignore",
    "load-media-error-handling": "ignore",
}
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "FONTCONFIG_PATH", "FONTCONFIG_FILE")
"""What the engine needs from ours. Keys and passwords stay here."""

_FIXED_DATE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_CREATION_DATE: Final = re.compile(rb"/CreationDate \(D:\d{14}")
_MESSAGE_LIMIT: Final = 500


def find_wkhtmltopdf() -> Path | None:
    """The engine on this machine's PATH."""
    found = shutil.which("wkhtmltopdf")
    return Path(found) if found else None


class Wkhtmltopdf:
    """The renderer on wkhtmltopdf.

    A page may take `seconds`; a batch gets that once, and `seconds_more` for every page after the first. When a
    batch dies or overruns, the pages it did not finish are drawn one by one, so only those at fault fail. The longest
    a call can take is thus `seconds * (pages + 1) + seconds_more * (pages - 1)`: a lease must be longer.
    """

    name = "wkhtmltopdf-0.12.6"

    def __init__(self, binary: Path | None = None, *, seconds: float = 15.0, seconds_more: float = 1.0) -> None:
        self._binary = binary
        self._seconds = seconds
        self._seconds_more = seconds_more

    def render(self, pages: Sequence[str], dated: Sequence[datetime] = ()) -> list[bytes | RenderError]:
        # Looked for at each call, so that installing it is all there is to do.
        binary = self._binary or find_wkhtmltopdf()
        if binary is None or not binary.exists():
            return [RendererMissing()] * len(pages)
        dates = dated or [_FIXED_DATE] * len(pages)
        try:
            with tempfile.TemporaryDirectory(prefix="billhook-pdf-") as place:
                return self._draw(_Desk(binary, Path(place)), pages, dates)
        except OSError as error:  # no room for the files, or the engine cannot be started
            return [RenderError(f"{binary}: {error}")] * len(pages)

    def _draw(self, desk: _Desk, pages: Sequence[str], dates: Sequence[datetime]) -> list[bytes | RenderError]:
        for index, page in enumerate(pages):
            desk.lay(index, page)
        if len(pages) > 1:
            desk.draw(range(len(pages)), self._seconds + self._seconds_more * (len(pages) - 1))
        drawn: list[bytes | RenderError] = []
        for index, date in zip(range(len(pages)), dates, strict=True):
            pdf, reason = desk.take(index), ""
            if pdf is None:
                reason = desk.draw([index], self._seconds)
                pdf = desk.take(index)
            drawn.append(RenderError(reason) if pdf is None else _stamped(pdf, date))
        return drawn


class _Desk:
    """A directory with numbered pages in it, and the engine to draw them with."""

    def __init__(self, binary: Path, place: Path) -> None:
        self._place = place
        configuration = pdfkit.configuration(wkhtmltopdf=str(binary), meta_tag_prefix=secrets.token_hex())
        *self._command, _, _ = pdfkit.PDFKit("", "string", _OPTIONS, configuration=configuration).command()
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._environment |= {"TZ": "UTC", "XDG_RUNTIME_DIR": str(place), "TMPDIR": str(place)}
        # Qt shuffles its hash tables anew in each process, and a PDF's fonts stand in the order of one.
        self._environment["QT_HASH_SEED"] = "0"

    def lay(self, index: int, page: str) -> None:
        (self._place / f"{index}.html").write_bytes(page.encode("utf-8", "replace"))

    def draw(self, indexes: Sequence[int], seconds: float) -> str:
        """Draw these pages in one process. Returns what there is to say about it, for pages that are then missing."""
        # One line is one document. The engine splits a line at spaces and has its own quoting: our names need none.
        lines = "".join(f"{index}.html {index}.pdf\n" for index in indexes)
        with (
            (self._place / "messages").open("w+b") as messages,
            subprocess.Popen(
                [*self._command, "--read-args-from-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # silent, but its end wakes us at once; a bare wait with a deadline polls
                stderr=messages,
                cwd=self._place,
                env=self._environment,
                start_new_session=True,
            ) as process,
        ):
            try:
                process.communicate(lines.encode(), timeout=seconds)
            except subprocess.TimeoutExpired:
                return f"not drawn within {seconds:g} s"
            finally:
                _end(process)
            messages.seek(0)
            said = messages.read(_MESSAGE_LIMIT).decode("utf-8", "replace").strip()
        return f"wkhtmltopdf ended with {process.returncode} and no document. {said}".strip()

    def take(self, index: int) -> bytes | None:
        """The PDF of a page, if it is whole. The engine's exit code would not tell: a blocked image can make it 1."""
        try:
            pdf = (self._place / f"{index}.pdf").read_bytes()
        except FileNotFoundError:
            return None
        return pdf if pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") else None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # The whole group: the engine may stand behind a wrapper script.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stamped(pdf: bytes, date: datetime) -> bytes:
    # Same length as what it replaces: a PDF's table of objects counts bytes.
    return _CREATION_DATE.sub(
        b"/CreationDate (D:" + date.astimezone(UTC).strftime("%Y%m%d%H%M%S").encode(), pdf, count=1
    )
