"""A connection of an HTTP server: what it may hold, and for how long.

A request has to arrive in time, its head has a size, the bodies that arrive have to fit together, and a connection that
waits for nothing makes way when all are taken: so whoever keeps half requests or silent connections open costs only
their own.

httptools reads what comes, uvicorn runs the server and its application; between them, this and `request_cycle.py` are
in the place of uvicorn's own protocol.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import functools
import termios
import urllib.parse
from collections import deque
from contextlib import suppress
from itertools import takewhile
from typing import Any, Final, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from billhook.metrics import Metrics
from billhook.runtime.request_cycle import CLOSE, RETRY, RequestCycle, head_of, json_answer

RECEIVE_SECONDS: Final = 20.0
"""How long a request may take from its first byte to its last, and a new connection until its first request is here.
Below the shortest drain that is any use; 1 MiB in this time is 50 KiB a second."""

IDLE_SECONDS: Final = 75.0
"""How long a connection is kept for the next request: for longer than a sender's own pause between events."""

MOST_CONNECTIONS: Final = 10_000

BODIES_LIMIT: Final = 128 * 1024 * 1024
"""Bytes of all bodies that are here and not yet answered."""


HEAD_LIMIT: Final = 64 * 1024
"""Bytes of what is no body: of an address and of headers, which the parser keeps however many there are. Many times
what senders need."""

FRAMING: Final = 8
"""Bytes that a byte of a body may bring along besides: a chunk of one has five around it."""

MOST_PIPELINED: Final = 32
"""Requests that may wait behind the one that is being answered. The smallest are 18 bytes, and each that waits holds
some kilobytes."""

SEND_SECONDS: Final = 30.0
"""How long a client may take none of what waits for it."""

IDLE_LOOK_SECONDS: Final = 1.0
"""How often it is looked which connections have been idle for long, at most."""

_REASONS: Final = ("slow", "full", "head", "bodies", "malformed", "pipelined", "unread")


class Bounds:
    """What the connections of one server share."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        connections: int = MOST_CONNECTIONS,
        receive_seconds: float = RECEIVE_SECONDS,
        send_seconds: float = SEND_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        bodies_limit: int = BODIES_LIMIT,
    ) -> None:
        self.connections = connections
        self.receive_seconds = receive_seconds
        self.send_seconds = send_seconds
        self.idle_seconds = idle_seconds
        self.bodies_limit = bodies_limit
        self.body_bytes = 0
        self.idle: dict[BoundedConnection, float] = {}
        """Connections without a request under way, and since when: the one that has been idle for longest first."""
        self.cut_off = 0
        """Requests that the end of the server cut off."""
        self._looking = False
        self._idle_ends = False
        """Whether a timer for that is under way: one for all, since a request would set and cancel one of its own."""
        self._heads: list[RequestCycle] = []
        self._every: list[tuple[bytes, bytes]] = []
        self._lines_of_all = b""
        self._open = metrics.connections_open
        self._cut = {reason: metrics.requests_cut.labels(reason) for reason in _REASONS}

    def opened(self, more: int) -> None:
        self._open.inc(more)

    def look_after(self, connections: set[BoundedConnection], loop: asyncio.AbstractEventLoop) -> None:
        """Look now and then whether their answers are taken, once for all of them while there are any: a timer for each
        answer would cost as much as a short answer does."""
        if not self._looking:
            self._looking = True
            loop.call_later(self.send_seconds, self._look, connections, loop)

    def _look(self, connections: set[BoundedConnection], loop: asyncio.AbstractEventLoop) -> None:
        self._looking = False
        for connection in [*connections]:
            connection.end_if_stuck()
        if connections:
            self.look_after(connections, loop)

    def rests(self, connection: BoundedConnection, loop: asyncio.AbstractEventLoop) -> None:
        """It has no request under way any more, and is kept for the next."""
        self.idle.pop(connection, None)
        self.idle[connection] = loop.time()
        if not self._idle_ends:
            self._idle_ends = True
            loop.call_later(self.idle_seconds, self._end_idle, loop)

    def _end_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._idle_ends = False
        long_ago = loop.time() - self.idle_seconds
        for connection, _ in [*takewhile(lambda rest: rest[1] <= long_ago, self.idle.items())]:
            connection.end_rest()
        for since in self.idle.values():
            self._idle_ends = True
            loop.call_later(max(since - long_ago, IDLE_LOOK_SECONDS), self._end_idle, loop)
            break

    def send_soon(self, cycle: RequestCycle, loop: asyncio.AbstractEventLoop) -> None:
        """Send this one's head when the loop comes by, if it has not gone out with a body by then: each by itself is a
        system call and a packet, and that was an eighth of what a short answer costs."""
        self._heads.append(cycle)
        if len(self._heads) == 1:
            loop.call_soon(self._send_heads)

    def _send_heads(self) -> None:
        heads, self._heads = self._heads, []
        for cycle in heads:
            cycle.flush()

    def lines_of_all(self, every: list[tuple[bytes, bytes]]) -> bytes:
        """The headers that every answer has, which uvicorn makes anew each second, as they are sent."""
        if every is not self._every:
            self._every = every
            self._lines_of_all = b"".join(b"%b: %b\r\n" % header for header in every)
        return self._lines_of_all

    def count(self, reason: str) -> None:
        self._cut[reason].inc()

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection."""
        return cast("type[asyncio.Protocol]", functools.partial(BoundedConnection, self))


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that the system has taken from us and nobody from it. It wants more only when it has got rid of many."""
    length = array.array("i", [0])
    with suppress(OSError):  # not every system says
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, length)
    return length[0]


class BoundedConnection(asyncio.Protocol):
    """One client's."""

    def __init__(
        self,
        bounds: Bounds,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn's server makes it, but for the bounds."""
        if not config.loaded:
            config.load()
        self.bounds = bounds
        self.loop = _loop or asyncio.get_running_loop()
        self.tasks = server_state.tasks
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.flow: FlowControl = None  # type: ignore[assignment]
        self._app = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._connections = cast("set[BoundedConnection]", server_state.connections)
        self._parser = self._new_parser()
        self._addresses: tuple[Any, Any] = (None, None)
        """The server's and the client's."""
        self._cycle: RequestCycle | None = None
        """The request that came last."""
        self._answering: RequestCycle | None = None
        self._pipeline: deque[RequestCycle] = deque()
        """Requests that wait until those before them are answered."""
        # Of the request that is being read:
        self._url: bytes | None = None  # until it says its first word
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_word = False
        self._hosts = 0
        self._offers_another = False
        """Whether it offers to go on in another protocol."""
        self._place: tuple[bytes, str, bytes, bytes] = (b"", "", b"", b"")
        """The address that was asked for last, and what it says: senders ask for one again and again."""
        self._deadline: asyncio.TimerHandle | None = None
        self._receiving = True
        """Whether a request is on its way here: begun, or the first one awaited."""
        self._held = 0
        self._besides = 0
        """Bytes of the request under way that were no body, less what its body may bring along."""
        self._began = False
        """Whether a request began in the bytes that are being read: how many of them are its own is not known."""
        self._heard_all = False
        """Whether the client has said that it sends no more."""
        self._written = 0
        """Bytes of answers so far."""
        self._taken: int | None = None
        """How many of them had gone out when some still waited, at the last look."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.flow = FlowControl(transport)
        self._addresses = get_local_addr(transport), get_remote_addr(transport)
        self._connections.add(self)
        bounds = self.bounds
        bounds.opened(1)
        bounds.look_after(self._connections, self.loop)
        if len(self._connections) > bounds.connections:
            if not bounds.idle:
                self._refuse("full", 503, "busy", "There are more connections than can be served. Send again.")
                return
            bounds.count("full")
            next(iter(bounds.idle))._close()
        bounds.rests(self, self.loop)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._connections.discard(self)
        self.bounds.idle.pop(self, None)
        self._release()
        self.bounds.opened(-1)
        self._disconnect()
        self._pipeline.clear()
        self.flow.resume_writing()
        # They refer to us: where connections come and go, the collector would find them only after many hundreds.
        self._parser = self._cycle = self._answering = None

    def data_received(self, data: bytes) -> None:
        self._began = False
        self._besides += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self._refuse("malformed", 400, "malformed", "This is no request of HTTP/1.1.")
        if self._began:
            self._besides = 0
        elif self._besides > HEAD_LIMIT and not self.transport.is_closing():
            self._refuse("head", 431, "head_too_large", f"Address and headers are more than {HEAD_LIMIT:,} bytes.")
        if self._receiving and self._deadline is None and not self.transport.is_closing():
            self._arm()

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What follows a request after which the client closes is that client's business.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _parse(self, data: bytes) -> None:
        """No other protocol is spoken here, and who offers one is answered in this one (RFC 9110, 7.8). A parser that
        has heard of the offer takes all that follows for the other one's, the body too: so the request is told to
        another, without the offer."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            old, self._parser = self._parser, self._new_parser()
            lines = b"".join(b"%b: %b\r\n" % header for header in self._headers if header[0] != b"upgrade")
            head = (old.get_method(), self._url or b"", old.get_http_version().encode(), lines)
            self._parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % head)

    def eof_received(self) -> bool:
        """Who has sent all may still wait for the answer (RFC 9112, 9.6)."""
        self._heard_all = True
        cycle = self._cycle
        return bool(self._pipeline) or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    # What uvicorn's server and `Bounds` call.

    def shutdown(self) -> None:
        """The server ends: what is under way is answered, and then the connection ends."""
        if self._cycle is None or self._cycle.response_complete:
            self.transport.close()
        else:
            self._cycle.keep_alive = False

    def end_if_stuck(self) -> None:
        """Nobody takes what waits for them: closing would wait for them too."""
        waiting = self.transport.get_write_buffer_size()
        taken = self._written - waiting - (_in_the_system(self.transport) if waiting else 0)
        if waiting and taken == self._taken:
            self.bounds.count("unread")
            self.transport.abort()
        self._taken = taken if waiting else None

    def end_rest(self) -> None:
        """It has been idle for as long as it may; what has begun meanwhile has its own time."""
        if self._receiving:
            self.bounds.rests(self, self.loop)
        else:
            self._close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._receiving = self._began = True
        self._url, self._headers, self._expects_word, self._hosts = b"", [], False, 0

    def on_url(self, url: bytes) -> None:
        self._url = (self._url or b"") + url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_word = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._hosts > 1:  # a proxy may have gone by the one, and we would by the other (RFC 9112, 3.2)
            raise httptools.HttpParserError("more than one Host")
        self._offers_another = self._parser.should_upgrade()
        if self._offers_another:
            if self._parser.get_method() == b"CONNECT":
                raise httptools.HttpParserInvalidMethodError("nothing is connected to here")
            return  # it comes again without the offer
        self.bounds.idle.pop(self, None)
        if len(self._pipeline) >= MOST_PIPELINED and not self.transport.is_closing():
            self.bounds.count("pipelined")
            self.transport.abort()
        if self.transport.is_closing():
            return  # it was refused, and the rest of what has come is nobody's
        url = self._url or b""
        if url != self._place[0]:
            parsed = httptools.parse_url(url)
            path = parsed.path or b"/"  # of `http://host`, as a proxy is asked
            self._place = url, urllib.parse.unquote(path.decode("ascii")), path, parsed.query or b""
        version = self._parser.get_http_version()
        server, client = self._addresses
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": server,
            "client": client,
            "scheme": "http",
            "method": self._parser.get_method().decode("ascii"),
            "root_path": "",
            "path": self._place[1],
            "raw_path": self._place[2],
            "query_string": self._place[3],
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        self._headers = []  # what comes behind the body is none of the head, and may say nothing of it
        self._expects_word = self._expects_word and version != "1.0"  # which has no such word
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        before = self._cycle
        cycle = self._cycle = RequestCycle(self, scope, keep_alive=keep_alive, expects_word=self._expects_word)
        if before is None or before.response_complete:
            self._start(cycle)
        else:
            self.flow.pause_reading()
            self._pipeline.append(cycle)

    def on_body(self, body: bytes) -> None:
        self._besides -= FRAMING * len(body)
        cycle, bounds = self._cycle, self.bounds
        if cycle is None or cycle.response_complete or self.transport.is_closing():
            return  # dropped
        if bounds.body_bytes + len(body) > bounds.bodies_limit:
            self._refuse("bodies", 503, "busy", "More is being sent than can be held. Send again.")
            return
        self._held += len(body)
        bounds.body_bytes += len(body)
        if cycle.add(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._offers_another:
            return
        self._receiving = False
        self._disarm()
        cycle = self._cycle
        if cycle is None:
            return
        if cycle.response_complete:  # answered before it was all here: the rest was dropped
            if not self.transport.is_closing():
                self.bounds.rests(self, self.loop)
        else:
            cycle.more_body = False
            cycle.tell()

    # What a request's cycle calls.

    def write(self, data: bytes) -> None:
        if data and not self.transport.is_closing():
            self._written += len(data)
            self.transport.write(data)

    def end(self) -> None:
        self.transport.close()

    def was_cut_off(self) -> None:
        self.bounds.cut_off += 1

    def head_waits(self, cycle: RequestCycle) -> None:
        self.bounds.send_soon(cycle, self.loop)

    def lines_of_all(self) -> bytes:
        return self.bounds.lines_of_all(self._server_state.default_headers)

    def on_response_complete(self) -> None:
        self._server_state.total_requests += 1
        self._release()
        if self._pipeline and self._deadline is not None:  # it could not arrive while we did not read
            self._disarm()
            self._arm()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._pipeline:
            self._start(self._pipeline.popleft())
            return
        cycle = self._cycle
        assert cycle is not None
        if self._heard_all:
            self._close()
        elif cycle.more_body and self._expects_word:
            self._close()  # whether the body still comes cannot be known, nor where the next request begins
        else:
            self.bounds.rests(self, self.loop)

    def _start(self, cycle: RequestCycle) -> None:
        self._answering = cycle
        cycle.task = self.loop.create_task(cycle.run(self._app))
        self.tasks.add(cycle.task)

    def _release(self) -> None:
        self.bounds.body_bytes -= self._held
        self._held = 0

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.bounds.receive_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        cycle = self._cycle
        if self._pipeline or (cycle is not None and not cycle.response_complete and not cycle.more_body):
            self._arm()  # it is held up by the answer to the request before it, which is ours to give
        elif self._url is None:
            self._close()  # never said a word
        else:
            seconds = f"{self.bounds.receive_seconds:g}"
            self._refuse("slow", 408, "too_slow", f"The request did not arrive within {seconds} seconds. Send again.")

    def _close(self) -> None:
        self.bounds.idle.pop(self, None)
        self.transport.close()

    def _refuse(self, reason: str, status: int, code: str, message: str) -> None:
        """Answer in place of the application, which hears that its request ended, and close."""
        self.bounds.count(reason)
        answering = self._answering
        if answering is None or answering.response_complete or not answering.response_started:
            again = (RETRY,) if status == 503 else ()
            headers, body = json_answer(status, code, message, *again, CLOSE)
            self.transport.write(head_of(status, headers).lines + b"\r\n" + body)
        self._disconnect()
        self._close()

    def _disconnect(self) -> None:
        for cycle in (self._answering, *self._pipeline, self._cycle):
            if cycle is not None:
                cycle.disconnect()
