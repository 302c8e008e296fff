"""What SQL can hold: texts without NUL or half characters, times that no time zone of a session pushes too far."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from billhook.errors import Unprocessable
from billhook.rules.book.objects import BookObject

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9998, 12, 31, tzinfo=UTC)
"""One year short of what `datetime` holds, so that no time zone of a database session can push a time out of it."""


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""An escape in a JSON text: both halves of a character, a half by itself, or another."""


def half_a_character(text: bytes) -> bool:
    """Whether a JSON text escapes half of a character (a lone surrogate): its grammar allows that, and nothing that
    holds texts can hold it."""
    return any(escape[1] for escape in _ESCAPE.finditer(text))


def storable(value: BookObject, what: str) -> BookObject:
    """`value` with all its times in UTC. Raises `Unprocessable` for what SQL cannot hold: NUL, times out of range."""
    result: BookObject = _storable(value, what, "")
    return result


def in_utc(value: datetime, what: str, path: str) -> datetime:
    # Compared before it is converted: at the ends of the calendar the conversion itself overflows.
    if not _EARLIEST <= value <= _LATEST:
        raise Unprocessable(f"{what}: a time between 1970 and 9998 expected - at `{path}`")
    return value.astimezone(UTC)


def _storable(value: Any, what: str, path: str) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            raise Unprocessable(f"{what}: text without NUL characters expected - at `{path}`")
    elif isinstance(value, datetime):
        return in_utc(value, what, path)
    elif isinstance(value, tuple):
        return tuple(_storable(member, what, f"{path}[{n}]") for n, member in enumerate(value))
    elif isinstance(value, dict):
        return {_storable(k, what, path): _storable(v, what, f"{path}.{k}") for k, v in value.items()}
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        fields = {name: _storable(getattr(value, name), what, f"{path}.{name}".lstrip(".")) for name in names}
        return type(value)(**fields)
    return value
