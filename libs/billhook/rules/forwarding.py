"""Who asks, where proxies stand between: each of them adds to `X-Forwarded-For` the address that it was asked from.

Whoever asks may have begun the list with anything, so it is read from its end, and only as far as proxies of ours wrote
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from billhook.rules.addresses import Address, Network

ONE_HOUSE = 64
"""Bits of an IPv6 address that its holder does not choose: whoever has one has all that share them."""


def asked_from(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The last address that is none of a `trusted` proxy; `peer` is who is connected, `forwarded` the headers' values,
    in their order."""
    known = peer
    for said in (peer, *reversed([one for line in forwarded for one in line.split(",")])):
        address = _read(said)
        if address is None:
            return known  # whoever wrote that was trusted, and did not say whom it asks for
        known = str(address)
        if not any(address in network for network in trusted):
            return known
    return known


def whose(address: str) -> str:
    """What to count somebody by who asks from there."""
    read = _read(address)
    if not isinstance(read, IPv6Address):
        return address if read is None else str(read)
    return f"{IPv6Address(int(read) >> 128 - ONE_HOUSE << 128 - ONE_HOUSE)}/{ONE_HOUSE}"


def _read(said: str) -> Address | None:
    """`192.0.2.7`, `2001:db8::7`, and with a port as some proxies write it: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    text = said.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
