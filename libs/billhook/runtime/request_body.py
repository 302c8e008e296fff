"""A request's body, up to a limit: how much is taken in before it is refused."""

from __future__ import annotations

from typing import Any


class BodyTooLarge(Exception):
    """The rest of the body is not read. The connection drops what is still being sent, for as long as a request may
    take: whoever is cut off in mid-sentence never hears the answer (RFC 9112 section 9.6)."""


class Disconnected(Exception):
    """The request ended before its body did."""


def is_compressed(content_encoding: str, transfer_encoding: str) -> bool:
    """Whether the body is to be read as something else than what comes. The server takes it as it comes; of how it came
    it knows chunks alone."""
    encoded = content_encoding.strip().lower() not in ("", "identity")
    return encoded or transfer_encoding.strip().lower() not in ("", "chunked")


async def read_body(receive: Any, announced: str, limit: int) -> bytes:
    """The body; `announced` is its Content-Length, if it has one. Raises `BodyTooLarge` or `Disconnected`."""
    if announced.isdecimal() and int(announced[:12]) > limit:
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
            raise BodyTooLarge
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
