"""What a connection of an HTTP server may hold, and for how long.

A request has to arrive in time, its head has a size, the bodies that arrive have to fit together, and a connection that
waits for nothing makes way when all are taken: so whoever keeps half requests or silent connections open costs only
their own.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import functools
import json
import termios
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from billhook.metrics import Metrics

RECEIVE_SECONDS: Final = 20.0
"""How long a request may take from its first byte to its last, and a new connection until its first request is here.
Below the shortest drain that is any use; 1 MiB in this time is 50 KiB a second."""

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

JOINED: Final = 16 * 1024
"""Bytes up to which what follows a head is copied behind it."""


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
        bodies_limit: int = BODIES_LIMIT,
    ) -> None:
        self.connections = connections
        self.receive_seconds = receive_seconds
        self.send_seconds = send_seconds
        self.bodies_limit = bodies_limit
        self.body_bytes = 0
        self.idle: dict[BoundedConnection, None] = {}
        """Connections without a request under way, the one that has been idle for longest first."""
        self._looking = False
        self._open = metrics.connections_open
        self._cut = {reason: metrics.requests_cut.labels(reason) for reason in _REASONS}

    def opened(self, more: int) -> None:
        self._open.inc(more)

    def look_after(self, connections: Collection[BoundedConnection], loop: asyncio.AbstractEventLoop) -> None:
        """Look now and then whether their answers are taken, once for all of them while there are any: a timer for each
        answer would cost as much as a short answer does."""
        if not self._looking:
            self._looking = True
            loop.call_later(self.send_seconds, self._look, connections, loop)

    def _look(self, connections: Collection[BoundedConnection], loop: asyncio.AbstractEventLoop) -> None:
        self._looking = False
        for connection in [*connections]:
            connection.end_if_stuck()
        if connections:
            self.look_after(connections, loop)

    def count(self, reason: str) -> None:
        self._cut[reason].inc()

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection."""
        return cast("type[asyncio.Protocol]", functools.partial(BoundedConnection, self))


class _Joined:
    """Where a request's answer is written to. Its head goes out with what follows at once: each by itself is a system
    call and a packet, and that was an eighth of what a short answer costs."""

    __slots__ = ("_begun", "_connection", "_head", "_loop", "_transport")

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._loop = connection.loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return  # of requests that wait in line uvicorn tells only the last that its client has gone
        self._connection.written += len(data)
        if not self._begun:
            self._begun, self._head = True, data
            self._loop.call_soon(self.flush)  # what follows may take its time
            return
        head, self._head = self._head, b""
        if head and len(data) > JOINED:  # many may wait for one and the same: as it is, it is there once
            self._transport.write(head)
            self._transport.write(data)
        else:
            self._transport.write(head + data if head else data)

    def flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that the system has taken from us and nobody from it. It wants more only when it has got rid of many."""
    length = array.array("i", [0])
    with suppress(OSError):  # not every system says
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, length)
    return length[0]


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection, with bounds."""

    def __init__(self, bounds: Bounds, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
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
        self.written = 0
        """Bytes of answers so far."""
        self._taken: int | None = None
        """How many of them had gone out when some still waited, at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        bounds = self._bounds
        bounds.opened(1)
        bounds.look_after(cast("Collection[BoundedConnection]", self.connections), self.loop)
        if len(self.connections) > bounds.connections:
            if not bounds.idle:
                self._refuse("full", 503, "busy", "There are more connections than can be served. Send again.")
                return
            bounds.count("full")
            next(iter(bounds.idle))._close()
        bounds.idle[self] = None
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._bounds.idle.pop(self, None)
        self._release()
        self._bounds.opened(-1)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began = False
        self._besides += len(data)
        super().data_received(data)
        if self._began:
            self._besides = 0
        elif self._besides > HEAD_LIMIT and not self.transport.is_closing():
            self._refuse("head", 431, "head_too_large", f"Address and headers are more than {HEAD_LIMIT:,} bytes.")
        if self._receiving and self._deadline is None and not self.transport.is_closing():
            self._arm()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has sent all may still wait for the answer (RFC 9112, 9.6)."""
        self._heard_all = True
        return bool(self.pipeline) or (
            self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        )

    def end_if_stuck(self) -> None:
        """Nobody takes what waits for them: closing would wait for them too."""
        waiting = self.transport.get_write_buffer_size()
        taken = self.written - waiting - (_in_the_system(self.transport) if waiting else 0)
        if waiting and taken == self._taken:
            self._bounds.count("unread")
            self.transport.abort()
        self._taken = taken if waiting else None

    def on_message_begin(self) -> None:
        self._receiving = self._began = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._bounds.idle.pop(self, None)
        self._unset_keepalive_if_required()
        if len(self.pipeline) >= MOST_PIPELINED and not self.transport.is_closing():
            self._bounds.count("pipelined")
            self.transport.abort()
        if self.transport.is_closing():
            return  # it was refused, and the rest of what has come is nobody's
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = cast("asyncio.Transport", _Joined(self))

    def on_body(self, body: bytes) -> None:
        self._besides -= FRAMING * len(body)
        if self.cycle.response_complete or self.transport.is_closing():
            return  # dropped
        bounds = self._bounds
        if bounds.body_bytes + len(body) > bounds.bodies_limit:
            self._refuse("bodies", 503, "busy", "More is being sent than can be held. Send again.")
            return
        self._held += len(body)
        bounds.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        self._disarm()
        super().on_message_complete()
        if self.cycle.response_complete:  # answered before it was all here: the rest was dropped
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        self._release()
        if self.pipeline and self._deadline is not None:  # it could not arrive while we did not read
            self._disarm()
            self._arm()
        super().on_response_complete()
        if not self.cycle.response_complete or self.transport.is_closing():
            return
        if self._heard_all:
            self._close()
        elif self.cycle.more_body and self.expect_100_continue:
            self._close()  # whether the body still comes cannot be known, nor where the next request begins
        else:
            self._bounds.idle[self] = None

    def _release(self) -> None:
        self._bounds.body_bytes -= self._held
        self._held = 0

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self._bounds.receive_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.pipeline or (self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body):
            self._arm()  # it is held up by the answer to the request before it, which is ours to give
        elif self.scope is None:
            self._close()  # never said a word
        else:
            seconds = f"{self._bounds.receive_seconds:g}"
            self._refuse("slow", 408, "too_slow", f"The request did not arrive within {seconds} seconds. Send again.")

    def _close(self) -> None:
        self._bounds.idle.pop(self, None)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._bounds.count("malformed")
        super().send_400_response(msg)

    def _refuse(self, reason: str, status: int, code: str, message: str) -> None:
        """Answer in place of the application, which hears that its request ended, and close."""
        self._bounds.count(reason)
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = json.dumps({"error": {"code": code, "message": message}}).encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
                + (b"retry-after: 1\r\n" if status == 503 else b"")
                + b"connection: close\r\n\r\n"
                + body
            )
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self._close()
