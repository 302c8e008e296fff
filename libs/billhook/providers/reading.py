"""Decoding what anyone may have sent: the ingress refuses what is malformed, the bookkeeper gives a reason that a
person can act on."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from billhook.errors import BodyRefused, Unprocessable
from billhook.rules.book.objects import BookObject
from billhook.rules.money import known_currency
from billhook.rules.storable import half_a_character

T = TypeVar("T")

LONGEST_NAME = 255
"""Ids and types are indexed columns; no provider comes near this."""

_NEEDED = {"product": "name", "price": "currency"}
"""Fields that only the remains of a deleted object may lack."""


def open_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode in the ingress. The body was valid JSON as a whole, not only in the fields that are read."""
    try:
        body.decode()  # msgspec checks the grammar of what it skips, but not the encoding of the strings in it
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BodyRefused("not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise BodyRefused("too_deep", "The body is nested too deeply.") from None
    except msgspec.ValidationError as error:
        raise BodyRefused("not_an_event", f"The body is not an event: {error}.") from None
    except msgspec.DecodeError as error:
        if half_a_character(body):
            raise BodyRefused(
                "lone_surrogate",
                "A string in the body holds half a character: a \\ud800 to \\udfff without its other half.",
            ) from None
        raise BodyRefused("not_json", f"The body is not JSON: {error}.") from None


def printable(name: str, value: str) -> str:
    """`value`, if it can be an id or a type; raises `BodyRefused` for control characters, and for texts that are empty
    or too long."""
    if 0 < len(value) <= LONGEST_NAME and value.isprintable():
        return value
    code = f"{name.replace('webhook-', '')}_invalid"
    raise BodyRefused(code, f"`{name}` must be 1 to {LONGEST_NAME} printable characters.")


def understand(decoder: msgspec.json.Decoder[T], body: bytes, event_type: str) -> T:
    """Decode in the bookkeeper. Raises `Unprocessable` with the type, what was expected, and where."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise misunderstood(event_type, error) from None


def misunderstood(what: str, error: Exception) -> Unprocessable:
    """msgspec's error as a dead letter's reason, without the `$` that its paths start with."""
    return Unprocessable(f"{what}: {str(error).replace('`$.', '`')}")


def whole(value: BookObject, what: str) -> BookObject:
    """`value`, if its currency exists and nothing is missing that its kind cannot be without."""
    currency = getattr(value, "currency", None)
    if currency is not None and not known_currency(currency):
        raise Unprocessable(f"{what}: {currency!r} is not a currency of ISO 4217 in lower case - at `currency`")
    needed = _NEEDED.get(value.kind)
    if needed is not None and not value.deleted and getattr(value, needed) is None:
        raise Unprocessable(f"{what}: Object missing required field `{needed}`")
    return value
