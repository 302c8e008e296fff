"""Reading form-encoded parameters, `items[0][price]=…`, as the nested values they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from billhook_testing.fake_stripe.errors import invalid

_PART = re.compile(r"[^\[\]]+|(?<=\[)(?=\])")


class Params:
    """Nested text values. Reading one converts it, or refuses it the way Stripe does, naming the parameter.

    An empty text unsets a field: the readers give None for it, and `in` still says it was sent.
    """

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self.values = values
        self._path = path

    @classmethod
    def parse(cls, *encoded: str) -> Params:
        tree: dict[str, Any] = {}
        for source in encoded:
            for name, value in parse_qsl(source, keep_blank_values=True):
                _put(tree, _PART.findall(name), value)
        return cls({name: _lists(value) for name, value in tree.items()})

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def path(self, name: str) -> str:
        return f"{self._path}[{name}]" if self._path else name

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.values.get(name, default)
        if value is not None and not isinstance(value, str):
            raise invalid(f"Invalid string: {name}", param=self.path(name))
        return value or None

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            param = self.path(name)
            raise invalid(f"Missing required param: {param}.", param=param, code="parameter_missing")
        return value

    def integer(self, name: str, default: Any = None) -> Any:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"-?\d+", value):
            raise invalid(f"Invalid integer: {value}", param=self.path(name), code="parameter_invalid_integer")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise invalid(f"Invalid boolean: {value}", param=self.path(name))
        return value == "true"

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.text(name) or default
        if value not in allowed:
            raise invalid(f"Invalid {name}: must be one of {', '.join(allowed)}", param=self.path(name))
        return value

    def within(self, name: str) -> Params:
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise invalid("Invalid object", param=self.path(name))
        return Params(value, self.path(name))

    def each(self, name: str) -> list[Params]:
        value = self.values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            raise invalid("Invalid array", param=self.path(name))
        return [Params(part, f"{self.path(name)}[{at}]") for at, part in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name) or []
        if not isinstance(value, list):
            raise invalid("Invalid array", param=self.path(name))
        return [str(part) for part in value]

    def merged(self, name: str, old: dict[str, Any]) -> dict[str, Any]:
        """Metadata's rule: named keys are set, empty ones go, and an empty text clears them all."""
        if name not in self:
            return dict(old)
        if self.values[name] == "":
            return {}
        merged = {**old, **self.within(name).values}
        return {key: value for key, value in merged.items() if value != ""}


def _put(tree: dict[str, Any], parts: list[str], value: str) -> None:
    at = tree
    for part in parts[:-1]:
        inner = at.setdefault(part or str(len(at)), {})
        if not isinstance(inner, dict):
            raise invalid("Invalid request: a parameter is both a value and an object", param=parts[0])
        at = inner
    at[parts[-1] or str(len(at))] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(inner) for key, inner in value.items()}
