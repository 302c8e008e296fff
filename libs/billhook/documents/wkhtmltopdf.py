"""Pages into PDF.

The engine is wkhtmltopdf 0.12.6, an old WebKit that nobody maintains any more, so it is confined: no script, no file
but the page itself, no network, little environment, and a deadline after which it is killed. Many pages go through one
process, since starting it costs five times what drawing a page does; it is always given a few pages more than have been
taken from it.

pdfkit builds the command line. It is never handed a page: pdfkit turns `<meta name="pdfkit-…">` inside a page into
command-line options (CVE-2025-26240), which is how a customer's name could read a server's files. It also waits for the
process without a limit, so the process is run here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pdfkit
from markupsafe import escape

from billhook.documents.pool import Pool
from billhook.rules.document import Paper


@dataclass(frozen=True)
class HtmlPage:
    html: str
    dated: datetime
    """What the PDF says of its making, since the real moment would make every copy a different file."""
    paper: Paper = "a4"


@dataclass(frozen=True)
class RenderError:
    """Why a page did not become a PDF."""

    reason: str
    """In words for the merchant, who sees it: nothing of the machine that it happened on."""
    detail: str = ""
    """What the engine said, paths and all: for the log."""


@dataclass(frozen=True)
class RendererMissing(RenderError):
    """No page can be drawn on this machine until somebody installs the engine; the pages are not at fault."""

    reason: str = "wkhtmltopdf is not installed: apt-get install wkhtmltopdf, then the documents are tried again"


OPTIONS: Final[Mapping[str, str]] = {
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
_OF_PAPER: Final[Mapping[Paper, str]] = {"a4": "", "us-letter": "--page-size Letter "}
"""What a line says of a page besides, which goes before what is said of all."""
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "FONTCONFIG_PATH", "FONTCONFIG_FILE")
"""What the engine needs from ours. Keys and passwords stay here."""

FONTS: Final = Path(__file__).parent / "fonts"
_FONTS_CONF: Final = "/etc/fonts/fonts.conf"

FIXED_DATE: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Of documents that have no date of their own."""

_CREATION_DATE: Final = re.compile(rb"/CreationDate \(D:\d{14}")
_MESSAGE_LIMIT: Final = 500

_DONE: Final = re.compile(rb"\rDone *\n")
"""What the engine says after each page, and nothing else tells that a file is whole. No page can say it: there is no
line break in what it says of pages."""

_PAGES_A_PROCESS: Final = 500
"""It grows by 4 MB in a hundred pages."""

_MEMORY: Final = 768 * 2**20
"""Bytes of data; ten thousand lines take 220 MB, and nineteen kilobytes of a template could take 3 GB. Not of
addresses: WebKit sets a gigabyte of those aside and never uses it."""
_LIMITED: Final = 'ulimit -c 0; ulimit -d "$0" 2>/dev/null; exec "$@"'
"""A shell's, since a limit of this process would be a limit of all its threads. macOS knows none."""

AT_ONCE: Final = min(2, os.cpu_count() or 1)
"""An engine draws on one core. For more, run more invoicers."""


def fonts_conf(configured: str | None = None) -> str:
    """The machine's fonts, and ours."""
    return (
        f'<fontconfig><include ignore_missing="yes">{escape(configured or _FONTS_CONF)}</include>'
        f"<dir>{escape(str(FONTS))}</dir></fontconfig>"
    )


def find_wkhtmltopdf() -> Path | None:
    """The engine on this machine's PATH."""
    found = shutil.which("wkhtmltopdf")
    return Path(found) if found else None


class Wkhtmltopdf:
    """The engine wkhtmltopdf. Equal pages with equal dates give equal bytes.

    A page may take `seconds`. Where the engine overruns them or dies, the page it was at is at fault and the others go
    to a new process; the longest a call can take is thus `seconds` for each page. May be used from any number of
    threads: `AT_ONCE` pages are drawn at a time.
    """

    name: Final = "wkhtmltopdf-0.12.6"

    def __init__(self, binary: Path | None = None, *, seconds: float = 30.0) -> None:
        self._binary = binary
        self._seconds = seconds
        self._pool: Pool[HtmlPage, bytes | RenderError] = Pool(AT_ONCE, self._start, _not_started)

    def find(self) -> Path | None:
        """Where it is; looked for anew each time, so that installing it is all there is to do."""
        binary = self._binary or find_wkhtmltopdf()
        return binary if binary is not None and binary.exists() else None

    def render(self, pages: Sequence[str], dated: Sequence[datetime] = ()) -> list[bytes | RenderError]:
        """One PDF, or the reason there is none, for each HTML page, in order; no page can spoil another."""
        return list(self.draw(map(HtmlPage, pages, dated or [FIXED_DATE] * len(pages))))

    def draw(self, pages: Iterable[HtmlPage]) -> Iterator[bytes | RenderError]:
        """The same, one by one: pages are asked for as the engines get through them."""
        if self.find() is None:
            return (RendererMissing() for _ in pages)
        return self._pool.draw(pages)

    def close(self) -> None:
        self._pool.close()

    def _start(self) -> _Engine:
        binary = self.find()
        if binary is None:
            raise FileNotFoundError("it was there a moment ago")
        return _Engine(binary, self._seconds)


def _not_started(error: OSError) -> RenderError:
    return RenderError("wkhtmltopdf could not be started, or had no room for its files", str(error))


class _Engine:
    """A directory with numbered pages in it, and an engine that draws them in their order."""

    def __init__(self, binary: Path, seconds: float) -> None:
        self._seconds = seconds
        self._directory = tempfile.TemporaryDirectory(prefix="billhook-pdf-")
        self._place = Path(self._directory.name)
        configuration = pdfkit.configuration(wkhtmltopdf=str(binary), meta_tag_prefix=secrets.token_hex())
        kit = pdfkit.PDFKit("", "string", OPTIONS, configuration=configuration, verbose=True)
        *command, _, _ = kit.command()
        self._command = ["/bin/sh", "-c", _LIMITED, str(_MEMORY // 1024), *command]
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        (self._place / "fonts.conf").write_text(fonts_conf(self._environment.get("FONTCONFIG_FILE")), encoding="utf-8")
        self._environment["FONTCONFIG_FILE"] = str(self._place / "fonts.conf")
        self._environment |= {"TZ": "UTC", "XDG_RUNTIME_DIR": str(self._place), "TMPDIR": str(self._place)}
        # Qt seeds its hash tables at random in each process, and a PDF lists its fonts in the order of one: without
        # this, equal pages would be different files.
        self._environment["QT_HASH_SEED"] = "0"
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._pages: dict[int, HtmlPage] = {}
        """Those that are not taken yet."""
        self._added = 0
        self._drawn = 0

    @property
    def fit(self) -> bool:
        return not self.worn and self._process is not None and self._process.poll() is None

    @property
    def worn(self) -> bool:
        """It has drawn so many pages that its memory grew."""
        return self._added >= _PAGES_A_PROCESS

    def add(self, page: HtmlPage) -> None:
        index = self._added
        (self._place / f"{index}.html").write_bytes(page.html.encode("utf-8", "replace"))
        self._pages[index] = page
        self._added += 1
        if self._process is None:
            self._start()
        else:
            self._feed(index)

    def take(self) -> bytes | RenderError:
        """The PDF of the first page that was given to the engine and not taken yet."""
        index = self._drawn
        if self._process is None:
            self._start()
        failed = self._wait(self._seconds)
        self._drawn += 1
        if failed is not None:
            self._end()  # the next page has a new process
        pdf = self._file(index)
        page = self._pages.pop(index)
        for name in (f"{index}.html", f"{index}.pdf"):
            (self._place / name).unlink(missing_ok=True)
        return _stamped(pdf, page.dated) if pdf else failed or RenderError("wkhtmltopdf left a torn file", self._tail())

    def close(self) -> None:
        self._end()
        self._directory.cleanup()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            # The whole group: the engine may stand behind a wrapper script.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            process.__exit__(None, None, None)

    def _start(self) -> None:
        """Start a process, and give it all pages that are not drawn yet."""
        self._process = subprocess.Popen(
            [*self._command, "--read-args-from-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self._place,
            env=self._environment,
            start_new_session=True,
        )
        self._said = b""
        for index in range(self._drawn, self._added):
            self._feed(index)

    def _feed(self, index: int) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # One line is one document. The engine splits a line at spaces and has its own quoting: our names need none.
        with contextlib.suppress(BrokenPipeError):  # the process died: `_wait` says why
            self._process.stdin.write(f"{_OF_PAPER[self._pages[index].paper]}{index}.html {index}.pdf\n".encode())

    def _wait(self, seconds: float) -> RenderError | None:
        """Wait until the engine has drawn one more page; returns the reason if it does not."""
        assert self._process is not None
        assert self._process.stderr is not None
        messages = self._process.stderr.fileno()
        ready = select.poll()  # `select` refuses descriptors above 1023
        ready.register(messages, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not (done := _DONE.search(self._said)):
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                return RenderError(f"not drawn within {seconds:g} s")
            read = os.read(messages, 65536)
            if not read:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(left)
                code = self._process.returncode
                return RenderError("wkhtmltopdf ended and left no document", f"it ended with {code}. {self._tail()}")
            self._said = self._said[-_MESSAGE_LIMIT:] + read
        self._said = self._said[done.end() :]
        return None

    def _tail(self) -> str:
        return self._said[-_MESSAGE_LIMIT:].decode("utf-8", "replace").strip()

    def _file(self, index: int) -> bytes | None:
        """The PDF of a page, if it is whole."""
        try:
            pdf = (self._place / f"{index}.pdf").read_bytes()
        except FileNotFoundError:
            return None
        return pdf if is_whole(pdf) else None


def is_whole(pdf: bytes) -> bool:
    """Whether a file is a PDF from its beginning to its end."""
    return pdf.startswith(b"%PDF-") and pdf[-32:].rstrip().endswith(b"%%EOF")


def _stamped(pdf: bytes, date: datetime) -> bytes:
    # Same length as what it replaces: a PDF's table of objects counts bytes.
    return _CREATION_DATE.sub(
        b"/CreationDate (D:" + date.astimezone(UTC).strftime("%Y%m%d%H%M%S").encode(), pdf, count=1
    )
