"""HMAC-SHA256 (RFC 2104) under a key that comes again and again, as those of sources and endpoints do.

`hmac.digest` sets its key up at each call, looks its digest up by name and wants all that is signed in one piece: that
was more than half of what it took to check an event.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class Hmac:
    """A key, set up."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def digest(self, *parts: bytes) -> bytes:
        """Of these one behind the other."""
        inner = self._inner.copy()
        for part in parts:
            inner.update(part)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


@lru_cache(maxsize=10_000)
def hmac_of(key: bytes) -> Hmac:
    """Its HMAC, set up once."""
    return Hmac(key)
