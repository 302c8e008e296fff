"""Where billhook may connect to: merchants choose URLs, and must not send it against its own network (SSRF).

The tables are IANA's registries of special-purpose addresses (RFC 6890 and its updates; IPv6 as allocated for global
unicast) and what clouds keep to themselves. They stand here because those of `ipaddress` change from one patch release
of Python to the next.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final
from urllib.parse import urlsplit

from billhook.errors import SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
"""What `localhost` and all names under it mean, whatever a DNS server may say (RFC 6761 section 6.3)."""

# The first match counts, so the narrower range stands first.
_IPV4: Final = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "an address on this network"),
        ("10.0.0.0/8", "a private address"),
        ("100.100.100.200/32", "a cloud's metadata service"),  # Alibaba
        ("100.64.0.0/10", "a carrier's shared address"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud's metadata service"),  # Azure, in the midst of public addresses
        ("169.254.0.0/16", "a link-local address (cloud metadata)"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address for protocols (IETF)"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.31.196.0/24", "an anycast address for DNS (AS112)"),
        ("192.52.193.0/24", "an address for multicast tunnels"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("192.175.48.0/24", "an anycast address for DNS (AS112)"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)

_IPV6: Final = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("::/128", "the unspecified address"),
        ("::1/128", "a loopback address"),
        ("100::/63", "an address that discards what it gets"),
        ("2001::/23", "an address for protocols (IETF)"),
        ("2001:db8::/32", "an address for documentation"),
        ("2620:4f:8000::/48", "an anycast address for DNS (AS112)"),
        ("3fff::/20", "an address for documentation"),
        ("5f00::/16", "an address for segment routing"),
        ("fd00:ec2::254/128", "a cloud's metadata service"),  # Amazon
        ("fd20:ce::254/128", "a cloud's metadata service"),  # Google
        ("fc00::/7", "a private address (unique local)"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address (site-local)"),
        ("ff00::/8", "a multicast address"),
    )
)

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All that IANA has given out for the internet so far; what lies outside is for something else, or for nothing yet."""

_32_BITS = 0xFFFFFFFF

LONGEST_NAME: Final = 253
LONGEST_LABEL: Final = 63
_NAME_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-_.")


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """None if billhook may connect to it, else what it is. `allowed` wins, whichever form of the address it names."""
    if any(address in network for network in allowed):
        return None
    if isinstance(address, IPv4Address):
        return _named(address, _IPV4)
    form, inner = _inner(address)
    for hidden in inner:
        if why := refusal(hidden, allowed):
            return f"{why}, written as {form}"
    if form and form != "ISATAP":
        return None
    why = _named(address, _IPV6)
    return why if why or address in _GLOBAL_UNICAST else "not a public address"


def _named(address: Address, table: Iterable[tuple[Network, str]]) -> str | None:
    return next((why for network, why in table if address in network), None)


def _inner(address: IPv6Address) -> tuple[str, tuple[IPv4Address, ...]]:
    """The IPv4 addresses to which a packet for this one may be taken on the way, and the form that carries them."""
    value = int(address)
    match value >> 32:
        case 0xFFFF:
            return "IPv4-mapped IPv6", _ipv4(value)
        case 0 if value > 1:  # 0 and 1 are the unspecified address and loopback
            return "IPv4-compatible IPv6", _ipv4(value)
        case 0x0064_FF9B_0000_0000_0000_0000:
            return "NAT64", _ipv4(value)
    if value >> 80 == 0x0064_FF9B_0001:
        return "NAT64", _local_nat64(address.packed)
    if value >> 112 == 0x2002:
        return "6to4", _ipv4(value >> 80)
    if value >> 96 == 0x2001_0000:
        return "Teredo", _ipv4(value >> 64, ~value)  # the server, and the client with its bits turned (RFC 4380)
    if value >> 32 & 0xFDFF_FFFF == 0x0000_5EFE:  # with or without the bit for “unique” (RFC 5214 section 6.1)
        return "ISATAP", _ipv4(value)
    return "", ()


def _ipv4(*values: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(value & _32_BITS) for value in values)


def _local_nat64(packed: bytes) -> tuple[IPv4Address, ...]:
    """64:ff9b:1::/48 is cut up as each network likes (RFC 8215), so every reading that RFC 6052 section 2.2 has counts.

    The address follows a prefix of 48, 56, 64 or 96 bits, the ninth octet is skipped, and zeros fill the end.
    """
    octets = packed[:8] + packed[9:]
    return tuple(IPv4Address(octets[at : at + 4]) for at in (6, 7, 8, 11) if not any(octets[at + 4 :]))


def literal(host: str) -> Address | None:
    """The address that the host of a URL denotes without DNS, in any notation that `inet_aton` takes; None for a name.

    `127.0.0.1`, `127.1`, `2130706433`, `0x7f000001` and `0177.0.0.1` are one address to a resolver.
    """
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")  # full-width digits, circled digits, the ideographic full stop
        except UnicodeError:
            return None
    host = host.removeprefix("[").removesuffix("]")
    if ":" in host:
        try:
            return IPv6Address(host.partition("%")[0])  # a zone says through which interface, not to whom
        except ValueError:
            return None
    numbers = [_number(part) for part in host.removesuffix(".").split(".")]
    if len(numbers) > 4 or None in numbers:
        return None
    *first, last = (number for number in numbers if number is not None)
    if any(number > 0xFF for number in first) or last >> 8 * (4 - len(first)):
        return None
    return IPv4Address(last + sum(number << 24 - 8 * place for place, number in enumerate(first)))


def _number(text: str) -> int | None:
    """A part of an IPv4 address as C reads it: `0x` is hexadecimal, a leading zero octal."""
    if text[:2] in ("0x", "0X"):
        digits, base, alphabet = text[2:] or "0", 16, string.hexdigits
    elif text[:1] == "0":
        digits, base, alphabet = text, 8, string.octdigits
    else:
        digits, base, alphabet = text, 10, string.digits
    # More decimal digits than 32 bits can fill; `int` would refuse thousands of them.
    if not digits or not set(digits) <= set(alphabet) or (base == 10 and len(digits) > 10):
        return None
    return int(digits, base)


def is_localhost(host: str) -> bool:
    name = host.removesuffix(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def host_refusal(host: str) -> str | None:
    """Why no DNS server anywhere can have this name; None if one may (RFC 1035 section 2.3.4, and RFC 3696: the last
    label of a name is never all digits, so what ends in a number is an IPv4 address or nothing)."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        name = host  # an empty or too long label; or letters that are newer than the table, which a client may know
    name = name.removesuffix(".")
    labels = name.split(".")
    if not all(labels):
        return "two of its dots have nothing between them"
    if len(name) > LONGEST_NAME or any(len(label) > LONGEST_LABEL for label in labels):
        return f"names have {LONGEST_NAME} characters at most, and {LONGEST_LABEL} between two dots"
    if name.isascii() and not set(name) <= _NAME_CHARACTERS:
        return "a name has letters, digits, hyphens and dots"
    if labels[-1].isdecimal() or _number(labels[-1]) is not None:
        return "it ends in a number and is no IPv4 address"
    return None


def url_refusal(url: str, *, allowed: Sequence[Network], allow_http: bool) -> str | None:
    """Why billhook would never post to this URL, as far as can be said without asking DNS; None if it may."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "it is not a URL"
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        return "only https:// is posted to" + (", and http://" if allow_http else "")
    address = literal(host)
    if address is not None:
        if why := refusal(address, allowed):
            return f"{host} is {why}"
        if isinstance(address, IPv4Address) and host != str(address):
            return f"{host} must be written as {address}"  # the HTTP client reads no other notation
    elif ":" not in host and (why := host_refusal(host)):
        return f"there is no host {host[:80]!r}: {why}"
    elif is_localhost(host) and all(refusal(loopback, allowed) for loopback in LOOPBACK):
        return f"{host} is a loopback address"
    return None


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks as an operator writes them: `10.0.0.0/8, fd00::/8, 192.0.2.7`. Raises `SettingsError`."""
    networks = []
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            networks.append(ip_network(entry))
        except ValueError as error:
            raise SettingsError(f"{entry!r} is not a network such as 10.0.0.0/8 or fd00::/8: {error}") from None
    return tuple(networks)
