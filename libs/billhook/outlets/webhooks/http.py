"""Posting to merchants' endpoints: one deadline over everything, no redirects, and an answer that may be hostile."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp.http_exceptions import PayloadEncodingError
from yarl import URL

from billhook.outlets.webhooks.connections import Connections, new_connection, tls_context
from billhook.outlets.webhooks.resolver import Forbidden, Lookup, Names, VettedResolver
from billhook.rules.addresses import Network, url_refusal
from billhook.rules.delivery import outcome_class

DEADLINE_SECONDS = 15.0
"""For name resolution, connecting, TLS, sending, headers and body together (Standard Webhooks advises 15 to 30 s)."""

CONNECT_SECONDS = 5.0
"""Of these, for a place in the pool, name resolution, TCP and TLS: nobody waits long for where nobody is."""

BODY_LIMIT = 64 * 1024
"""Bytes of an answer that are read; the connection is then closed, however much more would come."""

HEADER_LIMIT = 8 * 1024
"""Bytes of one header, as most servers have it."""

HEADERS_LIMIT = 64
"""Headers in an answer. With the above, a bomb costs half a megabyte, times the requests under way."""

HEADERS_KEPT = 16 * 1024
"""Bytes of an answer's headers that are handed on, names and values."""

ERROR_LIMIT = 500

_EVERY_REQUEST = {"Accept": "*/*", "Accept-Encoding": "identity"}


class Response(msgspec.Struct, frozen=True):
    """How one request ended: with an answer, or with an error and its class."""

    outcome: str
    """`2xx` … `5xx` for a complete answer; else `timeout`, `dns`, `refused` (by billhook: an address it does not
    connect to), `connect`, `tls`, `reset`, `protocol`, `url`."""
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


@dataclass(frozen=True, slots=True)
class Reach:
    """What this installation lets its courier connect to."""

    allowed: tuple[Network, ...] = ()
    """Networks that are allowed although they are private."""
    allow_http: bool = False
    ca_file: Path | None = None
    """Authorities to trust beside the system's."""


@dataclass(slots=True)
class _Answer:
    """What has come of it so far."""

    head: aiohttp.ClientResponse | None = None
    body: bytearray = field(default_factory=bytearray)


class Deadlines:
    """The deadlines of all requests under way, looked at by one timer: a timer for each of them was a twentieth of the
    courier's time. A request ends up to `LOOK_SECONDS` after its deadline."""

    LOOK_SECONDS = 0.05

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._passed: set[asyncio.Task[Any]] = set()
        self._looking = False

    def begin(self, seconds: float) -> asyncio.Task[Any]:
        """This task is cancelled so many seconds from now, unless it comes to its `end` before."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._ends[task] = loop.time() + seconds
        if not self._looking:
            self._looking = True
            loop.call_later(self.LOOK_SECONDS, self._look, loop)
        return task

    def passed(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was its deadline that cancelled the task, and nobody else."""
        if task not in self._passed:
            return False
        self._passed.remove(task)
        return task.uncancel() == 0

    def end(self, task: asyncio.Task[Any]) -> None:
        self._ends.pop(task, None)
        if task in self._passed:  # it ended in another way at that very moment; its next request is not cancelled
            self._passed.remove(task)
            task.uncancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task in [task for task, end in self._ends.items() if end <= now]:
            del self._ends[task]
            self._passed.add(task)
            task.cancel()
        self._looking = bool(self._ends)
        if self._looking:
            loop.call_later(self.LOOK_SECONDS, self._look, loop)


class Poster:
    """A pooled HTTP client. Use within one event loop; `close` it there."""

    def __init__(self, *, connections: int, reach: Reach, lookup: Lookup | None = None) -> None:
        """`connections`: requests under way at most, and how many connections are kept between requests.

        `lookup`: how names become addresses; by c-ares if not given. Raises `SettingsError` if `ca_file` is no use.
        """
        tls = tls_context(reach.ca_file)
        self._reach = reach
        self._names: Names | None = None
        if lookup is None:
            self._names = Names()
            lookup = self._names.lookup
        self._session = aiohttp.ClientSession(
            connector=Connections(VettedResolver(lookup, reach.allowed), reach.allowed, tls, limit=connections),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small answer must not unfold into a large one
            trust_env=False,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=HEADERS_LIMIT,
        )
        self._target = lru_cache(maxsize=10_000)(self._read)
        self._deadlines = Deadlines()

    async def close(self) -> None:
        await self._session.close()
        if self._names is not None:
            await self._names.close()

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Response:
        """Post once. Every way to fail is an answer, none an exception.

        Once, whatever happens: a request that meets a kept connection in the moment its server closes it is a `reset`,
        a failed attempt like any other. Sent again at once it would be an attempt that nobody counted.
        """
        started = time.perf_counter()
        new_connection.set(False)
        answer = _Answer()
        outcome = error = None
        task = self._deadlines.begin(deadline_seconds)
        try:
            await self._exchange(url, headers, body, answer)
        except aiohttp.ConnectionTimeoutError:
            outcome, error = "timeout", f"no connection within {CONNECT_SECONDS:g} s"
        except asyncio.CancelledError:
            if not self._deadlines.passed(task):
                raise
            outcome, error = "timeout", f"no complete answer within {deadline_seconds:g} s"
        except Exception as failure:
            outcome, error = _classified(failure)
            error = _printable(" ".join(error.split()))[:ERROR_LIMIT]
        finally:
            self._deadlines.end(task)
        elapsed = int((time.perf_counter() - started) * 1000)
        head = answer.head
        if head is None:
            return Response(outcome or "protocol", error=error, duration_ms=elapsed, connected=new_connection.get())
        if outcome is None:
            outcome = outcome_class(head.status)
            if not 200 <= head.status < 600:
                outcome, error = "protocol", f"{head.status} is no status to answer with"
        retry_after = head.headers.get("Retry-After")
        return Response(
            outcome,
            head.status,
            error,
            None if retry_after is None else _printable(retry_after),
            _kept(head.raw_headers),
            bytes(answer.body),
            elapsed,
            new_connection.get(),
        )

    def _read(self, text: str) -> URL:
        try:
            url = URL(text)
        except ValueError as error:
            raise aiohttp.InvalidURL(text, str(error)) from None
        # The URL as the client understands it, which is not always as it was written.
        if why := url_refusal(str(url), allowed=self._reach.allowed, allow_http=self._reach.allow_http):
            raise Forbidden(why)
        return url

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, answer: _Answer) -> None:
        head = answer.head = await self._session.post(
            self._target(url), data=body, headers={**_EVERY_REQUEST, **headers}, allow_redirects=False
        )
        content = head.content
        try:
            while len(answer.body) < BODY_LIMIT and not content.at_eof():
                answer.body += await content.read(BODY_LIMIT - len(answer.body))
        finally:
            head.release()  # to the pool if the answer is complete; closed if not, for there may be no end to it


def _classified(error: Exception) -> tuple[str, str]:
    """The outcome that this failure is, and a sentence for whoever looks after the endpoint."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__ or error
    match error:
        case Forbidden():
            return "refused", f"billhook does not connect there: {error}"
        case aiohttp.ClientConnectorDNSError():
            return "dns", f"{error.host} was not found: {error.os_error.strerror}"
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return "url", f"not a URL that can be posted to: {error}"
        case aiohttp.ClientResponseError():
            return "protocol", f"the answer is not HTTP: {error.message}"
    match cause:
        case ssl.SSLCertVerificationError():
            return "tls", f"the certificate is not valid: {cause.verify_message}"
        case ssl.SSLError():
            return "tls", f"TLS failed: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError() | PayloadEncodingError():
            connected = not isinstance(error, aiohttp.ClientConnectorError)
            what = "the answer was complete" if connected else "the TLS handshake was complete"
            return "reset", f"the connection was closed before {what}"
    match error:
        case aiohttp.ClientConnectorError():
            # Not the address, which may be of an inner network that is allowed.
            return "connect", f"no connection: {os.strerror(error.errno) if error.errno else cause}"
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return "reset", f"the connection was lost before the answer was complete: {cause}"
    return "protocol", f"{type(error).__name__}: {error}"


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """`Retry-After` as seconds from `now` (RFC 9110 section 10.2.3: seconds or an HTTP date); None where unreadable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(min(int(header.strip()[:12]), 10**9))
    try:
        at = parsedate_to_datetime(header)
        return max(0.0, (at - now).total_seconds()) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    kept = []
    room = HEADERS_KEPT
    for name, value in headers:
        room -= len(name) + len(value)
        if room < 0:
            break
        kept.append((_readable(name), _readable(value)))
    return tuple(kept)


def _readable(received: bytes) -> str:
    return _printable(received.decode("utf-8", "backslashreplace"))


def _printable(text: str) -> str:
    """Text that any database and terminal takes: what is no character to be seen is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
