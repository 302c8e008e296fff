"""Logs: one line a unit of work, on standard error. Payloads and secrets never appear in them.

Lines are JSON, and in a terminal text that people read. Their keys are stable: `ts`, `level`, `service`, `event`, and
what the event is about. At `info` there is a line for each unit of work that ended (accepted, processed, delivered,
ready, sent, retry, dead …); `event_id` follows what came in from its POST to its last delivery.

Made with the standard library: importing structlog takes a third of a second and 18 MB in every process.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

STILL_SECONDS: Final = 10.0
"""How often an outage that goes on is said again."""


class JsonLines(logging.Formatter):
    """For machines."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
        }
        line.update(_about(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()  # a third of the time of a line is saved
        except UnicodeEncodeError:  # half a surrogate pair, from hostile JSON
            return json.dumps(line, default=str)


class Readable(logging.Formatter):
    """For a terminal."""

    _COLOURS: Final = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        colour = self._COLOURS.get(record.levelname, "0")
        about = "  ".join(f"\033[2m{key}=\033[22m{value}" for key, value in _about(record).items())
        # The live line of `billhook up` may stand there.
        line = (
            f"\033[K\033[2m{at}\033[22m \033[{colour}m{self._service:<11}{record.getMessage()}\033[0m  {about}".rstrip()
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _about(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def set_up(service: str, level: str) -> None:
    """Send this process's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Readable(service) if sys.stderr.isatty() else JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Where a line was written, and by which thread, process and task, is in none of them: found out, that was a third
    # of what a line costs.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # dramatiq reports every lost connection as critical with a trace; ours say what it means.
    logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class Outage:
    """Something that may be away: its reason is said once, then how often it failed every ten seconds, and when it is
    back. Whoever uses it says when it failed and when it worked."""

    def __init__(self, log: logging.Logger, what: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._what = what
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said_at = float("-inf")
        self._said = False
        """Whether this outage was spoken of: one that begins right after another, and is as soon over, is not."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        now = self._monotonic()
        with self._lock:
            self._failures += 1
            if self._since is None:
                self._since, self._said = now, False
            if now - self._said_at < STILL_SECONDS:
                return
            if self._said:
                self._log.error("%s is still away", self._what, extra=self._figures(now, self._since))
            else:
                self._log.error("%s is away", self._what, extra={"reason": reason[:500]})
            self._said, self._said_at = True, now

    def worked(self) -> None:
        if self._since is None:
            return
        with self._lock:
            if self._since is None:
                return
            if self._said:
                figures = self._figures(self._monotonic(), self._since)
                self._log.warning("%s is back", self._what, extra=figures)
            self._since, self._failures = None, 0

    def _figures(self, now: float, since: float) -> dict[str, float]:
        return {"failures": self._failures, "after_seconds": round(now - since, 1)}
