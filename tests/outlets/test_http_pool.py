"""Connections are kept and shared with care: no request is sent twice, and nobody's connection costs another's."""

from __future__ import annotations

import asyncio

from outlets.endpoint import OK, Peer, agrees, endpoint, in_a_loop, names, posting


@in_a_loop
async def test_a_second_request_uses_the_connection_of_the_first() -> None:
    async with endpoint(agrees) as receiver, posting() as poster:
        first, second = [await poster.post(receiver.url(), {}, b"{}") for _ in range(2)]
        assert receiver.connections == 1
    assert (first.connected, second.connected) == (True, False)


@in_a_loop
async def test_a_hundred_endpoints_keep_a_connection_each() -> None:
    hosts = [f"merchant-{number}.test" for number in range(100)]
    here = names({host: ["127.0.0.1"] for host in hosts})
    async with endpoint(agrees) as receiver, posting(connections=100, lookup=here) as poster:
        for round_number in range(2):
            responses = await asyncio.gather(*(poster.post(receiver.url(host), {}, b"{}") for host in hosts))
            assert {(response.outcome, response.connected) for response in responses} == {("2xx", round_number == 0)}
        assert receiver.connections == 100


@in_a_loop
async def test_no_more_connections_are_kept_than_were_granted() -> None:
    hosts = ["a.test", "b.test", "c.test"]
    here = names({host: ["127.0.0.1"] for host in hosts})
    async with endpoint(agrees) as receiver, posting(connections=2, lookup=here) as poster:
        made = [(await poster.post(receiver.url(host), {}, b"{}")).connected for host in [*hosts, "c.test", "a.test"]]
        assert made == [True, True, True, False, True]  # the one that was idle for longest gave way


@in_a_loop
async def test_no_more_requests_are_under_way_than_were_granted() -> None:
    under_way = most = 0
    three = asyncio.Event()

    async def story(peer: Peer) -> None:
        nonlocal under_way, most
        while True:
            await peer.request()
            under_way += 1
            most = max(most, under_way)
            if under_way == 3:
                three.set()
            await three.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            under_way -= 1
            await peer.send(OK)

    async with endpoint(story) as receiver, posting(connections=3) as poster:
        responses = await asyncio.gather(*(poster.post(receiver.url(), {}, b"{}") for _ in range(20)))
        assert {response.outcome for response in responses} == {"2xx"}
        assert receiver.connections <= most == 3


@in_a_loop
async def test_a_request_that_crosses_with_the_close_of_its_connection_is_not_sent_again() -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()  # and closes without a word

    async with endpoint(story) as receiver, posting() as poster:
        first, second = [await poster.post(receiver.url(), {}, body) for body in (b"1", b"2")]
        assert (first.outcome, second.outcome, second.connected) == ("2xx", "reset", False)
        assert [request.body for request in receiver.requests] == [b"1", b"2"]
        third = await poster.post(receiver.url(), {}, b"3")
        assert (third.outcome, third.connected) == ("2xx", True)


@in_a_loop
async def test_a_connection_is_not_kept_where_the_endpoint_says_so() -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await peer.gone()

    async with endpoint(story) as receiver, posting() as poster:
        for _ in range(2):
            assert (await poster.post(receiver.url(), {}, b"{}")).connected
        assert receiver.connections == 2


@in_a_loop
async def test_what_nobody_asked_for_ends_the_connection_instead_of_piling_up() -> None:
    sent = 0
    idle, ended = asyncio.Event(), asyncio.Event()

    async def story(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(OK)
        await idle.wait()
        peer.send_buffer(1 << 16)
        try:
            while True:
                await peer.send(OK * 100)
                sent += len(OK * 100)
        finally:
            ended.set()

    async with endpoint(story) as receiver, posting() as poster:
        assert (await poster.post(receiver.url(), {}, b"{}")).outcome == "2xx"
        idle.set()
        await asyncio.wait_for(ended.wait(), 60)
    assert sent < 2_000_000


@in_a_loop
async def test_one_endpoint_that_hangs_holds_up_no_other() -> None:
    async def hangs(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with endpoint(hangs) as stuck, endpoint(agrees) as lively, posting(connections=20) as poster:
        waiting = [asyncio.create_task(poster.post(stuck.url(), {}, b"{}", deadline_seconds=60)) for _ in range(19)]
        while len(stuck.requests) < 19:
            await asyncio.sleep(0)
        for _ in range(50):
            assert (await poster.post(lively.url(), {}, b"{}")).outcome == "2xx"
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@in_a_loop
async def test_a_client_that_is_closed_leaves_no_connection_behind() -> None:
    async def hangs(peer: Peer) -> None:
        await peer.request()
        await peer.gone()
        left.set()

    left = asyncio.Event()
    async with endpoint(hangs) as receiver:
        async with posting() as poster:
            waiting = asyncio.create_task(poster.post(receiver.url(), {}, b"{}"))
            while not receiver.requests:
                await asyncio.sleep(0)
        await asyncio.wait_for(left.wait(), 60)
        assert not waiting.done()
        waiting.cancel()


@in_a_loop
async def test_a_retry_after_a_reset_takes_a_connection_of_its_own() -> None:
    async def story(peer: Peer) -> None:
        request = await peer.request()
        if request.body == b"both":  # answer when both connections are there
            both.append(peer)
            while len(both) < 2:
                await asyncio.sleep(0)
            await peer.send(OK)
            request = await peer.request()
        while request.body != b"reset":
            await peer.send(OK)
            request = await peer.request()
        peer.reset()

    both: list[Peer] = []
    async with endpoint(story) as receiver, posting() as poster:
        await asyncio.gather(*(poster.post(receiver.url(), {}, b"both") for _ in range(2)))
        broken = await poster.post(receiver.url(), {}, b"reset")
        again = await poster.post(receiver.url(), {}, b"reset?", retry=True)
        other = await poster.post(receiver.url(), {}, b"first attempt")
    assert (broken.outcome, broken.connected) == ("reset", False)
    assert (again.outcome, again.connected) == ("2xx", True)
    assert other.connected is False
