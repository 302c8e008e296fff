"""A request's body, up to a limit: how much is taken in before it is refused."""

from __future__ import annotations

from typing import Any, Final

DROPPED_AT_MOST: Final = 16 * 1024 * 1024
"""Bytes of a body that is too large. What is longer loses the connection, and perhaps the answer."""


class BodyTooLarge(Exception):
    """The rest of the body is not read, so the connection cannot be used again."""


class Disconnected(Exception):
    """The request ended before its body did."""


async def read_body(receive: Any, announced: str, limit: int) -> bytes:
    """The body; `announced` is its Content-Length, if it has one. Raises `BodyTooLarge` or `Disconnected`."""
    if announced.isdecimal() and int(announced[:12]) > limit:
        await _drop(receive)
        raise BodyTooLarge
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            if message.get("more_body"):
                await _drop(receive)
            raise BodyTooLarge
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _drop(receive: Any) -> None:
    """Take in what is still being sent, up to a bound: whoever is cut off in mid-sentence never hears the answer, for
    the system throws it away with the connection (RFC 9112 section 9.6)."""
    left = DROPPED_AT_MOST
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return
