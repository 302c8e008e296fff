"""Where a poster goes and where it never goes, whatever the URL, the DNS and the environment say."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st
from outlets.endpoint import LOOPBACK, agrees, endpoint, in_a_loop, names, posting

from billhook.outlets.webhooks.connections import Connections, tls_context
from billhook.outlets.webhooks.http import Reach
from billhook.outlets.webhooks.resolver import Forbidden

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
    class Gullible(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET}
            return [ResolveResult(**found, proto=0, flags=0)]  # type: ignore[typeddict-item]

        async def close(self) -> None:
            pass

    connections = Connections(Gullible(), (), tls_context(None), limit=1)
    async with endpoint(agrees) as canary, aiohttp.ClientSession(connector=connections) as session:
        for host in ("receiver.test", "127.0.0.1", "[::1]"):
            with pytest.raises(Forbidden, match="loopback"):
                await session.post(canary.url(host))
        assert canary.connections == 0


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
