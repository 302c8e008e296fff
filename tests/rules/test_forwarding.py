"""Whose tries they are, behind proxies and before liars."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.addresses import parse_networks
from billhook.rules.forwarding import asked_from, whose

OURS = parse_networks("10.0.0.0/8, fd00::/8")
GUEST = "198.51.100.7"


@pytest.mark.parametrize(
    "peer, forwarded, asker",
    [
        (GUEST, [], GUEST),
        (GUEST, ["203.0.113.1"], GUEST),  # nobody asked it to say so
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [GUEST], GUEST),
        ("10.0.0.1", ["203.0.113.1, " + GUEST], GUEST),
        ("10.0.0.1", ["203.0.113.1", GUEST], GUEST),  # a proxy that adds a header of its own
        ("10.0.0.1", [GUEST + ", 10.0.0.2"], GUEST),
        ("10.0.0.1", ["10.9.9.9, 10.0.0.2"], "10.9.9.9"),  # a machine of ours asks
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [GUEST + ", _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [GUEST + ","], "10.0.0.1"),
        ("10.0.0.1", [GUEST + ":4711"], GUEST),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:" + GUEST], GUEST),
        ("fd00::1", ["2001:DB8:0::7"], "2001:db8::7"),
        ("", ["203.0.113.1"], ""),  # a socket without an address
    ],
)
def test_the_last_that_is_none_of_ours_asks(peer: str, forwarded: list[str], asker: str) -> None:
    assert asked_from(peer, forwarded, OURS) == asker


@given(st.lists(st.text(max_size=40), max_size=4))
def test_nothing_that_a_guest_says_is_believed(said: list[str]) -> None:
    assert asked_from("10.0.0.1", [*said, GUEST], OURS) == GUEST
    assert asked_from(GUEST, said, OURS) == GUEST


def test_whoever_holds_a_network_of_ipv6_is_one() -> None:
    assert whose("2001:db8::1") == whose("2001:db8::ffff:1%eth0") != whose("2001:db8:0:1::1")
    assert whose("198.51.100.7") != whose("198.51.100.8")
    assert whose("") == ""
