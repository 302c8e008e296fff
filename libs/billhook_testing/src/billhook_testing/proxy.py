"""A way through to a server that can be blocked: what stands between a process and its database or queue.

with proxy(server.port) as way:
    connect to 127.0.0.1, way.port
    way.swallow()   # connections stay open, new ones are taken, and not a byte arrives any more
    way.open()      # as before; what was swallowed is lost with its connections
    way.cut()       # every connection ends, and new ones are refused until open()
    way.delay(0.1)  # whatever is said arrives so many seconds later, on each connection in its order
    way.trickle(0.001)  # byte by byte, each so many seconds after the one before
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_LOOK_SECONDS = 0.05


class Proxy:
    """Passes TCP connections on to a port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._mode = "open"
        self._late_by = self._byte_by = 0.0
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._under_way: dict[socket.socket, deque[tuple[float, bytes]]] = {}
        """What has come from an end and is still to arrive at the other, and when; nothing is its end."""
        self.taken = 0
        """Connections so far."""
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._closing = False
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def swallow(self) -> None:
        self._set("swallow")

    def cut(self) -> None:
        self._set("cut")

    def delay(self, seconds: float) -> None:
        self._set("open", seconds)

    def trickle(self, seconds: float) -> None:
        self._set("open", byte_by=seconds)

    def open(self) -> None:
        self._set("open")

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._thread.join()
        self._end_all()
        self._listener.close()
        self._selector.close()

    def _set(self, mode: str, late_by: float = 0.0, byte_by: float = 0.0) -> None:
        with self._lock:
            if mode == "cut" or self._mode == "swallow":
                self._end_all()
            self._mode, self._late_by, self._byte_by = mode, late_by, byte_by

    def _run(self) -> None:
        while True:
            ready = self._selector.select(timeout=self._until_next())
            with self._lock:
                self._let_arrive()
                if self._closing:
                    return
                for key, _ in ready:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                        self._pass_on(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._mode == "cut":
            near.close()
            return
        try:
            far = socket.create_connection((_HOST, self._target), timeout=5)
        except OSError:
            near.close()
            return
        self.taken += 1
        self._pairs |= {near: far, far: near}
        for end in (near, far):
            self._under_way[end] = deque()
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(_CHUNK)
        except OSError:
            data = b""
        if data and self._mode != "open":
            return
        under_way, now = self._under_way[end], time.monotonic()
        last = under_way[-1][0] if under_way else now
        if data and self._byte_by:
            under_way.extend((max(now, last) + n * self._byte_by, data[n : n + 1]) for n in range(len(data)))
        else:
            under_way.append((max(now + self._late_by, last), data))
        if not data:
            self._selector.unregister(end)  # it says nothing more
        self._let_arrive()

    def _until_next(self) -> float:
        with self._lock:
            next_ones = [under_way[0][0] for under_way in self._under_way.values() if under_way]
        return min([_LOOK_SECONDS, *(max(0.0, at - time.monotonic()) for at in next_ones)])

    def _let_arrive(self) -> None:
        for end, under_way in [*self._under_way.items()]:
            while under_way and under_way[0][0] <= time.monotonic():
                _, data = under_way.popleft()
                try:
                    if data and end in self._pairs:
                        self._pairs[end].sendall(data)
                except OSError:
                    data = b""
                if not data:
                    under_way.clear()
                    if end in self._pairs:
                        self._end(end)

    def _end(self, end: socket.socket) -> None:
        other = self._pairs.pop(end)
        self._pairs.pop(other, None)
        for one in (end, other):
            del self._under_way[one]
            with suppress(KeyError):
                self._selector.unregister(one)
            one.close()

    def _end_all(self) -> None:
        while self._pairs:
            self._end(next(iter(self._pairs)))


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A way to `target`, open at first."""
    way = Proxy(target)
    way.start()
    try:
        yield way
    finally:
        way.close()
