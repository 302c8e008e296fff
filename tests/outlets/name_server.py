"""A DNS server on loopback (RFC 1035) that answers, denies or keeps silent as a test wants."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

A, AAAA = 1, 28
SERVFAIL, NXDOMAIN = 2, 3


Zone = dict[str, list[str] | int | None]


@dataclass
class NameServer(asyncio.DatagramProtocol):
    zone: Zone
    """By name: its addresses, the error to answer with, or None to never answer. What is not here does not exist."""
    ttl: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    address: str = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.address = "{}:{}".format(*transport.get_extra_info("sockname"))

    def datagram_received(self, query: bytes, asker: tuple[str | None, int]) -> None:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        question, (kind,) = query[12 : at + 5], struct.unpack(">H", query[at + 1 : at + 3])
        name = ".".join(labels)
        self.asked[name] += kind == A
        found = self.zone.get(name, NXDOMAIN)
        if found is None:
            return
        code = found if isinstance(found, int) else 0
        addresses = [] if isinstance(found, int) else [ip_address(address) for address in found]
        records = [a.packed for a in addresses if (a.version == 4) == (kind == A) and kind in (A, AAAA)]
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        answers = (b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, self.ttl, len(data)) + data for data in records)
        self._transport.sendto(head + question + b"".join(answers), asker)


@asynccontextmanager
async def name_server(zone: Zone, *, ttl: int = 0) -> AsyncIterator[NameServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(zone, ttl), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
