"""JSON that people send, as a value of `billhook.rules`: one definition says what is decoded and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec

from billhook.decoding import decode
from billhook.errors import BodyRefused, Refused

T = TypeVar("T", bound=msgspec.Struct)

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Of no meaning on a document; and NUL is in no text column of PostgreSQL."""


def decoded(content: bytes, kind: type[T]) -> T:
    """The value. Raises `BodyRefused` for what is not JSON, `Refused` for fields that are wrong or unknown: a misspelt
    one must not leave something out of a bill."""
    with refusing():
        value = decode(content, kind)
        _look(msgspec.json.decode(content), value, "body")
    return value


@contextmanager
def refusing() -> Iterator[None]:
    """What decoding raises, as a refusal."""
    try:
        yield
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise Refused("invalid", f"{_path(path.rstrip('`'))}: {_printable(problem)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BodyRefused("not_json", "The body is not JSON.") from None
    except RecursionError:
        raise BodyRefused("unreadable", "The body is nested too deeply.") from None


def whole(value: Any) -> Any:
    """Every field of it, also those with their default: readers need not know the defaults."""
    match value:
        case msgspec.Struct():
            return {name: whole(getattr(value, name)) for name in value.__struct_fields__}
        case list() | tuple():
            return [whole(item) for item in value]
    return value


def _look(sent: Any, value: Any, path: str) -> None:
    """Refuse what decoding passes over: fields that are not the value's, and control characters in texts."""
    match sent:
        case dict():
            fields = getattr(value, "__struct_fields__", None)
            for name, inner in sent.items():
                _look(name, name, path)
                if fields is None:
                    _look(inner, inner, f"{path}.{name}")
                elif name in fields:
                    _look(inner, getattr(value, name), f"{path}.{name}")
                else:
                    raise Refused("invalid", f"{path}.{_printable(name)}: There is no such field.")
        case list():
            for place, (inner, item) in enumerate(zip(sent, value, strict=True)):
                _look(inner, item, f"{path}.{place}")
        case str() if _CONTROL.search(sent):
            raise Refused("invalid", f"{_printable(path)}: Control characters cannot be in it.")


def _path(path: str) -> str:
    """msgspec's `.lines[3].quantity` as everywhere else: `body.lines.3.quantity`."""
    return "body" + re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
