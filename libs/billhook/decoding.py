"""Reading typed values out of JSON and out of rows, from any thread."""

from __future__ import annotations

import functools
import threading
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

_FIRST_USE = threading.Lock()


def convert(value: Any, kind: type[T]) -> T:
    """`msgspec.convert` into `kind`. Raises `msgspec.ValidationError`."""
    _decoder(cast(Any, kind))
    return msgspec.convert(value, kind)


def decode(body: bytes | str, kind: type[T]) -> T:
    """The JSON `body` as a `kind`. Raises `msgspec.DecodeError`, and `msgspec.ValidationError` where it is another."""
    return decoder_of(kind).decode(body)


def decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of `kind`, made once for a process."""
    return cast("msgspec.json.Decoder[T]", _decoder(cast(Any, kind)))


@functools.cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    """msgspec describes a struct at its first use, and shows other threads the description while it is half made:
    those that read by it end the whole process with a segmentation fault. So one thread at a time describes, and
    nobody reads before. A struct is part of others, hence one lock for all."""
    with _FIRST_USE:
        return msgspec.json.Decoder(kind)
