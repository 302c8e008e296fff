"""What may be set at an endpoint. Whatever is stored has passed here; a refusal names the field and says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from billhook.errors import Refused, SettingsError
from billhook.events import DOMAIN_EVENTS, OPERATIONAL_EVENTS
from billhook.rules.delivery import LONGEST_SCHEDULE, LONGEST_TIMEOUT_SECONDS, LONGEST_WAIT_SECONDS
from billhook.rules.signing import Scheme, public_key, signing_key

EVENTS: Final = (*DOMAIN_EVENTS, *OPERATIONAL_EVENTS)

RESERVED: Final = frozenset(name.partition(".")[0] for name in EVENTS)
"""The first words of billhook's own events. No merchant publishes under them, so a name that begins with one and is not
known is a slip (`invoice.payed`) and would wait for ever for an event that nobody sends."""

_KNOWN: Final = frozenset(("*", *EVENTS, *(f"{name.partition('.')[0]}.*" for name in EVENTS if "." in name)))

MOST_EVENT_TYPES: Final = 100
LONGEST_EVENT_TYPE: Final = 100
_OWN_NAME: Final = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)+")
_OWN_PATTERN: Final = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*\.\*")

LONGEST_DESCRIPTION: Final = 255

OVERLAP_SECONDS: Final = 86400
"""How long a secret goes on signing beside the one that takes its place."""
LONGEST_OVERLAP_SECONDS: Final = 7 * 86400

MOST_HEADERS: Final = 20
HEADERS_LIMIT: Final = 4096
"""Bytes of all names and values. Many servers take 8 KiB of headers in all, and billhook's own need some of that."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110 section 5.6.2
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[\t -~]*[!-~])?")

# Headers that frame the message or belong to one connection (RFC 9110, RFC 9112), that billhook writes itself, or that
# receivers believe because only a proxy or a browser sets them.
_NOT_YOURS: Final = frozenset(
    (
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
        *("accept", "accept-encoding", "cookie", "date", "user-agent"),
        *("forwarded", "via", "x-real-ip"),
    )
)
_NOT_YOURS_FROM: Final = ("billhook-", "proxy-", "sec-", "webhook-", "x-forwarded-")

SHORTEST_WAIT_SECONDS: Final = 1
SHORTEST_TIMEOUT_SECONDS: Final = 1
MOST_IN_FLIGHT: Final = 128
LOWEST_RATE: Final = 0.01
HIGHEST_RATE: Final = 1000
ORDERINGS: Final = ("none", "customer", "subscription")

KEY_BYTES: Final = (24, 64)
"""Standard Webhooks: the length of a shared key."""

Check = Callable[[Any], Any]


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names, as they are to be stored; None means the default. Raises `Refused`."""
    return {name: _DEFAULTS.get(name) if value is None else _CHECKS[name](value) for name, value in given.items()}


def own_event(name: str) -> None:
    """Raise `Refused` unless a merchant may publish events of this name."""
    if not _OWN_NAME.fullmatch(name) or len(name) > LONGEST_EVENT_TYPE:
        raise Refused(
            "event_type_invalid",
            f"`event_type` must be two or more words of a–z, 0–9 and _ with dots between them, such as `order.shipped`,"
            f" in at most {LONGEST_EVENT_TYPE} characters.",
        )
    group = name.partition(".")[0]
    if group in RESERVED:
        raise Refused(
            "event_type_reserved",
            f"`event_type`: events that begin with `{group}` are billhook's own. Begin with another word.",
        )


def scheme_of(secret: str) -> Scheme:
    """How a secret that was given signs. Raises `Refused` if it cannot; the message does not repeat it."""
    try:
        if secret.startswith("whsk_"):
            public_key(secret)
            return "v1a"
        if not secret.startswith("whsec_"):
            raise Refused("secret_invalid", "`secret` must begin with `whsec_` (v1) or `whsk_` (v1a).")
        length = len(signing_key(secret))
    except SettingsError as error:
        raise Refused("secret_invalid", f"`secret`: {error}") from None
    if not KEY_BYTES[0] <= length <= KEY_BYTES[1]:
        raise Refused("secret_invalid", f"`secret` must hold a key of {KEY_BYTES[0]} to {KEY_BYTES[1]} bytes.")
    return "v1"


def _event_types(patterns: Sequence[str]) -> list[str]:
    if not 1 <= len(patterns) <= MOST_EVENT_TYPES:
        raise Refused("event_types_invalid", f"`event_types` must hold 1 to {MOST_EVENT_TYPES} names; `*` is all.")
    for pattern in patterns:
        if pattern not in _KNOWN and not _is_own(pattern):
            raise Refused(
                "event_type_unknown",
                f"`event_types` holds {pattern[: LONGEST_EVENT_TYPE + 1]!r}, which no event matches: use `*`, a name"
                " such as `invoice.paid`, all of an object's as in `invoice.*`, or an event that you publish yourself.",
            )
    return list(dict.fromkeys(patterns))


def _is_own(pattern: str) -> bool:
    """Whether it names events that a merchant may publish."""
    if len(pattern) > LONGEST_EVENT_TYPE or pattern.partition(".")[0] in RESERVED:
        return False
    return bool(_OWN_NAME.fullmatch(pattern) or _OWN_PATTERN.fullmatch(pattern))


def _description(text: str) -> str:
    if len(text) > LONGEST_DESCRIPTION or not text.isprintable():
        raise Refused(
            "description_invalid", f"`description` must be at most {LONGEST_DESCRIPTION} printable characters."
        )
    return text


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    """No message repeats a value: it may be a token."""
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > MOST_HEADERS or size > HEADERS_LIMIT:
        raise Refused(
            "headers_too_large",
            f"`headers` may be {MOST_HEADERS} at most, with {HEADERS_LIMIT} bytes of names and values together.",
        )
    seen: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            raise Refused(
                "header_invalid", f"`headers`: {name!r} cannot be a header's name: use letters, digits and hyphens."
            )
        if lower in _NOT_YOURS or lower.startswith(_NOT_YOURS_FROM):
            raise Refused(
                "header_reserved",
                f"`headers`: {name} is written by billhook, by HTTP or by proxies alone. Choose another name.",
            )
        if lower in seen:
            raise Refused("header_twice", f"`headers`: {seen[lower]} and {name} are the same header. Keep one of them.")
        if not _HEADER_VALUE.fullmatch(value):
            raise Refused(
                "header_invalid",
                f"`headers`: the value of {name} must be visible ASCII characters, with spaces only between them.",
            )
        seen[lower] = name
    return dict(headers)


def _schedule(waits: Sequence[float]) -> list[float]:
    if len(waits) > LONGEST_SCHEDULE or not all(
        SHORTEST_WAIT_SECONDS <= wait <= LONGEST_WAIT_SECONDS for wait in waits
    ):
        raise Refused(
            "schedule_invalid",
            f"`schedule` must be up to {LONGEST_SCHEDULE} waits of {SHORTEST_WAIT_SECONDS} to {LONGEST_WAIT_SECONDS}"
            " seconds: the first is the time between the first attempt and the second. None at all: it is tried once.",
        )
    return list(waits)


def _number(name: str, least: float, most: float, unit: str) -> Check:
    def check(value: float) -> float:
        if not least <= value <= most:
            raise Refused(f"{name}_invalid", f"`{name}` must be {least:g} to {most:g} {unit}.")
        return value

    return check


def _ordering(ordering: str) -> str:
    if ordering not in ORDERINGS:
        raise Refused("ordering_unknown", f"`ordering` must be one of: {', '.join(ORDERINGS)}.")
    return ordering


_CHECKS: Final[Mapping[str, Check]] = {
    "event_types": _event_types,
    "description": _description,
    "headers": _headers,
    "schedule": _schedule,
    "timeout_seconds": _number("timeout_seconds", SHORTEST_TIMEOUT_SECONDS, LONGEST_TIMEOUT_SECONDS, "seconds"),
    "max_in_flight": _number("max_in_flight", 1, MOST_IN_FLIGHT, "requests at once"),
    "rate_limit": _number("rate_limit", LOWEST_RATE, HIGHEST_RATE, "deliveries a second"),
    "ordering": _ordering,
}

SETTINGS: Final = tuple(_CHECKS)
"""The names of what may be set, beside the URL and the secret."""

_DEFAULTS: Final[Mapping[str, Any]] = {"event_types": ["*"], "description": "", "ordering": "none"}
"""Of those whose default is a value; of all others it is none: none at all, or billhook's own."""
