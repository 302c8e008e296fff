"""A person is found in what is stored however their words were written there, and nobody else is taken for them."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.erasing import mentions, traces_of

LETTERS = st.characters(categories=["L", "N"])
ADDRESSES = st.builds("{}.{}@{}.test".format, *[st.text(LETTERS, min_size=1, max_size=6)] * 3)
IDS = st.text(LETTERS, min_size=1, max_size=12).map("cus_{}".format)

Spell = Callable[[str, list[int]], str]


def as_json(text: str, dice: list[int]) -> str:
    """Each character as it is or as an escape, in capitals or not."""
    out = []
    for number, character in enumerate(text):
        how = dice[number % len(dice)] % 3
        if how == 0 or character in '"\\':
            out.append(json.dumps(character, ensure_ascii=False)[1:-1])
            continue
        units = character.encode("utf-16-be").hex()
        units = units.upper() if how == 1 else units
        out.append("".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)))
    return '{"of":"' + "".join(out) + '"}'


def as_form(text: str, dice: list[int]) -> str:
    return f"of={quote_plus(text)}&then=1" if dice[0] % 2 else f"https://a.test/{quote(text, safe='')}/x"


def as_markup(text: str, dice: list[int]) -> str:
    out = []
    for number, character in enumerate(text):
        ways = (html.escape(character), f"&#{ord(character)};", f"&#x{ord(character):x};")
        out.append(ways[dice[number % len(dice)] % 3])
    return f"<p>{''.join(out)}</p>"


@given(
    word=st.one_of(ADDRESSES, IDS),
    foldings=st.lists(st.sampled_from([as_json, as_form, as_markup]), max_size=3),
    dice=st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_words_are_found_in_every_spelling_of_every_depth(word: str, foldings: list[Spell], dice: list[int]) -> None:
    stored = f" {word} "
    for fold in foldings:
        stored = fold(stored, dice)
    assert mentions(stored.encode(), traces_of([word]))
    assert mentions(stored.encode(), traces_of(["cus_nobody", word]))


@pytest.mark.parametrize(
    "stored",
    [
        b'{"email":"J\\u00fcrgen@m\\u00FCller.test"}',
        b'{"email":"Ju\\u0308rgen@m\xc3\xbcller.test"}',
        b"to=J%C3%BCrgen%40m%c3%bcller.test",
        b"to=J%FCrgen%40m%FCller.test",
        "jürgen@müller.test".encode("latin-1"),
        b"<a href='mailto:j&uuml;rgen@xn--mller-kva.test'>",
        'cut off: {"email":"JÜRGEN@müller.test","name":"ü'.encode()[:-1],
    ],
)
def test_an_address_is_the_same_in_other_letters_and_in_the_names_of_the_dns(stored: bytes) -> None:
    assert mentions(stored, traces_of(["jürgen@müller.test"]))
    assert mentions(stored, traces_of(["jürgen@xn--mller-kva.test"]))


@pytest.mark.parametrize(
    ("word", "stored"),
    [
        ("cus_1", b'{"customer":"cus_12"}'),
        ("cus_1", b'{"customer":"acus_1"}'),
        ("42", b'{"amount":142,"id":"ord_42","at":"4-42-1"}'),
        ("ada", b'{"email":"ada@acme.test"}'),
        ("ada@acme.test", b'{"email":"mary.ada@acme.test"}'),
        ("ada@acme.test", b'{"email":"ada@acme.test.example"}'),
        ("ada@acme.test", b'{"email":"x+ada@acme.test"}'),
        ("ada@acme.test", b'{"text":"\\\\u0061da at acme.test"}'),
    ],
)
def test_whoever_has_a_longer_id_or_address_is_somebody_else(word: str, stored: bytes) -> None:
    assert not mentions(stored, traces_of([word]))


def test_nobody_is_mentioned_anywhere() -> None:
    assert not mentions(b'{"of":"\\ud83d", "and":"%zz&;"}', traces_of([]))


def test_large_bodies_without_any_folding_are_looked_through_once() -> None:
    assert not mentions(b'{"pdf":"' + b"A%" * 200_000 + b'\\n&"}', traces_of(["cus_1", "ada@acme.test"]))
