"""The load generator: raw HTTP/1.1 over keep-alive connections in a process of its own.

It shares its cores with what it measures, so it does next to nothing for a request: the bytes are made and signed
before the clock starts, one is written as soon as the last is answered, and an answer is not parsed beyond its end.
"""

from __future__ import annotations

import asyncio
import gc
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.events import signed_requests
from bench.processes import Child, Connection
from bench.wire import end_of_message

Requests = Callable[[str, str, int, int], list[bytes]]
"""Makes whole HTTP/1.1 requests for a host and a path: so many, from this number on."""


@dataclass(frozen=True)
class Load:
    """What to post: at most `count` events from number `first` on, for at most `seconds`; `rate` a second (None: as
    fast as the answers come). `requests` makes them, in the generator's process."""

    host: str
    port: int
    path: str
    first: int
    count: int
    connections: int = 64
    seconds: float = 120.0
    rate: float | None = None
    requests: Requests = signed_requests


@dataclass
class Posted:
    """What came of a load. Times are `time.monotonic_ns()`, which all processes of a machine share."""

    started: int = 0
    ended: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    """When each event was due to be sent, by its number."""
    latencies: array[int] = field(default_factory=lambda: array("q"))
    """From that moment to the last byte of the answer, in nanoseconds."""
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / ((self.ended - self.started) / 1e9)


class Generator:
    """The parent's side."""

    def __init__(self) -> None:
        self._child = Child(_generate)

    def post(self, load: Load) -> Posted:
        """Sign, then post. Raises `RuntimeError` if any event was answered with anything but success."""
        self.prepare(load)
        return self.go()

    def prepare(self, load: Load) -> None:
        self._child.ask(load)

    def start(self) -> None:
        """Begin to post what was prepared; `finish` waits for the end of it."""
        self._child.tell("go")

    def finish(self) -> Posted:
        posted: Posted = self._child.hear()
        refused = {status: count for status, count in posted.statuses.items() if status[0] != "2"}
        if refused:
            raise RuntimeError(f"the door refused events: {refused}")
        return posted

    def go(self) -> Posted:
        self.start()
        return self.finish()

    def close(self) -> None:
        self._child.close()


def _generate(parent: Connection) -> None:
    while True:
        try:
            load: Load = parent.recv()
            requests = load.requests(f"{load.host}:{load.port}", load.path, load.first, load.count)
            gc.freeze()
            gc.disable()
            parent.send("ready")
            parent.recv()
            parent.send(uvloop.run(_Run(load, requests).run()))
        except EOFError:
            return


class _Run:
    """One load."""

    def __init__(self, load: Load, requests: list[bytes]) -> None:
        self.load = load
        self.requests = requests
        self.next = 0
        self.posted = Posted()
        self.idle: list[_Line] = []
        self.late: list[int] = []
        """Moments at which an event was due and no connection was free."""

    async def run(self) -> Posted:
        loop = asyncio.get_running_loop()
        self.done = loop.create_future()
        load, posted = self.load, self.posted
        lines = [_Line(self) for _ in range(load.connections)]
        for line in lines:
            await loop.create_connection(lambda line=line: line, load.host, load.port)  # type: ignore[misc]
        posted.started = time.monotonic_ns()
        self.deadline = posted.started + int(load.seconds * 1e9)
        if load.rate is None:
            self.busy = len(lines)
            for line in lines:
                self.more(line)
        else:
            self.idle = lines
            self.busy = 0
            await self._paced(load.rate)
        await self.done
        posted.ended = time.monotonic_ns()
        for line in lines:
            line.transport.close()
        return posted

    async def _paced(self, rate: float) -> None:
        for number in range(len(self.requests)):
            due = self.posted.started + int(number * 1e9 / rate)
            pause = (due - time.monotonic_ns()) / 1e9
            if pause > 0:
                await asyncio.sleep(pause)
            if due > self.deadline:
                break
            if self.idle:
                self.busy += 1
                # The loop's timers are whole milliseconds: it may be a little early, and then the clock starts now.
                self.idle.pop().write(min(due, time.monotonic_ns()))
            else:
                self.late.append(due)
        self.deadline = 0
        if not self.busy:
            self.done.set_result(None)

    def more(self, line: _Line) -> None:
        """A connection is free."""
        if self.load.rate is not None:
            if self.late:
                line.write(self.late.pop(0))
                return
            self.idle.append(line)
        elif self.next < len(self.requests):
            now = time.monotonic_ns()
            if now < self.deadline:
                line.write(now)
                return
        self.busy -= 1
        if not self.busy and (self.load.rate is None or not self.deadline):
            self.done.set_result(None)


class _Line(asyncio.Protocol):
    """One connection with one request under way."""

    transport: asyncio.Transport

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._data = b""
        self._at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def write(self, at: int) -> None:
        run = self._run
        request, number = run.requests[run.next], run.load.first + run.next
        run.next += 1
        self._at = run.posted.sent[number] = at
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if end_of_message(self._data) < 0:
            return
        run = self._run
        run.posted.latencies.append(time.monotonic_ns() - self._at)
        run.posted.statuses[self._data[9:12].decode()] += 1
        self._data = b""
        run.more(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._run.done.done():
            self._run.done.set_exception(RuntimeError(f"the server closed a connection: {error}"))
