"""The floors: the same work on the wire with no product in it, under uvicorn as it comes. (The product's servers are
uvicorn's too, with connections of their own.)

`commit_floor`: check Stripe's signature and put the event into the same table by the same grouped commit.
`forward_floor`: check the signature, sign anew, post to the receiver, answer when it has answered. No storage.
`answer_floor`: answer every question with the same few bytes. No storage either.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import psycopg
import uuid_utils
import uvicorn

from bench.events import SECRET
from bench.processes import Child, Connection

BATCH = 256
COLUMNS = "id, merchant_id, source_id, account, external_id, type, headers, body, sha256, received_at, due_at"
_ARRAYS = ", ".join(f"%b::{kind}[]" for kind in ["text"] * 6 + ["bytea"] * 3 + ["timestamptz"] * 2)
_POSTGRESQL = f"INSERT INTO inbox ({COLUMNS}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING"
_SQLITE = f"INSERT INTO inbox ({COLUMNS}) VALUES ({', '.join('?' * 11)}) ON CONFLICT DO NOTHING"

Row = tuple[Any, ...]
Store = Callable[[list[Row]], None]


class Floor:
    """A floor's process; `port` is where it listens."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._child = Child(serve, *arguments)
        self.port: int = self._child.hear()

    def close(self) -> None:
        self._child.close()


def commit_floor(url: str) -> Floor:
    """On the migrated database at `url`."""
    return Floor(_serve_commits, url)


def answer_floor(body: bytes) -> Floor:
    return Floor(_serve_answers, body)


def forward_floor(receiver_url: str) -> Floor:
    return Floor(_serve_forwarding, receiver_url)


class _Event(msgspec.Struct):
    id: str
    type: str


def _serve_commits(parent: Connection, url: str) -> None:
    # The same switch of the interpreter as the ingress: without it the committing thread waits for the loop.
    sys.setswitchinterval(0.0005)
    sqlite = url.startswith("sqlite")
    store = _sqlite(url.removeprefix("sqlite:///")) if sqlite else _postgresql(url.replace("+psycopg", "", 1))
    decode = msgspec.json.Decoder(_Event).decode
    executor = ThreadPoolExecutor(1)
    waiting: list[tuple[Row, asyncio.Future[None]]] = []
    committing: asyncio.Task[None] | None = None

    async def commit() -> None:
        nonlocal waiting
        loop = asyncio.get_running_loop()
        while waiting:
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            await loop.run_in_executor(executor, store, [row for row, _ in batch])
            for _, future in batch:
                future.set_result(None)

    async def endpoint(signature: bytes, body: bytes) -> bytes:
        nonlocal committing
        event = decode(body)
        loop = asyncio.get_running_loop()
        now: Any = time.time_ns() // 1000 if sqlite else datetime.now(UTC)
        row_id = f"evt_{uuid_utils.uuid7().hex}"
        digest = hashlib.sha256(body).digest()
        merchant, source = "mrc_0199f0a5d6c87b1e9d3f", "src_0199f0a5d6c87b1e9d3f"
        row = (row_id, merchant, source, "", event.id, event.type, signature, body, digest, now, now)
        future: asyncio.Future[None] = loop.create_future()
        waiting.append((row, future))
        if committing is None or committing.done():
            committing = loop.create_task(commit())
        await future
        return b'{"id":"%s"}' % row_id.encode()

    _serve(parent, endpoint)


def _sqlite(path: str) -> Store:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -8192", "wal_autocheckpoint = 10000"):
        connection.execute(f"PRAGMA {pragma}")

    def store(rows: list[Row]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_SQLITE, rows)
        connection.execute("COMMIT")

    return store


def _postgresql(url: str) -> Store:
    connection = psycopg.connect(url, autocommit=True)  # one statement: its own transaction, in one round trip

    def store(rows: list[Row]) -> None:
        connection.execute(_POSTGRESQL, [list(column) for column in zip(*rows, strict=True)], prepare=True)

    return store


def _serve_forwarding(parent: Connection, receiver_url: str) -> None:
    key = b"bench-key-of-24-bytes-000"
    session: aiohttp.ClientSession | None = None

    async def endpoint(signature: bytes, body: bytes) -> bytes:
        nonlocal session
        if session is None:
            connector = aiohttp.TCPConnector(limit=256)
            session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        message_id, at = f"msg_{uuid_utils.uuid7().hex}", int(time.time())
        signed = hmac.digest(key, b"%s.%d.%s" % (message_id.encode(), at, body), "sha256")
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(at),
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
            "Content-Type": "application/json",
        }
        async with session.post(receiver_url, data=body, headers=headers) as answer:
            await answer.read()
        return b'{"id":"%s"}' % message_id.encode()

    _serve(parent, endpoint)


def _serve_answers(parent: Connection, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    _listen(parent, app)


def _serve(parent: Connection, endpoint: Callable[[bytes, bytes], Awaitable[bytes]]) -> None:
    """A bare ASGI app that checks Stripe's signature and hands on, as the product does."""
    key = SECRET.encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        header = next(value for name, value in scope["headers"] if name == b"stripe-signature")
        at, _, given = header.partition(b",")
        expected = hmac.digest(key, b"%s.%s" % (at[2:], body), "sha256").hex().encode()
        genuine = hmac.compare_digest(expected, given[3:]) and abs(time.time() - int(at[2:])) < 300
        answer = await endpoint(header, body) if genuine else b"{}"
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200 if genuine else 401, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    _listen(parent, app)


def _listen(parent: Connection, app: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    parent.send(listener.getsockname()[1])
    uvicorn.Server(
        uvicorn.Config(
            app, loop="uvloop", http="httptools", access_log=False, log_config=None, lifespan="off", server_header=False
        )
    ).run(sockets=[listener])
