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
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import typst

MAIN: Final = "document.typ"
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


_GROWN: Final = 400 * 2**20

_NO_GLYPH: Final = re.compile(r'the text `"(.+?)"` could not be displayed')
_REPLACED_AT_MOST: Final = 20
"""PDF/A has no boxes for characters that no font can draw, and Typst refuses them. An emoji in a name must not hold up
an invoice, so they become question marks; in other documents they are boxes."""


def send(connection: socket.socket, message: Work | TypstResult) -> None:
    body = msgspec.msgpack.encode(message)
    connection.sendall(len(body).to_bytes(8) + body)


def serve(connection: socket.socket, place: Path) -> None:
    """Until the other side hangs up. `place` holds the template."""
    resource.setrlimit(resource.RLIMIT_AS, (_LARGEST, _LARGEST))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compiler = typst.Compiler(place / MAIN, root=place, package_path=place, package_cache_path=place)
    decoder = msgspec.msgpack.Decoder(Work)
    stream = connection.makefile("rb")
    while head := stream.read(8):
        work = decoder.decode(stream.read(int.from_bytes(head)))
        signal.setitimer(signal.ITIMER_REAL, work.seconds + 1)  # nobody handles it: it ends the process
        pdf, error = _compiled(compiler, place, work)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, TypstResult(pdf, error, _peak() > _GROWN))


def _compiled(compiler: typst.Compiler, place: Path, work: Work) -> tuple[bytes, str]:
    picture = place / work.picture[0] if work.picture else None
    document = work.document.decode()
    standards: Literal["a-3b"] | None = "a-3b" if work.archival else None
    try:
        if picture and work.picture:
            picture.write_bytes(work.picture[1])
        for _ in range(_REPLACED_AT_MOST):
            inputs = {"document": document, "look": work.look.decode()}
            try:
                pdf: Any = compiler.compile(
                    format="pdf", sys_inputs=inputs, pdf_standards=standards, timestamp=work.dated
                )
                return bytes(pdf), ""
            except typst.TypstError as error:
                reason = " ".join([str(error), *error.hints])
                missing = _NO_GLYPH.search(reason)
                if missing is None or missing[1].isascii():
                    break
                document = document.replace(missing[1], "?")
    except (OSError, ValueError) as error:  # no room for the logo, or Typst takes an argument for wrong
        reason = str(error)
    finally:
        if picture:
            picture.unlink(missing_ok=True)
    return b"", reason


def _peak() -> int:
    """Bytes; the system counts in kilobytes, but for macOS. What `getrusage` says on Linux began with the size of the
    process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]))
