"""What stands before every route under `/v1`: whose key is it, and is the body small enough. No route can forget it."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

from billhook.actions.templates import LARGEST_TEMPLATE
from billhook.documents.logo import LARGEST_LOGO
from billhook.runtime.env import Env
from billhook.runtime.service import ASGIApp
from billhook.store.merchants import Caller, find_callers
from services.desk.batching import Batches
from services.desk.refusals import Refusal, answer

BODY_LIMIT = 64 * 1024

_LARGER = (
    (re.compile(r"/v1/invoices(/.*)?"), 8 * 1024 * 1024),  # ten thousand lines, of 800 bytes each
    (re.compile(r"/v1/merchants/[^/]+/logo"), LARGEST_LOGO),
    (
        re.compile(r"/v1/merchants/[^/]+/templates"),
        4 * LARGEST_TEMPLATE,
    ),  # in JSON a quote is two bytes, a `<` may be six
)
"""Where bodies may be larger, and how large."""

DROPPED_AT_MOST = 16 * 1024 * 1024
"""Bytes of a body that is too large. What is longer loses the connection, and perhaps the answer."""

LONGEST_KEY = 256

MOST_KEYS = 200
"""Looked up with one question."""

_HEADERS = [
    (b"cache-control", b"no-store"),  # answers hold customers' data, and secrets once
    (b"x-content-type-options", b"nosniff"),
]


class Authentication:
    """An ASGI middleware: puts the caller into the request's state, and sees to it that every error has our shape."""

    def __init__(self, app: ASGIApp, env: Env) -> None:
        self._app = app
        self._database = env.database  # opened here, before any thread of a request asks for it
        self._operator_key = env.settings.operator_key
        self._callers = Batches(self._find, largest=MOST_KEYS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        answering = False

        async def guarded_send(message: Any) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            caller = await self._caller(headers.get(b"authorization", ""))
            body = await _read(receive, headers.get(b"content-length", ""), body_limit(scope["path"]))
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, _again(body, receive), guarded_send)
        except Exception as error:
            if answering:
                raise  # half an answer cannot become another one: the connection is closed
            await answer(error)(scope, receive, guarded_send)

    async def _caller(self, authorization: str) -> Caller:
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not 0 < len(key) <= LONGEST_KEY:
            raise _unauthorized("missing_key", "Send `Authorization: Bearer bh_…` (make a key with `billhook keys`).")
        own = self._operator_key.get_secret_value()
        # Digests have one length, so that the comparison tells nothing, not even how long the key is.
        if own and hmac.compare_digest(_digest(own), _digest(key)):
            return Caller("operator", None)
        caller = await self._callers.answer(key)
        if caller is None:
            raise _unauthorized("wrong_key", "This key is unknown or was revoked.")
        return caller

    def _find(self, keys: Sequence[str]) -> Sequence[Caller | None]:
        with self._database.read() as tx:
            callers = find_callers(tx, set(keys))
        return [callers.get(key) for key in keys]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _unauthorized(code: str, message: str) -> Refusal:
    return Refusal(401, code, message, {"WWW-Authenticate": 'Bearer realm="billhook"'})


def body_limit(path: str) -> int:
    return next((limit for pattern, limit in _LARGER if pattern.fullmatch(path)), BODY_LIMIT)


async def _read(receive: Any, length: str, limit: int) -> bytes:
    if length.isdecimal() and int(length[:12]) > limit:
        await _drop(receive)
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "disconnected", "The request ended before its body did.")
        body += message.get("body", b"")
        if len(body) > limit:
            await _drop(receive)
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)


async def _drop(receive: Any) -> None:
    """Take in what is still being sent, up to a bound: whoever is cut off in mid-sentence never hears the answer, for
    the system throws it away with the connection (RFC 9112 section 9.6)."""
    left = DROPPED_AT_MOST
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _too_large(limit: int) -> Refusal:
    # The rest of the body is not read, so the connection cannot be used again.
    return Refusal(413, "too_large", f"The body may have at most {limit // 1024} KiB here.", {"Connection": "close"})


def _again(body: bytes, receive: Any) -> Any:
    """A `receive` that gives the body that was read already, then what else comes."""
    given = False

    async def next_message() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
