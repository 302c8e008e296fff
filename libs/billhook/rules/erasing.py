"""Whether what is stored speaks of a person, in whatever spelling it was written there.

Senders and receivers escape as they like: JSON (`\\u00fc`, `\\u00FC`, pairs of surrogates, `\\/`), forms and addresses
(`%C3%BC`, `+`), markup (`&uuml;`, `&#252;`), and each of these inside another. There are too many spellings to look
for; so what is stored is unfolded for as long as there is something to unfold, and looked through in each state.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote_to_bytes

DEEPEST: Final = 4
"""How many foldings are undone: a form in JSON in a text of JSON, and one more."""

_ESCAPES: Final = re.compile(r"""((?:\\u[0-9a-fA-F]{4})+)|\\(["\\/bfnrt])""")
_ESCAPED: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_FORM: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9+._*~-])+")


def traces_of(words: Iterable[str]) -> re.Pattern[str]:
    """What finds one of these ids and addresses, and none of which it is a part: `cus_12` is not `cus_1`, and
    `mary.ada@acme.test` is not `ada@acme.test`."""
    spelled = {_plain(spelling): "@" in word for word in words for spelling in _spellings(word)}
    each = (
        rf"(?<![\w.+%-]){re.escape(one)}(?![\w-]|\.\w)" if is_address else rf"(?<![\w-]){re.escape(one)}(?![\w@-])"
        for one, is_address in spelled.items()
    )
    return re.compile("|".join(each) or r"(?!)")


def mentions(stored: bytes, traces: re.Pattern[str]) -> bool:
    return any(traces.search(_plain(text)) for text in _unfolded(stored))


def _spellings(word: str) -> Iterator[str]:
    yield word
    name, at, domain = word.rpartition("@")
    if at:
        with suppress(UnicodeError):  # no name that the DNS could know
            yield f"{name}@{domain.encode('idna').decode()}"
        with suppress(UnicodeError):
            yield f"{name}@{domain.encode().decode('idna')}"


def _plain(text: str) -> str:
    """Without the differences that are none to a reader: large and small, one character or a letter and its accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _unfolded(stored: bytes) -> Iterator[str]:
    try:
        texts = {stored.decode()}
    except UnicodeDecodeError:  # another encoding, or UTF-8 that was cut off
        texts = {stored.decode(errors="replace"), stored.decode("latin-1")}
    seen = set(texts)
    for _ in range(DEEPEST):
        yield from texts
        texts = {other for text in texts for other in _undone(text)} - seen
        seen |= texts
    yield from texts


def _undone(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _ESCAPES.sub(_of_json, text)
    if "%" in text:
        yield _FORM.sub(_of_form, text)
    if "&" in text:
        yield html.unescape(text)


def _of_json(match: re.Match[str]) -> str:
    if match[1] is None:
        return _ESCAPED.get(match[2], match[2])
    units = b"".join(int(unit, 16).to_bytes(2, "big") for unit in match[1].split("\\u")[1:])
    return units.decode("utf-16-be", errors="replace")


def _of_form(match: re.Match[str]) -> str:
    if "%" not in match[0]:
        return match[0]
    octets = unquote_to_bytes(match[0].replace("+", " "))
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")
