"""The receiver of webhooks: a raw HTTP/1.1 server in a process of its own, that notes when each event came first.

It has a port for each endpoint, and each of them can be told to behave badly.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

import uvloop

from bench.events import number_in
from bench.processes import Child, Connection
from bench.wire import end_of_message

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: closing the connection resets it."""


class Manner(Enum):
    """How an endpoint answers."""

    WELL = "answers"
    HANGS = "takes the request and says nothing"
    DRIPS = "sends its answer a byte a second"
    RESETS = "takes the request and resets the connection"


@dataclass
class Arrivals:
    """What has come. Times are `time.monotonic_ns()`, which all processes of a machine share."""

    first: dict[int, int] = field(default_factory=dict)
    """When each event came first, by its number."""
    requests: int = 0
    connections: int = 0
    """Accepted."""
    at_once: dict[int, int] = field(default_factory=dict)
    """The most requests that were unanswered at the same time, by endpoint."""


class Receiver:
    """The parent's side: `endpoints` of them, that answer after `delay_seconds`."""

    def __init__(self, endpoints: int = 1, delay_seconds: float = 0.0) -> None:
        self._child = Child(_receive, endpoints, delay_seconds)
        self.ports: list[int] = self._child.hear()
        self.urls = [f"http://127.0.0.1:{port}/webhooks" for port in self.ports]

    @property
    def url(self) -> str:
        return self.urls[0]

    def count(self) -> int:
        """How many different events have come."""
        count: int = self._child.ask("count")
        return count

    def requests(self) -> int:
        """How many requests have come."""
        requests: int = self._child.ask("requests")
        return requests

    def wait_for(self, count: int, within_seconds: float) -> bool:
        """Whether that many different events came in time."""
        deadline = time.monotonic() + within_seconds
        while self.count() < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def behave(self, endpoint: int, manner: Manner) -> None:
        """Change an endpoint's manner, and drop what it has left unanswered."""
        self._child.ask((endpoint, manner))

    def take(self) -> Arrivals:
        """What has come; it is forgotten then."""
        arrivals: Arrivals = self._child.ask("take")
        return arrivals

    def close(self) -> None:
        self._child.close()


def _receive(parent: Connection, endpoints: int, delay_seconds: float) -> None:
    gc.disable()
    uvloop.run(_serve(parent, [_Endpoint(number, delay_seconds) for number in range(endpoints)]))


async def _serve(parent: Connection, endpoints: list[_Endpoint]) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda endpoint=endpoint: _Line(endpoint), "127.0.0.1", 0, backlog=512)  # type: ignore[misc]
        for endpoint in endpoints
    ]
    done = asyncio.Event()
    arrivals = Arrivals()
    for endpoint in endpoints:
        endpoint.arrivals = arrivals

    def answer() -> None:
        nonlocal arrivals
        try:
            question = parent.recv()
        except EOFError:
            done.set()
            return
        if question == "count":
            parent.send(len(arrivals.first))
        elif question == "requests":
            parent.send(arrivals.requests)
        elif question == "take":
            arrivals.at_once = {endpoint.number: endpoint.at_once for endpoint in endpoints}
            parent.send(arrivals)
            arrivals = Arrivals()
            for endpoint in endpoints:
                endpoint.arrivals, endpoint.at_once = arrivals, len(endpoint.unanswered)
        else:
            number, manner = question
            endpoints[number].behave(manner)
            parent.send("done")

    loop.add_reader(parent.fileno(), answer)
    os.set_blocking(parent.fileno(), True)  # the loop has changed that, and then no long answer gets through whole
    parent.send([server.sockets[0].getsockname()[1] for server in servers])
    await done.wait()


class _Endpoint:
    """One port."""

    arrivals: Arrivals

    def __init__(self, number: int, delay_seconds: float) -> None:
        self.number = number
        self.delay_seconds = delay_seconds
        self.manner = Manner.WELL
        self.unanswered: set[_Line] = set()
        self.at_once = 0

    def behave(self, manner: Manner) -> None:
        self.manner = manner
        for line in list(self.unanswered):
            line.drop()


class _Line(asyncio.Protocol):
    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._endpoint.arrivals.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._endpoint.unanswered.discard(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = end_of_message(self._data)
        if end < 0:
            return
        endpoint = self._endpoint
        endpoint.arrivals.requests += 1
        endpoint.arrivals.first.setdefault(number_in(self._data[:end]), time.monotonic_ns())
        self._data = self._data[end:]
        endpoint.unanswered.add(self)
        endpoint.at_once = max(endpoint.at_once, len(endpoint.unanswered))
        if endpoint.manner is Manner.RESETS:
            self.drop()
        elif endpoint.manner is Manner.DRIPS:
            self._drip(0)
        elif endpoint.manner is Manner.HANGS:
            pass
        elif endpoint.delay_seconds:
            asyncio.get_running_loop().call_later(endpoint.delay_seconds, self._answer)
        else:
            self._answer()

    def drop(self) -> None:
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._endpoint.unanswered.discard(self)
            self._transport.write(_ANSWER)

    def _drip(self, at: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_ANSWER[at : at + 1])
        if at + 1 < len(_ANSWER):
            asyncio.get_running_loop().call_later(1.0, self._drip, at + 1)
        else:
            self._endpoint.unanswered.discard(self)
