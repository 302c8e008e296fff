"""Names to addresses, and none of them an address that billhook must not connect to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

import aiodns
from aiohttp.abc import AbstractResolver, ResolveResult

from billhook.rules.addresses import LOOPBACK, Address, Network, is_localhost, refusal

LOOKUP_SECONDS = 4.0
"""A name that takes longer is no use: what is left of the five seconds for connecting is for TCP and TLS."""

CACHE_SECONDS = 15
"""How long an answer serves, in the connection pool and again in c-ares, which would keep it for an hour: so none that
is older than 30 s is connected to."""

Lookup = Callable[[str], Awaitable[Sequence[Address]]]
"""All addresses of a name. Raises `OSError` for a name that has none."""


class Forbidden(Exception):
    """The URL leads to where this installation does not let billhook connect."""


class Names:
    """Lookups by c-ares: /etc/hosts and the system's name servers, or the `servers` given, as `address:port`.

    No thread of ours waits for an answer, so a name server that never gives one holds up nobody else. (The system's own
    `getaddrinfo` would: it takes a thread of the pool in which the courier reads and writes SQL.)
    """

    def __init__(self, servers: Sequence[str] = (), *, cache_seconds: float = CACHE_SECONDS) -> None:
        self._servers = servers
        self._cache_seconds = cache_seconds
        self._current = self._former = self._channel()

    def _channel(self) -> aiodns.DNSResolver:
        self._until = asyncio.get_running_loop().time() + self._cache_seconds
        # Once it has seen quick answers c-ares waits 250 ms for the next one, and twice as long each time: five tries
        # outlast LOOKUP_SECONDS also then.
        return aiodns.DNSResolver(self._servers, timeout=1.0, tries=5)

    async def lookup(self, host: str) -> list[Address]:
        if asyncio.get_running_loop().time() >= self._until:
            # A fresh channel has an empty cache. Queries under way end with the former one, long before it is dropped.
            former, self._former, self._current = self._former, self._current, self._channel()
            if former is not self._former:
                await former.close()
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await self._current.getaddrinfo(host, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise OSError(None, f"no name server answered within {LOOKUP_SECONDS:g} s") from None
        except aiodns.error.DNSError as error:
            raise OSError(None, str(error.args[-1])) from None
        return [ip_address(node.addr[0].decode()) for node in found.nodes]

    async def close(self) -> None:
        await self._former.close()
        await self._current.close()


class VettedResolver(AbstractResolver):
    """What aiohttp asks before it connects. One bad address refuses the whole name: an honest name has none."""

    def __init__(self, lookup: Lookup, allowed: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allowed: Final = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if is_localhost(host):
            # Both are this machine, so here it is enough that one of them is allowed.
            addresses: Sequence[Address] = [a for a in LOOPBACK if not refusal(a, self._allowed)] or LOOPBACK
        else:
            addresses = await self._lookup(host)
        for address in addresses:
            if why := refusal(address, self._allowed):
                # Without the address: it may be what only an inner name server says, and merchants read this.
                raise Forbidden(f"{host} resolves to {why}")
        if not addresses:
            raise OSError(None, "the name has no address")
        return [
            {
                "hostname": host,
                "host": str(address),
                "port": port,
                "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        """The lookup is closed by whoever made it."""
