"""Posting to merchants' endpoints: many requests at once, driven by libcurl in a thread of its own.

    send ─▶ waiting ─▶ under way ─────────────────────────────▶ done(response)
                          │  ▲                                   once for each, in the client's thread
                          ▼  │ with addresses
                        asking where the host is (only if no kept connection leads there)

One deadline over everything, no redirects, no proxy, vetted addresses only, and an answer that may be hostile.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import pycurl

from billhook.outlets.webhooks.exchange import KEEPALIVE_SECONDS, Exchange, Request, Target
from billhook.outlets.webhooks.resolver import LOOKUP_SECONDS, Directory, Forbidden, Found, Lookup, Names
from billhook.outlets.webhooks.response import Response, one_line
from billhook.outlets.webhooks.trust import Trust
from billhook.parts import Part, Parts
from billhook.rules.addresses import Address, Network, literal, refusal, url_refusal

MOST_ROUNDS: Final = 4
"""How often a transfer begins before anything is sent: to learn where its host is, and that its addresses are stale.
More would be a circle."""

RESET_MEMORY_SECONDS: Final = 3600.0
"""For how long retries at an endpoint whose connection broke off take a connection of their own."""

LOOK_SECONDS: Final = 0.05
"""How often lookups under way are looked at: c-ares knows nothing of our deadlines."""

FINISHED_AT_ONCE: Final = 16
"""Transfers whose results are made before the sockets are looked at again: a millisecond or two."""

SWEEP_SECONDS: Final = 2.0
"""How often idle connections are looked through while nothing else happens, for those that are to be closed."""

OnResponse = Callable[[Response], None]


@dataclass(frozen=True, slots=True)
class Reach:
    """What this installation lets its courier connect to."""

    allowed: tuple[Network, ...] = ()
    """Networks that are allowed although they are private."""
    allow_http: bool = False
    ca_file: Path | None = None
    """Authorities to trust beside the system's."""


@dataclass(slots=True)
class _Asking:
    """A host that is being looked up, and who waits for it."""

    since: float
    waiting: list[Exchange] = field(default_factory=list)


class _Poll:
    """As `select.epoll`, for systems without it. (`selectors`, which has it for all, takes five times as long over a
    socket, and libcurl's are registered for each request.)"""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify, self.unregister = self._poll.register, self._poll.modify, self._poll.unregister

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._poll.poll(None if timeout is None else timeout * 1000)

    def close(self) -> None:
        """There is nothing to close."""


class WebhookClient:
    """A pooled HTTP client. `send` may be called in any thread."""

    def __init__(
        self, *, connections: int, reach: Reach, lookup: Lookup | None = None, parts: Parts | None = None
    ) -> None:
        """`connections`: requests under way at most, and how many connections are kept between requests.

        `lookup`: how names become addresses; by c-ares if not given. Raises `SettingsError` if `ca_file` is no use.
        """
        self._connections = connections
        self._reach = reach
        self._trust = Trust(reach.ca_file)
        self._names = Names() if lookup is None else None
        self._directory = Directory(self._names.lookup if self._names else lookup, reach.allowed)  # type: ignore[arg-type]
        self._target = lru_cache(maxsize=10_000)(self._read)
        self._why_not = lru_cache(maxsize=10_000)(lambda address: refusal(address, reach.allowed))
        self._inbox: deque[tuple[Request, OnResponse]] = deque()
        self._found: deque[tuple[str, Found | OSError]] = deque()
        self._waiting: deque[tuple[Request, OnResponse, float]] = deque()
        self._asking: dict[str, _Asking] = {}
        self._under_way: dict[pycurl.Curl, Exchange] = {}
        self._idle: list[Exchange] = []
        self._made: list[Exchange] = []
        self._resets: dict[tuple[str, int], float] = {}
        self._served: int | None = None
        """The socket that libcurl was last told of."""
        self._timer: float | None = None
        self._swept = self._used = time.monotonic()
        self._closing = False
        self._awake = False
        self._finished: deque[tuple[pycurl.Curl, int, str, int | None]] = deque()
        """Transfers that have ended, with libcurl's code and words, and the socket it was told of then."""
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._poll = select.epoll() if sys.platform == "linux" else _Poll()
        self._poll.register(self._woken.fileno(), select.POLLIN)
        self._watched: set[int] = set()
        """libcurl's sockets in it."""
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        # Of more the one that was idle for longest is closed.
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._sweeper = self._make_sweeper()
        self._thread = (parts or Parts()).start("webhook client", self._run)

    def send(self, request: Request, done: OnResponse) -> None:
        """Post once, and call `done` with what came of it. Every way to fail is an answer, none an exception.

        Once, whatever happens: a request that meets a kept connection in the moment its server closes it is a `reset`,
        a failed attempt like any other. Sent again at once it would be an attempt that nobody counted.
        """
        self._inbox.append((request, done))
        self._wake()

    def close(self) -> None:
        """Stop. What is under way is dropped, and its connections are closed; nobody hears of it."""
        self._closing = True
        self._awake = False
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):  # as many wait already as the kernel holds, or the client is closed
                self._waker.send(b"x")

    def _run(self, part: Part) -> None:
        try:
            woken = self._woken.fileno()
            while not self._closing:
                part.rest()
                events = self._poll.poll(self._patience())
                part.tick()
                for descriptor, happened in events:
                    if descriptor == woken:
                        self._woken.recv(4096)
                    else:
                        self._served = descriptor
                        self._multi.socket_action(descriptor, _bits(happened))
                        self._collect()
                self._served = None
                self._awake = False
                self._take()
                if self._timer is not None and time.monotonic() >= self._timer:
                    self._timer = None
                    self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
                self._collect()
                self._finish()
                self._sweep()
        finally:
            self._end()

    def _end(self) -> None:
        self._closing = True
        for curl in list(self._under_way):
            self._multi.remove_handle(curl)
        self._multi.close()
        for exchange in self._made:
            exchange.curl.close()
        self._sweeper.close()
        self._poll.close()
        self._woken.close()
        self._waker.close()
        self._trust.close()
        if self._names is not None:
            self._names.close()

    def _patience(self) -> float | None:
        """How long there is nothing to do but for what happens on a socket."""
        if self._finished:
            return 0.0
        now = time.monotonic()
        waits = []
        if self._timer is not None:
            waits.append(self._timer - now)
        if self._asking:
            waits.append(LOOK_SECONDS)
        if self._may_hold_idle(now):
            waits.append(self._swept + SWEEP_SECONDS - now)
        return max(0.0, min(waits)) if waits else None

    def _on_socket(self, what: int, descriptor: int, *_: object) -> None:
        if what == pycurl.POLL_REMOVE:
            if descriptor in self._watched:
                self._watched.remove(descriptor)
                with contextlib.suppress(OSError):  # it is closed already
                    self._poll.unregister(descriptor)
        elif descriptor in self._watched:
            self._poll.modify(descriptor, _EVENTS[what])
        else:
            self._watched.add(descriptor)
            self._poll.register(descriptor, _EVENTS[what])

    def _on_timer(self, milliseconds: int) -> None:
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    # From a request to a transfer.

    def _take(self) -> None:
        while self._found:
            self._told(*self._found.popleft())
        while self._inbox:
            request, done = self._inbox.popleft()
            self._waiting.append((request, done, time.perf_counter()))
        while self._waiting and (self._idle or len(self._made) < self._connections):
            request, done, since = self._waiting.popleft()
            self._begin(request, done, since)
        if self._asking:
            self._look_at_lookups()

    def _begin(self, request: Request, done: OnResponse, since: float) -> None:
        try:
            target = self._target(request.url)
        except Forbidden as why:
            done(Response("refused", error=one_line(f"billhook does not connect there: {why}")))
            return
        except ValueError as error:
            done(Response("url", error=one_line(f"not a URL that can be posted to: {error}")))
            return
        exchange = self._idle.pop() if self._idle else self._another()
        exchange.begin(request, target, done, since)
        self._go(exchange)

    def _another(self) -> Exchange:
        exchange = Exchange(self, self._trust.path)
        self._made.append(exchange)
        return exchange

    def _go(self, exchange: Exchange, addresses: frozenset[Address] | None = None) -> None:
        target = exchange.target
        fresh = exchange.request.retry and self._broke_off(target)
        try:
            exchange.prepare(fresh=fresh, addresses=addresses)
        except (pycurl.error, TypeError, ValueError) as error:
            self._over(exchange, exchange.failure("url", f"not a request that can be sent: {error}"))
            return
        self._under_way[exchange.curl] = exchange
        self._multi.add_handle(exchange.curl)

    def _broke_off(self, target: Target) -> bool:
        at = self._resets.get((target.host, target.port))
        return at is not None and time.monotonic() - at < RESET_MEMORY_SECONDS

    def _read(self, text: str) -> Target:
        if why := url_refusal(text, allowed=self._reach.allowed, allow_http=self._reach.allow_http):
            raise Forbidden(why)
        parts = urlsplit(text)
        secure = parts.scheme == "https"
        host = (parts.hostname or "").encode("idna" if not text.isascii() else "ascii").decode()
        if not host:
            raise ValueError("it has no host")
        port = parts.port or (443 if secure else 80)
        wire = _wire(text, parts.hostname or "", host)
        return Target(host, port, secure, literal(host) is not None, wire, _path(wire))

    # What exchanges ask in the midst of libcurl's work.

    def vetted(self, exchange: Exchange, address: Address) -> bool:
        target = exchange.target
        if why := self._why_not(address):
            raise Forbidden(f"{target.host} is {why}")
        if target.is_address:
            return True
        return address in (exchange.addresses or self._directory.fresh(target.host))

    # From a transfer to a response.

    def _collect(self) -> None:
        """Take note of the transfers that have ended."""
        more = 1
        while more:
            more, well, ill = self._multi.info_read()
            for curl in well:
                self._finished.append((curl, 0, "", self._served))
            for curl, code, message in ill:
                self._finished.append((curl, code, message, self._served))
            if not well and not ill:
                return

    def _finish(self) -> None:
        """Say what came of transfers, of some at a time: where hundreds time out together, nobody else waits for all of
        them."""
        for _ in range(min(len(self._finished), FINISHED_AT_ONCE)):
            self._ended(*self._finished.popleft())

    def _ended(self, curl: pycurl.Curl, code: int, message: str, served: int | None) -> None:
        self._multi.remove_handle(curl)
        exchange = self._under_way.pop(curl, None)
        if exchange is None:
            return  # the sweeper
        self._used = time.monotonic()
        if code and exchange.unresolved and exchange.rounds < MOST_ROUNDS:
            self._ask(exchange)
            return
        if exchange.unresolved:
            self._over(exchange, exchange.failure("dns", f"{exchange.target.host} was not found: no address holds"))
            return
        if served is not None and exchange.breaks_off:
            self._cut(served, exchange)
        response = exchange.response(code, message)
        if response.outcome == "reset":
            if len(self._resets) >= 10_000:
                self._resets.clear()
            self._resets[exchange.target.host, exchange.target.port] = time.monotonic()
        self._over(exchange, response)

    def _cut(self, descriptor: int, exchange: Exchange) -> None:
        """End a connection at once. libcurl closes one of TLS politely: it goes on reading until the other side agrees,
        for two seconds, however much comes."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getsockname()[1] == exchange.local_port:  # libcurl may have closed it already
                connection.shutdown(socket.SHUT_RDWR)

    def _over(self, exchange: Exchange, response: Response) -> None:
        self._idle.append(exchange)
        exchange.done(response)

    # Where a host is.

    def _ask(self, exchange: Exchange) -> None:
        host = exchange.target.host
        if addresses := self._directory.fresh(host):
            self._go(exchange, addresses)
        elif host in self._asking:
            self._asking[host].waiting.append(exchange)
        else:
            self._asking[host] = _Asking(time.monotonic(), [exchange])
            self._directory.ask(host, lambda found: self._deliver(host, found))

    def _deliver(self, host: str, found: Found | OSError) -> None:
        """The answer, in whichever thread."""
        self._found.append((host, found))
        self._wake()

    def _told(self, host: str, found: Found | OSError) -> None:
        asking = self._asking.pop(host, None)
        waiting = asking.waiting if asking is not None else []
        try:
            if isinstance(found, OSError):
                raise found
            addresses = self._directory.learn(host, found)
        except Forbidden as why:
            for exchange in waiting:
                self._over(exchange, exchange.failure("refused", f"billhook does not connect there: {why}"))
        except OSError as error:
            for exchange in waiting:
                self._over(exchange, exchange.failure("dns", f"{host} was not found: {error.strerror}"))
        else:
            for exchange in waiting:
                self._go(exchange, addresses)

    def _look_at_lookups(self) -> None:
        now = time.monotonic()
        for host, asking in list(self._asking.items()):
            if now - asking.since >= LOOKUP_SECONDS:
                self._told(host, OSError(None, f"no name server answered within {LOOKUP_SECONDS:g} s"))
                continue
            for exchange in [exchange for exchange in asking.waiting if exchange.seconds_left <= 0]:
                asking.waiting.remove(exchange)
                seconds = exchange.request.deadline_seconds
                self._over(exchange, exchange.failure("timeout", f"no complete answer within {seconds:g} s"))

    # Idle connections: libcurl looks through them only when a transfer begins.

    def _make_sweeper(self) -> pycurl.Curl:
        """A transfer that ends before it asks for a name: when it begins, libcurl closes what is too old or broken."""
        curl = pycurl.Curl()
        for option, value in (
            (pycurl.URL, "http://idle.invalid/"),
            (pycurl.PROXY, ""),
            (pycurl.NOSIGNAL, 1),
            (pycurl.MAXAGE_CONN, KEEPALIVE_SECONDS),
            (pycurl.RESOLVER_START_FUNCTION, lambda *_: 1),
        ):
            curl.setopt(option, value)
        return curl

    def _may_hold_idle(self, now: float) -> bool:
        return now - self._used < KEEPALIVE_SECONDS + 2 * SWEEP_SECONDS

    def _sweep(self) -> None:
        now = time.monotonic()
        if self._may_hold_idle(now) and now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            self._multi.add_handle(self._sweeper)


_EVENTS: Final = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}


def _bits(happened: int) -> int:
    """What happened on a socket, in libcurl's words. It finds out about trouble when it reads or writes."""
    reads = pycurl.CSELECT_IN if happened & ~select.POLLOUT else 0
    return reads | (pycurl.CSELECT_OUT if happened & ~select.POLLIN else 0)


def _wire(text: str, host: str, ascii_host: str) -> bytes:
    """The URL as it goes out: byte by byte as it was given. Only what no URL can hold is written as RFC 3987 has it."""
    if text.isascii():
        return text.encode()
    before, _, after = text.partition(host)
    return (quote(before, safe=_KEPT) + ascii_host + quote(after, safe=_KEPT)).encode()


def _path(wire: bytes) -> bytes:
    """What stands after the host, without a fragment."""
    rest = wire.partition(b"#")[0].partition(b"://")[2]
    path = rest[len(re.split(rb"[/?]", rest, maxsplit=1)[0]) :]
    return path if path.startswith(b"/") else b"/" + path


_KEPT: Final = "".join(map(chr, range(33, 127)))
