"""What the values of settings may be, and how each is read from text.

By hand: every command and every process reads its settings first, and a library that does this takes three times as
long to import as all else that a command needs before the database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from billhook.errors import SettingsError

Reading = Callable[[Any], Any]
"""Reads a value from text, or takes one that is right already. Raises `ValueError` that says what it must be."""


class Secret:
    """A text that is in no error, log or table by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Secret({'hidden' if self._text else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def setting(read: Reading, default: Any, meaning: str) -> Any:
    """A field of the settings: how it is read, what it is where nobody says, and what it means."""
    return field(default=default, metadata={"read": read, "meaning": meaning})


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def networks(value: Any) -> str:
    """Networks as `10.0.0.0/8, 192.0.2.7`: read here, so that a wrong one is said before anything is done."""
    if said := text(value):
        from billhook.rules.addresses import parse_networks

        try:
            parse_networks(said)
        except SettingsError as error:
            raise ValueError(f"must be networks, comma-separated: {error}") from None
    return said


def secret(value: Any) -> Secret:
    return value if isinstance(value, Secret) else Secret(text(value))


def path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(text(value))


def path_if_any(value: Any) -> Path | None:
    return None if value is None else path(value)


_YES: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_NO: Final = frozenset({"0", "false", "no", "off", "f", "n"})


def switch(value: Any) -> bool:
    said = str(value).strip().lower()
    if said not in _YES | _NO:
        raise ValueError(f"must be true or false, and not {value!r}")
    return said in _YES


def whole(least: int, most: int | None = None) -> Callable[[Any], int]:
    """A number without a fraction, from `least` on."""

    def read(value: Any) -> int:
        found = value
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value):
            found = int(value)
        if type(found) is not int or found < least or (most is not None and found > most):
            end = "on" if most is None else f"to {most}"
            raise ValueError(f"must be a whole number from {least} {end}, and not {value!r}")
        return found

    return read


def above_nothing(value: Any) -> float:
    """A number greater than zero."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found > 0) or isinstance(value, bool):
        raise ValueError(f"must be a number above 0, and not {value!r}")
    return found


def one_of(*known: str) -> Reading:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"must be {', '.join(known[:-1])} or {known[-1]}, and not {value!r}")
        return str(value)

    return read


port: Final = whole(0, 65535)


def read_file(file: Path) -> dict[str, str]:
    """The lines `NAME=value` of a file, if it is there. A value may stand between quotes; nothing in it is replaced."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    return dict(_named(file, lines))


def _named(file: Path, lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        said = line.strip().removeprefix("export ").lstrip()
        if not said or said.startswith("#"):
            continue
        name, is_there, value = (part.strip() for part in said.partition("="))
        if not is_there:
            raise SettingsError(f"{file}, line {number}: not NAME=value.")
        quoted = re.fullmatch(r"""(["'])(.*)\1(\s+#.*)?""", value)
        yield name, quoted[2] if quoted else re.sub(r"(^|\s+)#.*$", "", value)
