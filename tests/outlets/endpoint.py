"""A merchant's endpoint on loopback that tells its own story in bytes, and a poster to meet it."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ParamSpec

from billhook.outlets.webhooks.client import Reach, WebhookClient
from billhook.outlets.webhooks.exchange import Request as Posted
from billhook.outlets.webhooks.resolver import Deliver, Found, Lookup
from billhook.outlets.webhooks.response import Response
from billhook.rules.addresses import parse_networks
from billhook.rules.delivery import DEADLINE_SECONDS

P = ParamSpec("P")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOOPBACK = Reach(allowed=parse_networks("127.0.0.0/8"), allow_http=True)


def in_a_loop(story: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test is a coroutine."""

    @functools.wraps(story)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(story(*args, **kwargs))

    return run


@dataclass(frozen=True)
class Request:
    head: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Endpoint:
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    peers: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, host: str = "receiver.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?to=us"


class Peer:
    """One connection, as the endpoint sees it."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._endpoint = endpoint
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        self._endpoint.requests.append(Request(head, headers, body))
        return self._endpoint.requests[-1]

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def send_buffer(self, size: int) -> None:
        """How much the kernel takes to send before the other side has read."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def reset(self) -> None:
        """RST, as from a process that was killed."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        while await self._reader.read(1 << 16):
            pass


Story = Callable[[Peer], Awaitable[None]]


async def agrees(peer: Peer) -> None:
    """200 to everything, on one connection for as long as the other side likes."""
    while True:
        await peer.request()
        await peer.send(OK)


def answers(*raw: bytes) -> Story:
    """Read a request, write this, and wait for the other side to close."""

    async def story(peer: Peer) -> None:
        await peer.request()
        for piece in raw:
            await peer.send(piece)
        await peer.gone()

    return story


@asynccontextmanager
async def endpoint(story: Story, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    """`story` is what happens on each connection; it ends where the other side goes away."""
    state = Endpoint()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        peer = asyncio.create_task(tell(reader, writer))
        state.peers.add(peer)

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await story(Peer(state, reader, writer))
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for peer in state.peers:
            peer.cancel()
        await asyncio.gather(*state.peers, return_exceptions=True)


def names(zone: Mapping[str, Sequence[str]]) -> Lookup:
    """Names under the test's control. What is not in the zone does not exist."""

    def lookup(host: str, answer: Deliver) -> None:
        if host in zone:
            answer(Found([ip_address(address) for address in zone[host]]))
        else:
            answer(OSError(None, "no such name"))

    return lookup


class Poster:
    """A client, for stories told in a loop."""

    def __init__(self, client: WebhookClient) -> None:
        self._client = client

    async def post(
        self,
        url: str,
        headers: dict[str, str],
        body: bytes,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        retry: bool = False,
    ) -> Response:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()

        def done(response: Response) -> None:
            loop.call_soon_threadsafe(lambda: future.done() or future.set_result(response))

        self._client.send(Posted(url, headers, body, deadline_seconds, retry), done)
        return await future


@asynccontextmanager
async def posting(
    reach: Reach = LOOPBACK, *, connections: int = 10, lookup: Lookup | None = None, ca_file: Path | None = None
) -> AsyncIterator[Poster]:
    """A client to which `receiver.test` is 127.0.0.1."""
    if ca_file is not None:
        reach = Reach(reach.allowed, reach.allow_http, ca_file)
    lookup = lookup or names({"receiver.test": ["127.0.0.1"]})
    client = WebhookClient(connections=connections, reach=reach, lookup=lookup)
    try:
        yield Poster(client)
    finally:
        await asyncio.to_thread(client.close)
