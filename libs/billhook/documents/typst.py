"""Documents into PDF with Typst: a typesetter that comes as a wheel, so there is nothing else to install.

It repeats the heads of tables, numbers pages, tags what it draws for screen readers and shapes every script it has a
font for. It runs in processes of its own (`typst_process.py`), kept warm, and killed at a deadline. The typeface is
ours (`fonts/`), so a document looks the same on every machine; wide scripts come from the system.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from billhook.documents.qr import qr_svg
from billhook.documents.typst_process import MAIN, TypstResult, Work, send
from billhook.documents.view import Shown, ShownLine
from billhook.documents.widths import width_of
from billhook.documents.wkhtmltopdf import AT_ONCE, RenderError

_FONTS: Final = ("IBM Plex Sans",)
"""Ours, in `fonts/`. What is not in it (wide scripts) comes from the system."""
_FONTS_OF: Final = {
    "ar": ("Noto Sans Arabic", "Noto Naskh Arabic"),
    "ja": ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic"),
    "ko": ("Noto Sans CJK KR", "Noto Sans KR"),
    "zh": ("Noto Sans CJK SC", "Noto Sans SC"),
}
_LAST_FONTS: Final = ("Noto Sans", "DejaVu Sans")

_TEXT: Final = 9.5
"""The size of text in points, as in the template."""
_LABEL: Final = 8.0
_LONG: Final = re.compile("[!-~\u00a1-\u1fff]{25}")
"""What has no spaces and may have to be cut."""
_TOTALS: Final = {"plain": 9.5, "strong": 9.5, "grand": 11.5}

_WIDTH: Final = 180.0
"""What A4 leaves between the margins, in mm; Letter leaves some more."""
_WHOLE: Final = 200.0
"""What is higher than so many mm may be cut: a page holds 250 at most, and what is said here of heights is a guess."""
_QUICK: Final = 200
"""What has fewer letters, and no new line, is low."""

_LOGO_MM: Final = (64.0, 15.0)
"""The most a logo may take, across and up."""

_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "FONTCONFIG_PATH", "FONTCONFIG_FILE")
"""What the process needs from ours. Keys and passwords stay here."""

_RESULT: Final = msgspec.msgpack.Decoder(TypstResult)  # made here: a first use in threads is not safe

_MESSAGE_LIMIT: Final = 500


class Pdf(bytes):
    """A file, and what of its text no font here could show: a mark stands for each of these letters."""

    unshown: tuple[str, ...]

    def __new__(cls, content: bytes, unshown: tuple[str, ...] = ()) -> Pdf:
        made = super().__new__(cls, content)
        made.unshown = unshown
        return made


@dataclass(frozen=True)
class Picture:
    """A logo."""

    media_type: str
    content: bytes
    width: int
    """In pixels, as `height`."""
    height: int


@dataclass(frozen=True)
class RenderRequest:
    """A document to be drawn."""

    shown: Shown
    dated: datetime
    """What the file says of its making; the real moment would make every copy another file. A file counts whole
    seconds, and Typst refuses to be told of parts of one."""
    logo: Picture | None = None
    archival: bool = False
    """It has to be PDF/A-3, for it is to carry an e-invoice. Others are where they can be (`typst_process`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dated", self.dated.astimezone(UTC).replace(microsecond=0))


class TypstRenderer:
    """The engine Typst. Equal requests give equal bytes, with the same fonts.

    A document may take `seconds`. May be used from any number of threads: `AT_ONCE` documents are drawn at a time, each
    in a process of its own, and the others wait for their turn.
    """

    def __init__(self, *, seconds: float = 30.0, command: tuple[str, ...] = ()) -> None:
        """`command` is what is run in place of `typst_process.py`."""
        self._turns = threading.Semaphore(AT_ONCE)
        self.name: Final = f"typst-{version('typst')}"
        self._seconds = seconds
        self._command = command or (sys.executable, "-P", "-m", "billhook.documents.typst_process")
        self._idle: list[_Process] = []

    def render(self, requests: Iterable[RenderRequest]) -> list[bytes | RenderError]:
        """One PDF, or the reason there is none, for each, in order; no document can spoil another."""
        return list(self.draw(requests))

    def draw(self, requests: Iterable[RenderRequest]) -> Iterator[bytes | RenderError]:
        """As `render`, but yields each as soon as it is drawn."""
        return (self._one(work_of(request, self._seconds)) for request in requests)

    def _one(self, work: Work) -> bytes | RenderError:
        with self._turns:
            return self._asked(work)

    def _asked(self, work: Work) -> bytes | RenderError:
        try:
            process = self._taken() or _Process(self._command)
        except OSError as error:
            return RenderError("Typst could not be started", str(error))
        try:
            answer = process.ask(work)
        except TimeoutError:
            process.close()
            return RenderError(f"not drawn within {work.seconds:g} s")
        except (OSError, EOFError, msgspec.DecodeError):
            return RenderError("Typst ended and left no document", process.close())
        if answer.grown:
            process.close()
        else:
            self._idle.append(process)
        if not answer.pdf:
            return RenderError("Typst cannot draw this document", answer.error[:_MESSAGE_LIMIT])
        return Pdf(answer.pdf, answer.unshown)

    def _taken(self) -> _Process | None:
        """An idle process that is still alive; None if there is none."""
        with contextlib.suppress(IndexError):  # no idle one is left
            while True:
                process = self._idle.pop()
                if process.alive:
                    return process
                process.close()
        return None

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class _Process:
    """One process, and the only directory that it may read."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._place = tempfile.mkdtemp(prefix="billhook-typst-")
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._connection, theirs = socket.socketpair()
        try:
            (Path(self._place) / MAIN).write_text(
                files("billhook.documents").joinpath("templates", MAIN).read_text(encoding="utf-8"), encoding="utf-8"
            )
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            # More threads would take the other engine's core and make a page hardly faster.
            environment |= {"TZ": "UTC", "RAYON_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [*command, self._place],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                env=environment,
                start_new_session=True,
            )
        except OSError:
            self._leave()
            raise
        finally:
            theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, work: Work) -> TypstResult:
        deadline = time.monotonic() + work.seconds
        self._connection.settimeout(work.seconds)
        send(self._connection, work)
        return _RESULT.decode(self._read(int.from_bytes(self._read(8, deadline)), deadline))

    def _read(self, size: int, deadline: float) -> bytearray:
        content = bytearray()
        while len(content) < size:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            read = self._connection.recv(min(size - len(content), 2**20))
            if not read:
                raise EOFError
            content += read
        return content

    def close(self) -> str:
        """End the process; returns the end of its standard error."""
        self._process.kill()
        self._process.wait()
        self._messages.seek(max(0, self._messages.seek(0, os.SEEK_END) - _MESSAGE_LIMIT))
        said = self._messages.read().decode("utf-8", "replace").strip()
        self._leave()
        return said

    def _leave(self) -> None:
        self._connection.close()
        self._messages.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._place)


def _columns(shown: Shown) -> list[float]:
    """Of the figures: what they take. Descriptions get the rest. Even where figures are short, the words before the
    totals need some room."""
    labels = shown.labels

    def column(least: float, label: str, figures: Iterable[str], more: float = 0.0) -> float:
        # The longest in letters is the widest, or so near to it that the gap takes up the rest.
        widest = width_of(max(figures, key=len, default=""), _TEXT)
        return max(widest, more, min(30.0, width_of(label, _LABEL)), least) + 4

    lines = shown.lines
    totals = max((width_of(row.amount, _TOTALS[row.strength]) for row in shown.totals), default=0.0)
    columns = [
        column(16, labels.quantity, (line.quantity for line in lines)),
        column(22, labels.unit_price, (line.unit_price for line in lines)),
        column(9, labels.tax, (line.tax for line in lines)),
        column(22, labels.amount, (line.amount for line in lines), totals),
    ]
    return columns if shown.taxed else [*columns[:2], columns[3]]


def _height(text: str, points: float, room: float) -> float:
    """Of a text in so many mm, where a fifth of each row is left empty."""
    rows = sum(1 + int(width_of(row, points) / (0.8 * room)) for row in text.split("\n"))
    return rows * points * 0.466  # mm, with what is between rows


def _tall_text(text: str, points: float, room: float) -> bool:
    """Whether no page might hold it."""
    return (len(text) > _QUICK or "\n" in text) and _height(text, points, room) > _WHOLE


def _line_height(line: ShownLine, room: float) -> float:
    return 4 + _height(line.description, _TEXT, room) + sum(_height(note, _LABEL, room) for note in line.notes)


def _tall(lines: Sequence[ShownLine], room: float) -> list[int]:
    """The places of those that no page might hold."""
    asked = (place for place, line in enumerate(lines) if len(line.description) > _QUICK or "\n" in line.description)
    return [place for place in asked if _line_height(lines[place], room) > _WHOLE]


def _facts(shown: Shown) -> dict[str, float]:
    """How much room the facts' labels and values take. Dates stay whole, and what else is long goes on below."""
    values = [28.0]
    for fact in shown.facts:
        dates = [width_of(part, _TEXT) for part in fact.value.split(" ") if "\xa0" in part]
        values.append(max(dates, default=0.0) or min(width_of(fact.value, _TEXT), 36.0))
    value = min(max(values), 56.0)
    label = max((width_of(fact.label, _TEXT) for fact in shown.facts), default=0.0)
    return {"label": min(label, 36.0, max(84.0 - 3 - value, 24.0)), "value": value}


def _kept(shown: Shown, columns: list[float], room: float) -> int | None:
    """How many of the last lines stay with the totals: two, if a page holds them. None where it does not even hold the
    totals."""
    beside = sum(columns[:-1]) - 4
    height = sum(3.5 + _height(row.label, _TOTALS[row.strength], beside) for row in shown.totals)
    for kept in range(3):
        if height > _WHOLE:
            return kept - 1 if kept else None
        if kept == len(shown.lines):
            return kept
        height += _line_height(shown.lines[-1 - kept], room)
    return 2


def _texts(value: Any) -> Iterator[str]:
    """All that a document says."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, msgspec.Struct):
        for one in msgspec.structs.astuple(value):
            yield from _texts(one)


def _headline_size(shown: Shown, *, beside_code: bool) -> float:
    """On one line, if a smaller size makes it fit."""
    room = 180.0 - 10
    if shown.pay_url:
        room -= width_of(shown.labels.pay_online, _TEXT) + 7 + 6
    if beside_code:
        room -= 22 + 6
    return 14 if width_of(shown.headline, 14) <= room else 12


def work_of(request: RenderRequest, seconds: float) -> Work:
    shown = request.shown
    language, *more = shown.language.split("-")
    look: dict[str, Any] = {
        "lang": language,
        "region": next((part for part in more if len(part) == 2 and part.isalpha()), None),
        "fonts": [*_FONTS, *_FONTS_OF.get(language, ()), *_LAST_FONTS],
        "long": any(_LONG.search(text) for text in _texts(msgspec.structs.replace(shown, pay_url=None))),
        "code": (qr_svg(shown.pay_url) or None) if shown.pay_url else None,
        "logo": None,
        "facts": _facts(shown),
        "columns": (columns := _columns(shown)),
    }
    room = max(_WIDTH - sum(columns), 20.0)
    look["kept"] = _kept(shown, columns, room)
    look["tall"] = _tall(shown.lines, room)
    look["tall_notes"] = [place for place, note in enumerate(shown.notes) if _tall_text(note, _TEXT, _WIDTH)]
    look["low_legal"] = len(shown.legal) == 1 and width_of(shown.legal[0], _LABEL) <= _WIDTH
    look["tall_footer"] = _tall_text(shown.footer or "", _LABEL, _WIDTH)
    look["headline"] = _headline_size(shown, beside_code=look["code"] is not None)
    picture = None
    if request.logo is not None:
        logo = request.logo
        scale = min(_LOGO_MM[0] / logo.width, _LOGO_MM[1] / logo.height)
        path = "logo.png" if logo.media_type == "image/png" else "logo.jpg"
        look["logo"] = {"path": path, "width": logo.width * scale, "height": logo.height * scale}
        picture = (path, logo.content)
    encode = msgspec.json.encode
    return Work(encode(shown), encode(look), request.dated, request.archival, seconds, picture)
