"""Where billhook may connect to, whatever notation hides it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.errors import SettingsError
from billhook.rules.addresses import is_localhost, literal, parse_networks, refusal, url_refusal


def listed(text: str) -> list[str]:
    return text.split()


SPECIAL = listed("""
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.255.255.255
    168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.31.196.1
    192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255
    :: ::1 100::1 100:0:0:1::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff::1 2001:db8::1 2620:4f:8000::1 3fff::1 4000::1
    5f00::1 fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::a9fe:a9fe fec0::1 feff::1 ff02::1 ::ffff:0:808:808
""")

PUBLIC = listed("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.255.255
    169.255.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.0.3.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1
    203.0.112.255 203.0.114.1 223.255.255.255
    2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450::1 2620:4f:7fff::1 3ffe:ffff::1
""")

FORMS = ("mapped", "compatible", "6to4", "nat64", "teredo server", "teredo client", "isatap", "isatap unique")


def wrapped(address: IPv4Address, form: str, public: int = int(IPv4Address("8.8.8.8"))) -> IPv6Address:
    """The IPv6 address in which a form carries an IPv4 one."""
    value = int(address)
    return IPv6Address(
        {
            "mapped": 0xFFFF << 32 | value,
            "compatible": value,
            "6to4": 0x2002 << 112 | value << 80 | 1,
            "nat64": 0x0064_FF9B << 96 | value,
            "teredo server": 0x2001_0000 << 96 | value << 64 | (~public & 0xFFFFFFFF),
            "teredo client": 0x2001_0000 << 96 | public << 64 | (~value & 0xFFFFFFFF),
            "isatap": 0x2A00_1450 << 96 | 0x5EFE << 32 | value,
            "isatap unique": 0x2A00_1450 << 96 | 0x0200_5EFE << 32 | value,
        }[form]
    )


def local_nat64(address: IPv4Address, prefix_bits: int) -> IPv6Address:
    """RFC 6052 section 2.2: after the prefix, around the ninth octet, which is zero."""
    prefix = IPv6Address("64:ff9b:1::").packed[: prefix_bits // 8]
    if prefix_bits == 96:
        return IPv6Address(prefix + address.packed)
    octets = (prefix + address.packed).ljust(15, b"\0")
    return IPv6Address(octets[:8] + b"\0" + octets[8:])


@pytest.mark.parametrize("address", SPECIAL)
def test_what_is_not_the_public_internet_is_refused(address: str) -> None:
    assert refusal(ip_address(address), ())


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_not(address: str) -> None:
    assert refusal(ip_address(address), ()) is None


def test_a_refusal_says_what_the_address_is() -> None:
    assert refusal(ip_address("127.0.0.1"), ()) == "a loopback address"
    assert refusal(ip_address("169.254.169.254"), ()) == "a link-local address (cloud metadata)"
    assert refusal(ip_address("255.255.255.255"), ()) == "the broadcast address"
    assert refusal(ip_address("fd00:ec2::254"), ()) == "a cloud's metadata service"
    assert refusal(ip_address("::ffff:10.0.0.1"), ()) == "a private address, written as IPv4-mapped IPv6"


@given(st.ip_addresses(v=4) | st.sampled_from([IPv4Address(a) for a in SPECIAL if "." in a]), st.sampled_from(FORMS))
def test_an_address_is_judged_alike_in_every_form_that_carries_it(address: IPv4Address, form: str) -> None:
    assert bool(refusal(wrapped(address, form), ())) == bool(refusal(address, ()))


@given(st.sampled_from([IPv4Address(a) for a in SPECIAL if "." in a]), st.sampled_from([48, 56, 64, 96]))
def test_a_local_nat64_prefix_of_any_length_hides_nothing(address: IPv4Address, prefix_bits: int) -> None:
    assert refusal(local_nat64(address, prefix_bits), ())


@pytest.mark.parametrize("prefix_bits, refused", [(48, True), (56, True), (64, False), (96, False)])
def test_and_the_internet_is_let_through_if_no_reading_leads_elsewhere(prefix_bits: int, refused: bool) -> None:
    # Behind the shorter prefixes the last 32 bits are zeros, and a longer prefix would make them 0.0.0.0.
    assert bool(refusal(local_nat64(IPv4Address("203.1.113.7"), prefix_bits), ())) == refused


def test_an_address_inside_a_private_prefix_is_as_private_as_its_prefix() -> None:
    assert refusal(ip_address("fe80::5efe:8.8.8.8"), ()) == "a link-local address"


@given(st.ip_addresses(v=4), st.sampled_from([form for form in FORMS if "isatap" not in form]))
def test_what_is_allowed_is_allowed_in_every_form(address: IPv4Address, form: str) -> None:
    assert refusal(address, parse_networks("0.0.0.0/0")) is None
    if int(address) > 1:  # ::0 and ::1 are themselves
        assert refusal(wrapped(address, form), parse_networks("0.0.0.0/0")) is None
    assert refusal(wrapped(address, form), parse_networks("::/0")) is None


def test_only_what_is_allowed_is() -> None:
    allowed = parse_networks("10.0.0.0/8")
    assert refusal(ip_address("10.1.2.3"), allowed) is None
    assert refusal(ip_address("::ffff:10.1.2.3"), allowed) is None
    assert refusal(ip_address("11.0.0.0"), allowed) is None
    assert refusal(ip_address("192.168.0.1"), allowed)
    assert refusal(ip_address("::ffff:127.0.0.1"), allowed)


@st.composite
def notations(draw: st.DrawFn) -> tuple[IPv4Address, str]:
    """An IPv4 address, written in one of the ways that C's `inet_aton` reads."""
    address = IPv4Address(draw(st.integers(0, 2**32 - 1)))
    value, parts = int(address), draw(st.integers(1, 4))
    numbers = [value >> 24 - 8 * place & 0xFF for place in range(parts - 1)]
    numbers.append(value & (1 << 8 * (5 - parts)) - 1)
    spellings = ("{}", "{:#x}", "{:#X}", "0{:o}", "000{:o}", "0x000{:x}")
    return address, ".".join(draw(st.sampled_from(spellings)).format(number) for number in numbers)


@given(notations())
def test_every_notation_is_the_address_it_is_to_c(written: tuple[IPv4Address, str]) -> None:
    address, text = written
    assert IPv4Address(socket.inet_aton(text)) == address
    assert literal(text) == literal(text + ".") == address


@given(notations())
def test_and_is_judged_as_that_address(written: tuple[IPv4Address, str]) -> None:
    address, text = written
    refused = url_refusal(f"https://{text}/", allowed=(), allow_http=False)
    assert refused or text == str(address)
    if why := refusal(address, ()):
        assert refused == f"{urlsplit(f'//{text}').hostname} is {why}"


@given(st.text(st.sampled_from("0123456789abcdefxXg.-"), max_size=20))
def test_what_c_does_not_read_is_a_name(text: str) -> None:
    try:
        expected = IPv4Address(socket.inet_aton(text))
    except OSError:
        # What has the last word on a bare `0x` differs; here it is a zero, and so refused.
        assert literal(text) is None or text.endswith(".") or "0x" in text.lower()
    else:
        assert literal(text) == expected


@pytest.mark.parametrize(
    "host",
    [
        "１２７.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127．0｡0．1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "::1%eth0",
    ],
)
def test_unicode_brackets_and_zones_hide_nothing(host: str) -> None:
    address = literal(host)
    assert address is not None
    assert "loopback" in str(refusal(address, ()))


@given(st.text())
def test_any_text_is_an_address_or_a_name(text: str) -> None:
    literal(text)
    is_localhost(text)
    url_refusal(text, allowed=(), allow_http=True)
    url_refusal(f"https://{text}/", allowed=(), allow_http=True)


def test_https_is_required_unless_http_is_allowed() -> None:
    assert url_refusal("https://hooks.example/in", allowed=(), allow_http=False) is None
    assert url_refusal("HTTPS://8.8.8.8:8443/", allowed=(), allow_http=False) is None
    assert url_refusal("http://hooks.example/in", allowed=(), allow_http=False) == "only https:// is posted to"
    assert url_refusal("http://hooks.example/in", allowed=(), allow_http=True) is None
    assert url_refusal("ftp://hooks.example/in", allowed=(), allow_http=True) == (
        "only https:// is posted to, and http://"
    )


def test_a_url_is_refused_for_its_address_and_for_localhost() -> None:
    loopback = parse_networks("127.0.0.0/8")
    assert url_refusal("https://10.0.0.1/", allowed=(), allow_http=False) == "10.0.0.1 is a private address"
    assert url_refusal("https://[::1]:8443/", allowed=(), allow_http=False) == "::1 is a loopback address"
    assert url_refusal("https://LocalHost./", allowed=(), allow_http=False) == "localhost. is a loopback address"
    assert url_refusal("https://a.localhost/", allowed=(), allow_http=False) == "a.localhost is a loopback address"
    assert url_refusal("https://localhost/", allowed=loopback, allow_http=False) is None
    assert url_refusal("https://localhost/", allowed=parse_networks("::1"), allow_http=False) is None
    assert url_refusal("https://127.0.0.1/", allowed=loopback, allow_http=False) is None
    assert url_refusal("https://localhost.example/", allowed=(), allow_http=False) is None
    assert url_refusal("https://vault.internal/", allowed=(), allow_http=False) is None


def test_an_allowed_address_must_be_written_plainly() -> None:
    assert url_refusal("https://0x7f.1/", allowed=parse_networks("127.0.0.1"), allow_http=False) == (
        "0x7f.1 must be written as 127.0.0.1"
    )


def test_networks_are_read_as_operators_write_them() -> None:
    assert parse_networks("") == parse_networks(" , ") == ()
    assert [str(network) for network in parse_networks(" 10.0.0.0/8,192.0.2.7, fd00::/8,::1 ")] == [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "fd00::/8",
        "::1/128",
    ]


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.1.2.3/8", "intranet", "10.0.0.0-10.0.0.9", "0x7f.1"])
def test_the_entry_that_is_no_network_is_named(entry: str) -> None:
    with pytest.raises(SettingsError, match=entry):
        parse_networks(f"192.168.0.0/16, {entry}")
