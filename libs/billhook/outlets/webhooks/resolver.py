"""Names to addresses, and none of them an address that billhook must not connect to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import pycares

from billhook.rules.addresses import LOOPBACK, Address, Network, is_localhost, literal, refusal

LOOKUP_SECONDS = 4.0
"""A name that takes longer is no use: what is left of the five seconds for connecting is for TCP and TLS."""

CACHE_SECONDS = 15
"""How long an answer serves at most, and again in c-ares, which would keep it for an hour: so none that is older than
30 s is connected to. One that lives for less is kept for less."""


@dataclass(frozen=True, slots=True)
class Found:
    """The addresses of a name, and for how long they may be used."""

    addresses: Sequence[Address]
    ttl_seconds: float = CACHE_SECONDS


Deliver = Callable[["Found | OSError"], None]

Lookup = Callable[[str, Deliver], None]
"""Asks for all addresses of a name and returns at once; the answer may come in any thread. A name that has none is an
`OSError`."""


class Forbidden(Exception):
    """The URL leads to where this installation does not let billhook connect."""


class Names:
    """Lookups by c-ares: /etc/hosts and the system's name servers, or the `servers` given, as `address:port`.

    c-ares has one thread of its own for all of them, so a name server that never answers holds up nobody else.
    """

    def __init__(self, servers: Sequence[str] = (), *, cache_seconds: float = CACHE_SECONDS) -> None:
        self._servers = servers
        self._cache_seconds = cache_seconds
        self._lock = threading.Lock()
        self._current = self._former = self._channel()

    def _channel(self) -> pycares.Channel:
        self._until = time.monotonic() + self._cache_seconds
        # Once it has seen quick answers c-ares waits 250 ms for the next one, and twice as long each time: five tries
        # outlast LOOKUP_SECONDS also then.
        return pycares.Channel(servers=self._servers or None, timeout=1.0, tries=5)

    def lookup(self, host: str, answer: Deliver) -> None:
        with self._lock:
            if time.monotonic() >= self._until:
                # A fresh channel has an empty cache. Queries under way end with the former one, long before it is gone.
                former, self._former, self._current = self._former, self._current, self._channel()
                if former is not self._former:
                    former.close()
            channel = self._current

        def came(result: Any, error: int | None) -> None:
            if error is not None:
                answer(OSError(None, pycares.errno.strerror(error)))
            else:
                ttl = min((node.ttl for node in result.nodes), default=0)
                answer(Found([ip_address(node.addr[0].decode()) for node in result.nodes], min(ttl, CACHE_SECONDS)))

        try:
            channel.getaddrinfo(host, None, type=socket.SOCK_STREAM, callback=came)
        except (pycares.AresError, UnicodeError, ValueError) as error:
            answer(OSError(None, str(error.args[-1])))

    def close(self) -> None:
        with self._lock:
            self._former.close()
            if self._current is not self._former:
                self._current.close()


class Directory:
    """What was found of names lately, every address of it vetted. One bad address refuses the whole name: an honest
    name has none. Use it in one thread; `deliver` is called in whichever thread an answer comes."""

    MOST_KNOWN: Final = 10_000

    def __init__(self, lookup: Lookup, allowed: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allowed = allowed
        self._known: dict[str, tuple[frozenset[Address], float]] = {}

    def fresh(self, host: str) -> frozenset[Address]:
        """The addresses of a name that may still be connected to; none if it has to be asked for again."""
        addresses, until = self._known.get(host, (frozenset[Address](), 0.0))
        return addresses if time.monotonic() < until else frozenset()

    def ask(self, host: str, deliver: Deliver) -> None:
        """Find the addresses of a host that is no address itself."""
        if (address := literal(host)) is not None:
            deliver(Found([address]))
        elif is_localhost(host):
            # Both are this machine, so here it is enough that one of them is allowed.
            deliver(Found([a for a in LOOPBACK if not refusal(a, self._allowed)] or LOOPBACK))
        else:
            self._lookup(host, deliver)

    def learn(self, host: str, found: Found) -> frozenset[Address]:
        """Vet what was found and keep it as long as it lives. Raises `Forbidden`, or `OSError` where it is nothing."""
        for address in found.addresses:
            if why := refusal(address, self._allowed):
                # Without the address: it may be what only an inner name server says, and merchants read this.
                raise Forbidden(f"{host} resolves to {why}")
        if not found.addresses:
            raise OSError(None, "the name has no address")
        if len(self._known) >= self.MOST_KNOWN:
            self._known.clear()
        addresses = frozenset(found.addresses)
        self._known[host] = addresses, time.monotonic() + found.ttl_seconds
        return addresses
