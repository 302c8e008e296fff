"""The process in which Typst runs: it gets documents over its standard input, and answers with PDFs.

Typst is a library, and what it does to a document cannot be stopped from beside it: not when it takes too long, not
when it takes all memory, not when it crashes. Here it takes only this process with it. Starting one costs a tenth of a
second, keeping it costs 60 MB; a document of 8 lines then takes 10 ms.
"""

from __future__ import annotations

import re
import resource
import signal
import socket
import sys
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import typst

from billhook.documents.clusters import replaced

if TYPE_CHECKING:
    from typst import PDFStandards

MAIN: Final = "document.typ"
DOCUMENT: Final = "document.json"
LOOK: Final = "look.json"
_LARGEST: Final = 3 * 2**30
"""Bytes of addresses. Ten thousand lines take 1 GB; what wants more is refused memory, and ends."""


class Work(msgspec.Struct, frozen=True):
    """One document: the JSON that the template reads, and what is not in it."""

    document: bytes
    look: bytes
    dated: datetime
    archival: bool
    seconds: float
    """How long it may take. A second later this process ends by itself, if nobody is left to end it."""
    picture: tuple[str, bytes] | None = None
    """A file to be laid beside the template."""


class TypstResult(msgspec.Struct, frozen=True):
    pdf: bytes
    error: str
    grown: bool
    """So much memory was taken that this process should end now: Typst keeps what it has once had."""
    unshown: tuple[str, ...] = ()
    """What no font here has; `REPLACEMENT` stands in its place."""


_GROWN: Final = 400 * 2**20

STANDARDS: Final[PDFStandards] = ["a-3b", "ua-1"]
ARCHIVE: Final[PDFStandards] = ["a-3b"]
PLAIN: Final[PDFStandards] = []
_NO_GLYPH: Final = re.compile(r'the text `"(.+?)"` could not be displayed')
_ESCAPED: Final = re.compile(r"\\u\{([0-9a-f]+)\}")
"""How Typst writes what it cannot print."""
REPLACEMENT: Final = "?"


def send(connection: socket.socket, message: Work | TypstResult) -> None:
    body = msgspec.msgpack.encode(message)
    connection.sendall(len(body).to_bytes(8) + body)


def serve(connection: socket.socket, place: Path) -> None:
    """Answer requests until the connection is closed. `place` is the directory with the template."""
    resource.setrlimit(resource.RLIMIT_AS, (_LARGEST, _LARGEST))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fonts = Path(__file__).parent / "fonts"
    compiler = typst.Compiler(
        place / MAIN, root=place, font_paths=[fonts], package_path=place, package_cache_path=place
    )
    decoder = msgspec.msgpack.Decoder(Work)
    stream = connection.makefile("rb")
    while head := stream.read(8):
        work = decoder.decode(stream.read(int.from_bytes(head)))
        signal.setitimer(signal.ITIMER_REAL, work.seconds + 1)  # not handled, so it ends the process
        pdf, error, unshown = _compiled(compiler, place, work)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, TypstResult(pdf, error, _peak() > _GROWN, tuple(unshown)))


def _compiled(compiler: typst.Compiler, place: Path, work: Work) -> tuple[bytes, str, Collection[str]]:
    laid = {LOOK: work.look, **dict(filter(None, [work.picture]))}
    try:
        for name, content in laid.items():
            (place / name).write_bytes(content)
        return _drawn(compiler, place, work)
    except (OSError, ValueError) as error:  # no room for the files, or an argument that Typst refuses
        return b"", str(error), ()
    finally:
        for name in (DOCUMENT, *laid):
            (place / name).unlink(missing_ok=True)


def _drawn(compiler: typst.Compiler, place: Path, work: Work) -> tuple[bytes, str, Collection[str]]:
    """PDF/A-3b and PDF/UA-1. A text with letters that no font here has cannot be either, so a mark stands for each of
    those: an emoji in a name must not hold up an invoice. What PDF/UA alone refuses (a byte order mark within an Arabic
    word) becomes an archive all the same; what neither takes, and need not be one (`archival`), a plain PDF."""
    document, unshown, reason = work.document, list[str](), ""
    for standards in (STANDARDS, ARCHIVE) if work.archival else (STANDARDS, ARCHIVE, PLAIN):
        pdf, reason = _tried(compiler, place, work, document, standards)
        while not pdf and (missing := _missing(reason)):
            document, found = replaced(document, missing, REPLACEMENT)
            if not found:
                break
            unshown += [cluster for cluster in found if cluster not in unshown]
            pdf, reason = _tried(compiler, place, work, document, standards)
        if pdf:
            return pdf, "", unshown
    return b"", reason, unshown


def _missing(reason: str) -> set[str]:
    texts = (_ESCAPED.sub(lambda code: chr(int(code[1], 16)), text) for text in _NO_GLYPH.findall(reason))
    return {text for text in texts if not (text.isascii() and text.isprintable())}


def _tried(
    compiler: typst.Compiler, place: Path, work: Work, document: bytes, standards: PDFStandards
) -> tuple[bytes, str]:
    # A file and no `sys_inputs`: with these Typst makes its whole library anew, a tenth of the time of a document.
    (place / DOCUMENT).write_bytes(document)
    try:
        pdf: Any = compiler.compile(format="pdf", pdf_standards=standards, timestamp=work.dated)
    except typst.TypstError as error:
        return b"", error.diagnostic
    return bytes(pdf), ""


def _peak() -> int:
    """The most memory this process has used, in bytes. `getrusage` counts in kilobytes, except on macOS; on Linux its
    figure is never below the size of the parent process, so that is read from /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]))
