"""The live line of `billhook up`: what comes in and goes out, on a terminal alone.

It is read from the processes' own `/metrics`, once a second while something moves, by a thread that does nothing else.
It stands in the last line of the terminal with the cursor before it, so that whatever a process logs is written over it
(`billhook.logs.Readable` clears the rest), and it is drawn again below.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from typing import Final, TextIO

from billhook.runtime.settings import Settings

EVERY_SECONDS: Final = 1.0
SELDOM_SECONDS: Final = 5.0
"""While nothing moves: to ask costs more than to do nothing."""

ANSWER_SECONDS: Final = 1.0

_CLEAR: Final = "\r\033[K"

Figures = Mapping[str, float]

WATCHED: Final[Mapping[str, tuple[str, str, str]]] = {
    "events": ("ingress", "billhook_events_accepted_total", ""),
    "webhooks": ("courier", "billhook_webhook_deliveries_total", 'outcome="2xx"'),
    "documents": ("invoicer", "billhook_documents_rendered_total", 'outcome="ready"'),
    "dead": ("relay", "billhook_dead_letters_open", ""),
}
"""What is shown: the service that measures it, the metric, and which of its series."""


@contextmanager
def live_line(settings: Settings, stream: TextIO = sys.stderr) -> Iterator[None]:
    """Show it while the block runs, where somebody is looking."""
    if not stream.isatty():
        yield
        return
    stopping = threading.Event()
    line = LiveLine(lambda service: _exported(settings, service), stream)
    thread = threading.Thread(target=line.run, args=(stopping,), name="live line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(ANSWER_SECONDS)
        stream.write(_CLEAR)
        stream.flush()


class LiveLine:
    """What it has read so far. Counters begin again with their process, and here they go on."""

    def __init__(
        self,
        read: Callable[[str], str],
        stream: TextIO,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read`: what a service exports; empty where it does not answer."""
        self._read = read
        self._stream = stream
        self._monotonic = monotonic
        self._last: dict[str, float] = {}
        self._totals = dict.fromkeys(WATCHED, 0.0)
        self._at = monotonic()

    def run(self, stopping: threading.Event) -> None:
        pause = EVERY_SECONDS
        while not stopping.wait(pause):
            with suppress(OSError):  # the terminal has gone
                pause = EVERY_SECONDS if self.draw() else min(pause * 1.5, SELDOM_SECONDS)

    def draw(self) -> bool:
        """Ask and say; whether anything has moved."""
        before, began = dict(self._totals), self._at
        self._at = self._monotonic()
        for name, (service, metric, series) in WATCHED.items():
            now = sum_of(self._read(service), metric, series)
            if now is None:
                continue
            if name == "dead":
                self._totals[name] = now
            else:
                last = self._last.get(name, 0.0)
                self._totals[name] += now - last if now >= last else now
                self._last[name] = now
        seconds = max(self._at - began, 0.001)
        rates = {name: (self._totals[name] - before[name]) / seconds for name in WATCHED}
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"{_CLEAR}{said(self._totals, rates)[:width]}\r")
        self._stream.flush()
        return before != self._totals


def said(totals: Figures, rates: Figures) -> str:
    """The line."""

    def moving(name: str) -> str:
        return f"{_short(totals[name])} {name} {_short(rates[name])}/s"

    out = f"{moving('webhooks')}, {moving('documents')}"
    return f"in {moving('events')} · out {out} · {_short(totals['dead'])} dead"


def _short(number: float) -> str:
    """So that the line is never longer than a terminal is wide."""
    if number < 100_000:
        return f"{number:,.0f}"
    return f"{number / 1e3:,.0f}k" if number < 1e6 else f"{number / 1e6:,.1f}M"


def sum_of(exported: str, metric: str, series: str) -> float | None:
    """Of the series of a metric that have this among their labels; None where it is not exported."""
    found = [
        float(line.rpartition(" ")[2])
        for line in exported.splitlines()
        if line.startswith((f"{metric}{{", f"{metric} ")) and series in line
    ]
    return sum(found) if found else None


def _exported(settings: Settings, service: str) -> str:
    connection = HTTPConnection(settings.host, settings.port_of(service), timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
