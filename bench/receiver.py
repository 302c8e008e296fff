"""The receiver of webhooks: a raw HTTP/1.1 server in a process of its own, that notes when each event came first."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import cast

import uvloop

from bench.events import number_in
from bench.processes import Child, Connection
from bench.wire import end_of_message

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Receiver:
    """The parent's side."""

    def __init__(self) -> None:
        self._child = Child(_receive)
        self.port: int = self._child.hear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhooks"

    def count(self) -> int:
        """How many different events have come."""
        count: int = self._child.ask("count")
        return count

    def wait_for(self, count: int, within_seconds: float) -> bool:
        """Whether that many different events came in time."""
        deadline = time.monotonic() + within_seconds
        while self.count() < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def take(self) -> tuple[dict[int, int], int]:
        """When each event came first (`time.monotonic_ns()` by its number), and how many requests there were in all;
        then forget them."""
        arrived, requests = self._child.ask("take")
        return arrived, requests

    def close(self) -> None:
        self._child.close()


def _receive(parent: Connection) -> None:
    gc.disable()
    uvloop.run(_serve(parent))


async def _serve(parent: Connection) -> None:
    loop = asyncio.get_running_loop()
    book = _Arrivals()
    server = await loop.create_server(lambda: _Line(book), "127.0.0.1", 0)
    done = asyncio.Event()

    def answer() -> None:
        try:
            question = parent.recv()
        except EOFError:
            done.set()
            return
        if question == "count":
            parent.send(len(book.first))
        else:
            parent.send((book.first, book.requests))
            book.first, book.requests = {}, 0

    loop.add_reader(parent.fileno(), answer)
    parent.send(server.sockets[0].getsockname()[1])
    await done.wait()


class _Arrivals:
    def __init__(self) -> None:
        self.first: dict[int, int] = {}
        self.requests = 0


class _Line(asyncio.Protocol):
    def __init__(self, arrivals: _Arrivals) -> None:
        self._arrivals = arrivals
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = end_of_message(self._data)
        if end < 0:
            return
        self._arrivals.requests += 1
        self._arrivals.first.setdefault(number_in(self._data[:end]), time.monotonic_ns())
        self._data = self._data[end:]
        self._transport.write(_ANSWER)
