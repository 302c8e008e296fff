"""One request on a connection, and its answer: what an ASGI application is called with.

It does what uvicorn's own does in two thirds of the time, which was a third of what an event cost the ingress. Heads
are kept written down, since most answers begin alike, and leave together with what follows them; a body that is all
here is waited for by nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from billhook.runtime.service import ASGIApp

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

JOINED: Final = 16 * 1024
"""Bytes up to which what follows a head is copied behind it: of more, many may wait for one and the same, which as it
is, is there once."""

HEADS_KEPT: Final = 1_000

_NO_NAME: Final = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_NO_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Head(NamedTuple):
    """The head of an answer."""

    lines: bytes
    """Without its end, and without what every answer has."""
    length: int | None
    """Of the body; None: it goes in chunks."""
    closes: bool


_HEADS: Final[dict[tuple[int, tuple[tuple[bytes, bytes], ...]], Head]] = {}


def head_of(status: int, headers: Headers) -> Head:
    """The head with these headers. Raises `ValueError` for what would not be one."""
    given = tuple(headers)
    key = (status, given)
    found = _HEADS.get(key)
    if found is None:
        found = _written(status, given)
        if all(name.lower() != b"set-cookie" for name, _ in given):  # secrets, and never the same again
            if len(_HEADS) >= HEADS_KEPT:
                _HEADS.clear()
            _HEADS[key] = found
    return found


def _written(status: int, headers: Headers) -> Head:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}\r\n".encode()]
    length, closes = None, False
    for given, value in headers:
        name = given.lower()
        if _NO_NAME.search(name) or _NO_VALUE.search(value):
            raise ValueError(f"no header of an answer: {name!r}")
        if name == b"content-length":
            length = int(value)
        elif name == b"connection":
            closes = closes or b"close" in (token.strip() for token in value.lower().split(b","))
        elif name == b"transfer-encoding":
            continue  # what goes without a length goes in chunks
        lines.append(b"%b: %b\r\n" % (name, value))
    return Head(b"".join(lines), length, closes)


def json_answer(status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> tuple[Headers, bytes]:
    """An answer in place of the application's: its headers, and its body."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    given = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    return given, body


CLOSE: Final = (b"connection", b"close")
RETRY: Final = (b"retry-after", b"1")


class Connection(Protocol):
    """Where a request came from: see `connections.py`."""

    tasks: set[asyncio.Task[None]]
    flow: FlowControl

    def write(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def lines_of_all(self) -> bytes:
        """The headers that every answer has."""

    def head_waits(self, cycle: RequestCycle) -> None:
        """Its head is to be flushed when the loop comes by."""

    def on_response_complete(self) -> None: ...
    def was_cut_off(self) -> None: ...


class RequestCycle:
    """One request and its answer."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_event",
        "_expects_word",
        "_head",
        "_left",
        "_news",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "task",
    )

    def __init__(self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool, expects_word: bool) -> None:
        """`expects_word`: the client sends the body once it has heard that it may (100)."""
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self._expects_word = expects_word
        self.task: asyncio.Task[None] | None = None
        self._body: bytes | bytearray = b""
        """What has come and was not received yet."""
        self.more_body = True
        self._news = False
        """Whether something has happened that `receive` has not told."""
        self._event: asyncio.Event | None = None
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._head = b""
        """What is still to be sent of it."""
        self._chunked = False
        self._left: int | None = 0
        """Bytes of the body that are to follow; None: until the connection ends."""

    def add(self, body: bytes) -> int:
        """More of the body has come; how many bytes wait to be received."""
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        self.tell()
        return len(self._body)

    def tell(self) -> None:
        """Let whoever receives look."""
        self._news = True
        if self._event is not None:
            self._event.set()

    def disconnect(self) -> None:
        """The client has gone, or hears nothing more of this."""
        if not self.response_complete:
            self.disconnected = True
        self.tell()

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                log.error("the application did not answer")
                await self._fail()
        except asyncio.CancelledError:
            # By the server that ends: nobody else cancels a request, and there is no time left for it.
            self._connection.was_cut_off()
            await self._answer(503, "stopping", "This process ends before the request is done. Send again.", RETRY)
        except BaseException as error:
            log.error("a request ended with an error", exc_info=error)
            await self._fail()
        finally:
            if self.task is not None:
                self._connection.tasks.discard(self.task)

    async def _fail(self) -> None:
        await self._answer(500, "internal", "The request could not be answered.")

    async def _answer(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> None:
        """In place of the application, and close; only that where something of its answer has gone out."""
        if self.response_started and not self._head:
            self._connection.end()
            return
        self.response_started = self._chunked = False
        given, body = json_answer(status, code, message, *headers, CLOSE)
        await self.send({"type": "http.response.start", "status": status, "headers": given})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> MutableMapping[str, Any]:
        connection = self._connection
        if self._expects_word:
            self._expects_word = False
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            connection.flow.resume_reading()
            if not self._news:
                if self._event is None:
                    self._event = asyncio.Event()
                await self._event.wait()
            self._news = False
            if self._event is not None:
                self._event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        connection = self._connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"an answer begins with its head, and not with {kind}")
            self._begin(head_of(message["status"], message.get("headers", ())), message["status"])
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"a head is followed by its body, and not by {kind}")
            self._go_on(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the answer is complete, and {kind} is no part of it")

    def _begin(self, head: Head, status: int) -> None:
        self.response_started = True
        self._expects_word = False
        lines = head.lines + self._connection.lines_of_all()
        if head.closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        if self.scope["method"] == "HEAD" or status in (204, 304):
            pass  # no body follows
        elif head.length is None and self.scope["http_version"] == "1.0":
            self._left = None  # it knows no chunks
        elif head.length is None:
            self._chunked = True
            lines += b"transfer-encoding: chunked\r\n"
        else:
            self._left = head.length
        self._head = lines + b"\r\n"
        self._connection.head_waits(self)

    def _go_on(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self._left, body = 0, b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body of an answer is not as long as its Content-Length says")
        head, self._head = self._head, b""
        if not head:
            self._connection.write(body)
        elif len(body) > JOINED:
            self._connection.write(head)
            self._connection.write(body)
        else:
            self._connection.write(head + body)
        if not more:
            self.response_complete = True
            self.tell()
            if not self.keep_alive:
                self._connection.end()
            self._connection.on_response_complete()

    def flush(self) -> None:
        """Send the head, if it waits: what follows it takes its time."""
        head, self._head = self._head, b""
        if head:
            self._connection.write(head)
