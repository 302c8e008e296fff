"""What is one letter to people is replaced as one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.documents.clusters import clusters, replaced

LETTERS = [
    "a",
    "e\u0301",  # é
    "\u0e19\u0e49",  # Thai, with a tone
    "\U0001f468\u200d\U0001f33e",  # a farmer
    "\U0001f44d\U0001f3fd",  # thumbs up, of a skin
    "\U0001f1e9\U0001f1ea",  # a flag
    "\U0001f3f4\U000e0067\U000e0062\U000e007f",  # a region's flag
    "\u2764\ufe0f",  # a red heart
    "\u0031\ufe0f\u20e3",  # a key
]


@given(st.lists(st.sampled_from(LETTERS)))
def test_text_is_cut_into_letters_and_nothing_is_lost(letters: list[str]) -> None:
    assert list(clusters("".join(letters))) == letters


@pytest.mark.parametrize("letter", LETTERS[1:])
def test_a_letter_goes_as_a_whole_wherever_it_stands(letter: str) -> None:
    document = {"name": f'x{letter}" \\n', "lines": [[letter, 1, None]], letter: "the keys stay"}
    made, found = replaced(msgspec.json.encode(document), [letter[-1]], "?")
    assert msgspec.json.decode(made) == {"name": 'x?" \\n', "lines": [["?", 1, None]], letter: "the keys stay"}
    assert found == [letter]
