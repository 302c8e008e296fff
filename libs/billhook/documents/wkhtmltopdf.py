"""Pages into PDF.

The engine is wkhtmltopdf 0.12.6, an old WebKit that nobody maintains any more, so it is confined: no script, no file
but the page itself, no network, little environment, and a deadline after which it is killed. Many pages go through one
process, since starting it costs five times what drawing a page does; it is always given a few pages more than have been
taken from it. They are pages of one merchant's template, or of our own look: what a page does to the engine meets no
other merchant's.

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
    template: str | None = None
    """The source of the merchant's template that wrote it. What that does to an engine is to meet no other's pages."""


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

_OF_TROUBLE: Final[Mapping[str, str]] = {"log-level": "warn"}
"""What it is told to say. It would say of each page forty times how far it is, and this process would wake for it."""
_LAST_WORDS: Final = 1.0
"""Seconds that an engine has to end, once it left half a PDF."""

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
    """A directory with numbered pages in it, and an engine that draws them in their order, each into a named pipe: its
    end tells that the page is drawn, and no PDF lies on a disk before it is stored."""

    def __init__(self, binary: Path, seconds: float) -> None:
        self._seconds = seconds
        self._directory = tempfile.TemporaryDirectory(prefix="billhook-pdf-")
        self._place = Path(self._directory.name)
        configuration = pdfkit.configuration(wkhtmltopdf=str(binary), meta_tag_prefix=secrets.token_hex())
        kit = pdfkit.PDFKit("", "string", {**OPTIONS, **_OF_TROUBLE}, configuration=configuration, verbose=True)
        *command, _, _ = kit.command()
        self._command = ["/bin/sh", "-c", _LIMITED, str(_MEMORY // 1024), *command]
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        (self._place / "fonts.conf").write_text(fonts_conf(self._environment.get("FONTCONFIG_FILE")), encoding="utf-8")
        self._environment["FONTCONFIG_FILE"] = str(self._place / "fonts.conf")
        self._environment |= {"TZ": "UTC", "XDG_RUNTIME_DIR": str(self._place), "TMPDIR": str(self._place)}
        # Qt asks the machine's print server for its printers before each page. Here is none.
        self._environment["CUPS_SERVER"] = str(self._place / "no-printers")
        # Qt seeds its hash tables at random in each process, and a PDF lists its fonts in the order of one: without
        # this, equal pages would be different files.
        self._environment["QT_HASH_SEED"] = "0"
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = -1
        """Where the process says what troubles it."""
        self._said = b""
        self._pages: dict[int, HtmlPage] = {}
        """Those that are not taken yet."""
        self._pipes: dict[int, int] = {}
        """Of these pages, as far as a process was given them: where their PDFs are read."""
        self._template: str | None = None
        self._added = 0
        self._drawn = 0

    @property
    def fit(self) -> bool:
        return not self.worn and self._process is not None and self._process.poll() is None

    @property
    def worn(self) -> bool:
        """It has drawn so many pages that its memory grew."""
        return self._added >= _PAGES_A_PROCESS

    def takes(self, page: HtmlPage) -> bool:
        """Pages of one template, or of none, are drawn by one process and lie in one directory."""
        return page.template == self._template

    def add(self, page: HtmlPage) -> None:
        self._template = page.template
        index = self._added
        with open(f"{self._place}/{index}.html", "wb") as file:
            file.write(page.html.encode("utf-8", "replace"))
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
        drawn = self._wait(index)
        self._drawn += 1
        if isinstance(drawn, RenderError):
            self._end()  # the next page has a new process
        page = self._pages.pop(index)
        os.close(self._pipes.pop(index))
        for name in (f"{index}.html", f"{index}.pdf"):
            os.unlink(f"{self._place}/{name}")
        return drawn if isinstance(drawn, RenderError) else _stamped(drawn, page.dated)

    def close(self) -> None:
        self._end()
        while self._pipes:
            os.close(self._pipes.popitem()[1])
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
        assert self._process.stderr is not None
        self._messages, self._said = self._process.stderr.fileno(), b""
        for index in range(self._drawn, self._added):
            self._feed(index)

    def _feed(self, index: int) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        pipe = f"{self._place}/{index}.pdf"
        if index in self._pipes:  # from a process that ended, which may have written into it
            os.close(self._pipes.pop(index))
            os.unlink(pipe)
        os.mkfifo(pipe, 0o600)
        # Opened before the engine does so, which would wait for that.
        self._pipes[index] = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        # One line is one document. The engine splits a line at spaces and has its own quoting: our names need none.
        with contextlib.suppress(BrokenPipeError):  # the process died: `_wait` says why
            self._process.stdin.write(f"{_OF_PAPER[self._pages[index].paper]}{index}.html {index}.pdf\n".encode())

    def _wait(self, index: int) -> bytes | RenderError:
        """Read the PDF of a page until the engine is through with it; returns the reason if it never is."""
        messages, pipe, pdf = self._messages, self._pipes[index], bytearray()
        ready = select.poll()  # `select` refuses descriptors above 1023
        # In this order, in which they are looked at: an engine that has ended has written what it wrote.
        for descriptor in (messages, pipe):
            ready.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + self._seconds
        while (left := deadline - time.monotonic()) > 0:
            told = dict(ready.poll(left * 1000))
            read = os.read(pipe, 65536) if pipe in told else b""
            if read:
                pdf += read
            elif pdf and pipe in told:
                return bytes(pdf) if is_whole(pdf) else self._ended()
            elif messages in told:
                if not self._listen():
                    return self._ended()
            elif told:  # elsewhere than on Linux a pipe that nobody has opened yet is at its end, too
                time.sleep(0.001)
        return RenderError(f"not drawn within {self._seconds:g} s")

    def _listen(self) -> bool:
        """Take in what the engine says; False if it will say no more."""
        read = os.read(self._messages, 65536)
        self._said = self._said[-_MESSAGE_LIMIT:] + read
        return bool(read)

    def _ended(self) -> RenderError:
        """Of an engine that left no whole PDF: it is dead, or is dying."""
        assert self._process is not None
        ready = select.poll()
        ready.register(self._messages, select.POLLIN)
        until = time.monotonic() + _LAST_WORDS
        while (left := until - time.monotonic()) > 0 and ready.poll(left * 1000) and self._listen():
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(left, 0))
        code = self._process.returncode
        return RenderError("wkhtmltopdf ended and left no document", f"it ended with {code}. {self._tail()}")

    def _tail(self) -> str:
        return self._said[-_MESSAGE_LIMIT:].decode("utf-8", "replace").strip()


def is_whole(pdf: bytes | bytearray) -> bool:
    """Whether a file is a PDF from its beginning to its end."""
    return pdf.startswith(b"%PDF-") and pdf[-32:].rstrip().endswith(b"%%EOF")


def _stamped(pdf: bytes, date: datetime) -> bytes:
    # Same length as what it replaces: a PDF's table of objects counts bytes.
    return _CREATION_DATE.sub(
        b"/CreationDate (D:" + date.astimezone(UTC).strftime("%Y%m%d%H%M%S").encode(), pdf, count=1
    )
