"""Names become addresses by c-ares: here against a name server of our own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from outlets.endpoint import LOOPBACK, Poster, agrees, endpoint, in_a_loop, posting
from outlets.name_server import SERVFAIL, NameServer, Zone, name_server

from billhook.outlets.webhooks.client import WebhookClient
from billhook.outlets.webhooks.resolver import LOOKUP_SECONDS, Found, Names
from billhook.rules.addresses import Address


@asynccontextmanager
async def looking_up(server: NameServer, **settings: float) -> AsyncIterator[Names]:
    found = Names([server.address], **settings)
    try:
        yield found
    finally:
        found.close()


async def addresses_of(names: Names, host: str) -> list[Address]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Found | OSError] = loop.create_future()
    names.lookup(host, lambda found: loop.call_soon_threadsafe(future.set_result, found) and None)
    found = await future
    assert isinstance(found, Found)
    return list(found.addresses)


@in_a_loop
async def test_a_name_is_looked_up_and_reached() -> None:
    async with (
        name_server({"hooks.example": ["127.0.0.1"]}) as server,
        looking_up(server) as found,
        endpoint(agrees) as receiver,
        posting(lookup=found.lookup) as poster,
    ):
        response = await poster.post(receiver.url("hooks.example"), {}, b"{}")
        assert response.outcome == "2xx"
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
        assert server.asked == {"hooks.example": 1}


@in_a_loop
async def test_all_addresses_of_both_families_are_found_and_vetted() -> None:
    zone: Zone = {
        "good.example": ["127.0.0.1", "127.0.0.2"],
        "bad.example": ["127.0.0.1", "10.0.0.1"],
        "sly.example": ["127.0.0.1", "::ffff:10.0.0.1"],
        "six.example": ["fd00:ec2::254"],
    }
    async with (
        name_server(zone) as server,
        looking_up(server) as found,
        endpoint(agrees) as receiver,
        posting(lookup=found.lookup) as poster,
    ):
        outcomes = {name: (await poster.post(receiver.url(name), {}, b"{}")).outcome for name in zone}
        assert receiver.connections == 1
    assert outcomes == {
        "good.example": "2xx",
        "bad.example": "refused",
        "sly.example": "refused",
        "six.example": "refused",
    }


@in_a_loop
async def test_a_name_that_is_not_there_is_a_matter_of_dns() -> None:
    zone: Zone = {"broken.example": SERVFAIL, "empty.example": []}
    async with name_server(zone) as server, looking_up(server) as found, posting(lookup=found.lookup) as poster:
        for name in ("nobody.example", "broken.example", "empty.example"):
            response = await poster.post(f"http://{name}/", {}, b"{}")
            assert (response.outcome, response.connected) == ("dns", False)
            assert str(response.error).startswith(f"{name} was not found: ")


@in_a_loop
async def test_a_host_that_cannot_be_is_looked_up_by_nobody() -> None:
    async with name_server({}) as server, looking_up(server) as found, posting(lookup=found.lookup) as poster:
        for name in ("a..b", "x" * 64 + ".example"):
            response = await poster.post(f"http://{name}/", {}, b"{}")
            assert (response.outcome, response.connected) == ("refused", False)
        assert not server.asked


@in_a_loop
async def test_a_name_server_that_never_answers_holds_up_only_those_who_ask_it() -> None:
    async with (
        name_server({"silent.example": None, "hooks.example": ["127.0.0.1"]}) as server,
        looking_up(server) as found,
        endpoint(agrees) as receiver,
        posting(connections=50, lookup=found.lookup) as poster,
    ):
        silent = [asyncio.create_task(poster.post("http://silent.example/", {}, b"{}")) for _ in range(40)]
        while not server.asked["silent.example"]:
            await asyncio.sleep(0.001)
        for _ in range(5):
            assert (await poster.post(receiver.url("hooks.example"), {}, b"{}")).outcome == "2xx"
        # The threads that SQL is read and written in are free, too.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: True), 60)
        assert not any(task.done() for task in silent)
        assert {(await task).outcome for task in silent} == {"dns"}
        assert f"no name server answered within {LOOKUP_SECONDS:g} s" in str(silent[0].result().error)


@in_a_loop
async def test_the_deadline_covers_the_lookup() -> None:
    async with (
        name_server({"silent.example": None}) as server,
        looking_up(server) as found,
        posting(lookup=found.lookup) as poster,
    ):
        response = await poster.post("http://silent.example/", {}, b"{}", deadline_seconds=0.2)
    assert (response.outcome, response.error) == ("timeout", "no complete answer within 0.2 s")


@in_a_loop
async def test_a_name_that_turns_to_a_private_address_is_refused_at_the_next_lookup() -> None:
    zone: Zone = {"rebinding.example": ["127.0.0.1"]}
    async with (
        name_server(zone) as server,
        looking_up(server) as found,
        endpoint(agrees) as receiver,
        endpoint(agrees) as canary,
    ):
        url = receiver.url("rebinding.example")
        async with posting(lookup=found.lookup) as poster:
            assert (await poster.post(url, {}, b"{}")).outcome == "2xx"
            zone["rebinding.example"] = ["10.0.0.1"]
            # A connection that is kept stays with the address that was vetted; what the name is now is not asked.
            again = await poster.post(url, {}, b"{}")
            assert (again.outcome, again.connected) == ("2xx", False)
            assert server.asked == {"rebinding.example": 1}
            # One to another port must be made, and the name is asked for again.
            assert (await poster.post(canary.url("rebinding.example"), {}, b"{}")).outcome == "refused"
        async with posting(lookup=found.lookup) as poster:
            assert (await poster.post(url, {}, b"{}")).outcome == "refused"
        assert (receiver.connections, canary.connections) == (1, 0)


@in_a_loop
async def test_an_answer_is_asked_for_again_though_it_says_it_holds_for_a_day() -> None:
    async with name_server({"hooks.example": ["192.0.2.1"]}, ttl=86400) as server:
        async with looking_up(server) as found:
            for _ in range(3):
                assert [str(address) for address in await addresses_of(found, "hooks.example")] == ["192.0.2.1"]
            assert server.asked == {"hooks.example": 1}
        async with looking_up(server, cache_seconds=0) as found:
            for _ in range(3):
                await addresses_of(found, "hooks.example")
            assert server.asked["hooks.example"] > 2


@in_a_loop
async def test_the_hosts_file_is_read() -> None:
    own = socket.gethostname()
    hosts = [line.split() for line in Path("/etc/hosts").read_text().splitlines() if not line.startswith("#")]
    if not any(own in line for line in hosts):
        pytest.skip("this machine is not in its own /etc/hosts")
    found = Names(["127.0.0.1:9"])  # nobody there: what is found is found in the file
    assert await addresses_of(found, own)
    found.close()


@in_a_loop
async def test_a_poster_looks_names_up_by_itself() -> None:
    client = WebhookClient(connections=1, reach=LOOPBACK)
    async with endpoint(agrees) as receiver:
        assert (await Poster(client).post(receiver.url("localhost"), {}, b"{}")).outcome == "2xx"
    await asyncio.to_thread(client.close)


@in_a_loop
async def test_an_address_is_not_used_for_longer_than_its_answer_lives() -> None:
    async with (
        name_server({"hooks.example": ["127.0.0.1"]}, ttl=0) as server,
        looking_up(server) as found,
        endpoint(agrees) as receiver,
        endpoint(agrees) as other,
        posting(lookup=found.lookup) as poster,
    ):
        for place in (receiver, other):
            assert (await poster.post(place.url("hooks.example"), {}, b"{}")).outcome == "2xx"
        assert server.asked == {"hooks.example": 2}
