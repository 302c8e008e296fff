"""Where a poster goes and where it never goes, whatever the URL, the DNS and the environment say."""

from __future__ import annotations

import asyncio
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlets.endpoint import LOOPBACK, Poster, agrees, endpoint, in_a_loop, names, posting

from billhook.outlets.webhooks.client import Reach, WebhookClient

NOWHERE = Reach(allow_http=True)

LOOPBACK_HOSTS = """
    127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7F.1 017700000001 0177.0.0.1 127.0.0.1. 127.255.255.254 0 0.0.0.0
    [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::1]
    [2001:0:7f00:1::f7f7:f7f7] [2a00:1450::5efe:7f00:1] １２７.0.0.1 ①②⑦.0.0.1 127。0。0。1 localhost LOCALHOST.
    a.localhost
""".strip()


@pytest.mark.parametrize("host", LOOPBACK_HOSTS.split())
@in_a_loop
async def test_nothing_is_connected_to_under_any_name_of_this_machine(host: str) -> None:
    async with endpoint(agrees) as canary, posting(NOWHERE) as poster:
        response = await poster.post(canary.url(host), {}, b"{}")
        assert canary.connections == 0
    assert (response.outcome, response.connected, response.status_code) == ("refused", False, None)
    assert str(response.error).startswith("billhook does not connect there: ")


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8", "2606:4700::1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["fd00:ec2::254"],
    ],
)
@in_a_loop
async def test_one_bad_address_refuses_the_whole_name(addresses: list[str]) -> None:
    async with endpoint(agrees) as canary, posting(NOWHERE, lookup=names({"receiver.test": addresses})) as poster:
        response = await poster.post(canary.url(), {}, b"{}")
        assert canary.connections == 0
    assert response.outcome == "refused"
    assert "receiver.test resolves to " in str(response.error)
    assert not any(address in str(response.error) for address in addresses)


@in_a_loop
async def test_what_is_allowed_is_reached_by_address_and_by_name() -> None:
    async with endpoint(agrees) as receiver, posting() as poster:
        for host in ("receiver.test", "127.0.0.1", "localhost", "hooks.localhost"):
            assert (await poster.post(receiver.url(host), {}, b"{}")).outcome == "2xx"
            assert receiver.requests[-1].headers["host"] == f"{host}:{receiver.port}"


@in_a_loop
async def test_an_allowed_network_opens_no_other() -> None:
    here = names({"receiver.test": ["127.0.0.1"], "mixed.test": ["127.0.0.1", "10.0.0.1"]})
    async with endpoint(agrees) as receiver, posting(lookup=here) as poster:
        assert (await poster.post(receiver.url(), {}, b"{}")).outcome == "2xx"
        assert (await poster.post(receiver.url("mixed.test"), {}, b"{}")).outcome == "refused"
        assert (await poster.post(receiver.url("10.0.0.1"), {}, b"{}")).outcome == "refused"


@in_a_loop
async def test_plain_http_is_refused_unless_allowed() -> None:
    async with endpoint(agrees) as canary, posting(Reach(allowed=LOOPBACK.allowed)) as poster:
        response = await poster.post(canary.url(), {}, b"{}")
        assert canary.connections == 0
    assert response.outcome == "refused"
    assert str(response.error).endswith("only https:// is posted to")


@in_a_loop
async def test_the_last_word_is_with_the_address_that_is_connected_to() -> None:
    """Whatever was believed of a name before: the very socket is vetted."""
    async with endpoint(agrees) as canary:
        client = WebhookClient(connections=1, reach=NOWHERE, lookup=names({}))
        gullible = client._directory
        gullible.fresh = lambda host: frozenset([ip_address("127.0.0.1")])  # type: ignore[method-assign]
        response = await Poster(client).post(canary.url(), {}, b"{}")
        await asyncio.to_thread(client.close)
        assert canary.connections == 0
    assert (response.outcome, response.connected) == ("refused", False)
    assert "receiver.test is a loopback address" in str(response.error)


URLS = {
    **{
        url: url
        for url in (
            *("/hook?sp=%2Fa", "/%28%29?b=%3d", "/%c3%a4%2f?b=%2f", "/a/../b/./c", "/hook?c=%zz&d=%E4"),
            *("/a//b?x=1&x=2", "/hook?a=b+c"),
        )
    },
    "/hook#not-sent": "/hook",
    "?a=%3d": "/?a=%3d",
    "": "/",
}


@in_a_loop
async def test_the_url_goes_out_as_it_was_given() -> None:
    async with endpoint(agrees) as receiver, posting() as poster:
        for url in URLS:
            assert (await poster.post(f"http://receiver.test:{receiver.port}{url}", {}, b"{}")).outcome == "2xx"
        assert [request.head.split(" ")[1] for request in receiver.requests] == list(URLS.values())


@in_a_loop
async def test_what_no_url_can_hold_is_written_as_rfc_3987_has_it() -> None:
    async with endpoint(agrees) as receiver, posting() as poster:
        await poster.post(f"http://receiver.test:{receiver.port}/größe?a=%2F&b=é", {}, b"{}")
        (request,) = receiver.requests
    assert request.head.split(" ")[1] == "/gr%C3%B6%C3%9Fe?a=%2F&b=%C3%A9"


@in_a_loop
async def test_what_refuses_connections_is_said_to() -> None:
    async with endpoint(agrees) as receiver:
        url = receiver.url()
    async with posting() as poster:
        response = await poster.post(url, {}, b"{}")
    assert (response.outcome, response.connected) == ("connect", False)
    assert response.error == "no connection: Connection refused"


@in_a_loop
async def test_an_address_where_nobody_answers_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        crowd = [socket.socket() for _ in range(8)]  # fill the queue of those not yet accepted
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        async with posting() as poster:
            response = await poster.post(f"http://receiver.test:{port}/", {}, b"{}", deadline_seconds=1)
        for one in crowd:
            one.close()
    assert response.outcome == "timeout"


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "https:///path", "http://[::1", "http://a:99999/", "//a/b"])
@in_a_loop
async def test_what_is_no_url_is_said_to_be_none(url: str) -> None:
    async with posting() as poster:
        assert (await poster.post(url, {}, b"{}")).outcome in ("url", "refused")


@settings(deadline=None)
@given(
    st.text() | st.text(st.sampled_from("htps:/.@[]%#?0123456789abcdefx\\ \t\n"), max_size=40).map("http://".__add__)
)
def test_no_url_raises(url: str) -> None:
    async def story() -> None:
        async with posting(NOWHERE) as poster:
            response = await poster.post(url, {}, b"{}")
            assert response.outcome in ("url", "refused", "dns", "connect", "protocol")

    asyncio.run(story())


@in_a_loop
async def test_the_environment_sends_nothing_through_a_proxy_and_adds_no_password(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login merchant password secret\n")
    netrc.chmod(0o600)
    script = """
import asyncio, sys
from outlets.endpoint import posting
async def story():
    async with posting() as poster:
        print((await poster.post(sys.argv[1], {}, b"{}")).outcome)
asyncio.run(story())
"""
    async with endpoint(agrees) as receiver, endpoint(agrees) as proxy:
        environment = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), proxy.url("127.0.0.1"))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, receiver.url("127.0.0.1")),
            env=environment | {"NETRC": str(netrc), "PYTHONPATH": ":".join(filter(None, sys.path))},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await child.communicate()
        assert said.split() == [b"2xx"]
        assert proxy.connections == 0
        assert "authorization" not in receiver.requests[0].headers
