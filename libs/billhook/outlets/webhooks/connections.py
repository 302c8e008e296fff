"""The connections to merchants' endpoints: to vetted addresses only, and proof against what comes back on them."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from billhook.errors import SettingsError
from billhook.outlets.webhooks.resolver import CACHE_SECONDS, Forbidden
from billhook.rules.addresses import Network, refusal

KEEPALIVE_SECONDS = 4.0
"""How long an idle connection is kept. Node, Uvicorn and Apache close theirs after 5 s, and a request that crosses with
the close is lost. Whoever is written to more rarely than this pays a handshake each time; the busy ones never do."""

RECEIVE_BUFFER = 64 * 1024
"""Bytes that the kernel takes in for a connection before we ask for them. It slows down whoever sends more than it is
asked for, and bounds what is parsed in one go, while all others wait."""

INTERIM_LIMIT = 16
"""1xx answers before the real one. Honest servers send one or two; parsing them without end would fill a processor."""

new_connection: ContextVar[bool] = ContextVar("new_connection", default=False)
"""Whether the request last made in this task went over a connection made for it."""


class Connections(aiohttp.TCPConnector):
    """At most `limit` requests under way, and no more than that many connections kept between requests.

    A kept connection stays with the address that was vetted when it was made. When too many are open, the one that was
    just used is closed and no other: nobody's traffic costs another endpoint its connection.
    """

    def __init__(
        self, resolver: AbstractResolver, allowed: tuple[Network, ...], tls: ssl.SSLContext, *, limit: int
    ) -> None:
        super().__init__(
            limit=limit,
            ssl=tls,
            resolver=resolver,
            ttl_dns_cache=CACHE_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            socket_factory=functools.partial(_vetted_socket, allowed),
        )
        self.open = 0
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(Wire, self, loop=self._loop))


class Wire(ResponseHandler):
    """One connection: takes one answer a request, and leaves no door open behind it."""

    def __init__(self, pool: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._pool = pool
        self._fresh = True
        self._interim = 0
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.open += 1

    def connection_lost(self, exc: BaseException | None) -> None:
        self._pool.open -= 1
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            # A body that ends with the connection is complete only if that ended in order (RFC 9112 section 8).
            self._payload.set_exception(aiohttp.ClientPayloadError(str(exc)), exc)
        super().connection_lost(exc)

    def set_response_params(self, **params: Any) -> None:
        """aiohttp says this once for each request, when the connection is its own."""
        super().set_response_params(**params)
        new_connection.set(self._fresh)
        self._fresh = False
        self._interim = 0
        self._answered = False

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """A head was parsed. What nobody asked for is not queued, or it would pile up while the connection idles."""
        code = data[0].code
        interim = 100 <= code < 200 and code != 101
        self._interim += interim
        if self._answered or self._interim > INTERIM_LIMIT:
            self._answered = True
            self.set_exception(HttpProcessingError(message="more answers than a request has"))
            if self.transport is not None:
                self.transport.abort()
            return
        self._answered = not interim
        super().feed_data(data, size)

    @property
    def should_close(self) -> bool:
        """Asked when an answer is complete: whether to keep the connection for the next request."""
        return super().should_close or self._pool.open > self._pool.limit

    def close(self) -> None:
        """At once. A TLS connection that is closed politely goes on reading until the other side agrees, for 30 s."""
        self.abort()


def _vetted_socket(allowed: tuple[Network, ...], address: aiohttp.AddrInfoType) -> socket.socket:
    """The last word, on the very address that is connected to: an IP address in a URL never meets the resolver."""
    family, kind, protocol, _, (host, *_) = address
    if why := refusal(ip_address(str(host)), allowed):
        raise Forbidden(f"{host} is {why}")
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return made


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 and later, verified against the system's authorities and those of `ca_file`."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # not there, not readable, not PEM
            raise SettingsError(f"{ca_file} does not hold certificates of authorities in PEM: {error}") from None
    return context
