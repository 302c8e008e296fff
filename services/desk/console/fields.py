"""Values as the console shows them: money as money, times as times, and what differs between two states."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import msgspec
from markupsafe import Markup, escape

from billhook.rules.book.customer import Address
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import Amount, BookObject
from billhook.rules.money import format_money

LONGEST_VALUE: Final = 300
LATEST_TRIES: Final = 12
"""Attempts that a line shows of a delivery."""
LARGEST_BODY: Final = 24 * 1024
"""Of a body that a page shows; the rest is a download."""

_GOOD: Final = frozenset(
    {
        *("processed", "delivered", "sent", "ready", "done", "paid", "active", "succeeded", "recovered", "2xx"),
        *("enabled", "ok", "repaired", "accepted", "issued", "complete"),
    }
)
_BAD: Final = frozenset(
    {
        *("dead", "failed", "expired", "uncollectible", "exhausted", "unpaid", "5xx", "4xx", "stuck", "disabled"),
        *("confirmed", "reopened", "timeout", "connect", "reset", "tls", "dns", "protocol"),
    }
)
_WAITING: Final = frozenset(
    {
        *("held", "open", "past_due", "grace", "retrying", "awaiting_customer", "late", "paused", "suspected", "cut"),
        *("incomplete", "requires_action", "unknown", "3xx", "refused", "failing", "canceled"),
    }
)


def state_kind(state: str | None) -> str:
    """Which colour a state has; its word says the same."""
    if state in _GOOD:
        return "good"
    return "bad" if state in _BAD else "waiting" if state in _WAITING else "plain"


@dataclass(frozen=True)
class FieldShown:
    name: str
    before: Markup
    after: Markup
    changed: bool


def title_of(value: BookObject) -> str:
    """What people call it."""
    name = getattr(value, "number", None) or getattr(value, "name", None) or value.external_id
    return f"{value.kind.replace('_', ' ').capitalize()} {name}"


def compared(before: BookObject | None, after: BookObject) -> list[FieldShown]:
    """All fields that have something to say: those that changed first."""
    shown = []
    for name in after.__struct_fields__:
        if name == "deleted" and not after.deleted:
            continue
        now = getattr(after, name)
        then = None if before is None else getattr(before, name)
        changed = before is not None and now != then
        if changed or not _empty(now):
            shown.append(
                FieldShown(
                    name, written(after.kind, name, then, before), written(after.kind, name, now, after), changed
                )
            )
    return sorted(shown, key=lambda field: not field.changed)


def _empty(value: Any) -> bool:
    return value is None or value in ((), {}, "")


def written(kind: str, name: str, value: Any, of: BookObject | None) -> Markup:
    """A field of an object of the book."""
    currency = getattr(of, "currency", None)
    if value is None:
        return Markup("–")
    if name in amounts(kind) and isinstance(value, int) and currency:
        return escape(format_money(value, currency, "en"))
    return plainly(value, currency)


def plainly(value: Any, currency: str | None = None) -> Markup:
    """Any value, in one line."""
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, datetime):
        return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), f"{value:%Y-%m-%d %H:%M:%S} UTC")
    if isinstance(value, tuple):
        return _listed(value, currency)
    if isinstance(value, Address):
        return escape(_cut(", ".join(str(part) for part in msgspec.structs.astuple(value) if part)))
    if isinstance(value, dict) and value and all(isinstance(one, (str, int)) for one in value.values()):
        return escape(_cut(", ".join(f"{name}: {one}" for name, one in value.items())))
    if isinstance(value, (dict, list, msgspec.Struct)):
        return escape(_cut(msgspec.json.encode(value).decode()))
    return escape(_cut(str(value)))


def _listed(values: tuple[Any, ...], currency: str | None) -> Markup:
    """A list by how many it holds, and its first ones where they have a name."""
    if not values:
        return Markup("none")
    parts = []
    for value in values[:3]:
        said = (
            getattr(value, "description", None) or getattr(value, "price", None) or getattr(value, "external_id", None)
        )
        amount = getattr(value, "amount", None)
        money = f" {format_money(amount, currency, 'en')}" if isinstance(amount, int) and currency else ""
        parts.append(_cut(f"{said}{money}" if said else str(value), 80))
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return escape("; ".join(parts) + more)


def _cut(text: str, longest: int = LONGEST_VALUE) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@cache
def amounts(kind: str) -> frozenset[str]:
    """The fields of a kind that are money."""
    if kind not in KINDS:
        return frozenset()
    hints = typing.get_type_hints(KINDS[kind], include_extras=True)
    return frozenset(name for name, hint in hints.items() if Amount in (hint, *typing.get_args(hint)))


def money_in(kind: str, name: str, value: Any, currency: str | None) -> Markup:
    """A side of a difference that the reconciler found."""
    if name in amounts(kind) and isinstance(value, int) and currency:
        return escape(format_money(value, currency, "en"))
    return Markup("–") if value is None else plainly(value)


@dataclass(frozen=True)
class BodyShown:
    """Bytes that somebody sent, as far as a page shows them."""

    text: Markup
    whole: bool
    size: int
    form: str
    """JSON, text or bytes."""


def body_shown(content: bytes) -> BodyShown:
    """JSON is indented, without a number or a name in it being touched; what is no text is shown in hex."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        lines = (content[at : at + 16] for at in range(0, min(len(content), LARGEST_BODY // 8), 16))
        dump = "\n".join(f"{place * 16:06x}  {line.hex(' ')}" for place, line in enumerate(lines))
        return BodyShown(escape(dump), len(content) <= LARGEST_BODY // 8, len(content), "bytes")
    form = "text"
    if len(content) <= 64 * LARGEST_BODY and text[:1] in "{[":
        with suppress(msgspec.DecodeError):
            text, form = msgspec.json.format(text, indent=2), "JSON"
    whole = len(text) <= LARGEST_BODY
    cut = text if whole else text[:LARGEST_BODY]
    return BodyShown(coloured(cut) if form == "JSON" else escape(_harmless(cut)), whole, len(content), form)


def _harmless(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


_TOKEN: Final = re.compile(
    r'(?P<name>"(?:[^"\\]|\\.)*")(?=\s*:)|(?P<text>"(?:[^"\\]|\\.)*"?)|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)'
)


def coloured(text: str) -> Markup:
    """JSON with its names, texts and numbers told apart. Every piece is escaped on its own."""
    return Markup("").join(_pieces(_harmless(text)))


def _pieces(text: str) -> Iterator[Markup]:
    end = 0
    for token in _TOKEN.finditer(text):
        yield escape(text[end : token.start()])
        yield Markup('<span class="j-{}">{}</span>').format(token.lastgroup, token[0])
        end = token.end()
    yield escape(text[end:])
