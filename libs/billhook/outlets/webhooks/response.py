"""What comes of a request: an answer, or how there was none, as values that any database and terminal takes."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import msgspec

HEADERS_KEPT = 16 * 1024
"""Bytes of an answer's headers that are handed on, names and values."""

ERROR_LIMIT = 500

OUTCOMES: Final = (
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "timeout",
    "dns",
    "refused",
    "connect",
    "tls",
    "reset",
    "protocol",
    "url",
)
"""The first four of complete answers; `refused` by billhook: an address that it does not connect to."""


class Response(msgspec.Struct, frozen=True):
    """How one request ended: with an answer, or with an error and its class."""

    outcome: str
    """One of `OUTCOMES`."""
    status_code: int | None = None
    """Also of an answer that was not complete, so that the outcome alone says what counts."""
    error: str | None = None
    """None for a complete answer, whatever its status."""
    retry_after: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    duration_ms: int = 0
    connected: bool = False
    """Whether a new connection was made for it."""


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """`Retry-After` as seconds from `now` (RFC 9110 section 10.2.3: seconds or an HTTP date); None where unreadable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(min(int(header.strip()[:12]), 10**9))
    try:
        at = parsedate_to_datetime(header)
        # Without a zone it is asctime's format, which every recipient must take, and which is in GMT (section 5.6.7).
        return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=64)
def kept(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[str, str], ...]:
    found = []
    room = HEADERS_KEPT
    for name, value in headers:
        room -= len(name) + len(value)
        if room < 0:
            break
        found.append((readable(name), readable(value)))
    return tuple(found)


def readable(received: bytes) -> str:
    return printable(received.decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """Text that any database and terminal takes: what is no character to be seen is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """A reason as one line of bounded length."""
    return printable(" ".join(text.split()))[:ERROR_LIMIT]
