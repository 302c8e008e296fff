"""What people take for one letter: a character with all that is drawn onto it or melts with it.

Where a font lacks a part of one, all of it is replaced: a mark with the rest of an emoji behind it, or an accent on a
question mark, says what nobody wrote. The rules are those of Unicode's annex 29, as far as they matter for that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

_JOINER: Final = "\N{ZERO WIDTH JOINER}"


def clusters(text: str) -> Iterator[str]:
    """The text, cut into its letters."""
    cluster = ""
    for char in text:
        if cluster and _goes_on(cluster, char):
            cluster += char
        else:
            if cluster:
                yield cluster
            cluster = char
    if cluster:
        yield cluster


def _goes_on(cluster: str, char: str) -> bool:
    return (
        char == _JOINER
        or cluster[-1] == _JOINER
        or unicodedata.category(char) in ("Mn", "Me", "Mc")  # variation selectors are Mn
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin
        or "\U000e0020" <= char <= "\U000e007f"  # the tags of regions' flags
        or (len(cluster) == 1 and _is_flag(cluster) and _is_flag(char))
    )


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def replaced(json: bytes, missing: Collection[str], mark: str) -> tuple[bytes, list[str]]:
    """The JSON with a mark for each letter in its texts that has any of these characters in it, and those letters. An
    address is no text: with a mark in it, it would lead elsewhere."""
    characters, found = set("".join(missing)), dict[str, None]()

    def mended(value: Any) -> Any:
        match value:
            case str() if characters.intersection(value):
                return "".join(mark_of(cluster) for cluster in clusters(value))
            case list():
                return [mended(one) for one in value]
            case dict():
                return {key: one if key == "pay_url" else mended(one) for key, one in value.items()}
        return value

    def mark_of(cluster: str) -> str:
        if characters.isdisjoint(cluster):
            return cluster
        found[cluster] = None
        return mark

    return msgspec.json.encode(mended(msgspec.json.decode(json))), list(found)
