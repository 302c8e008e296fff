"""What a receiver may answer, and what becomes of it. It may be broken, slow, endless or hostile."""

from __future__ import annotations

import asyncio
import gzip
import resource
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlets.endpoint import OK, Peer, Story, agrees, answers, endpoint, in_a_loop, posting

from billhook.outlets.webhooks.exchange import BODY_LIMIT, INTERIM_LIMIT
from billhook.outlets.webhooks.response import HEADERS_KEPT, Response, retry_after_seconds

OUTCOMES = {"2xx", "3xx", "4xx", "5xx", "timeout", "dns", "refused", "connect", "tls", "reset", "protocol", "url"}
LONG, SHORT = 60.0, 1.0
"""Deadlines: one that nothing here should meet, and one to be met."""


async def response_of(story: Story, *, deadline_seconds: float = LONG) -> Response:
    async with endpoint(story) as receiver, posting() as poster:
        response = await poster.post(receiver.url(), {"webhook-id": "msg_1"}, b"{}", deadline_seconds=deadline_seconds)
        assert receiver.connections == len(receiver.requests) == 1
        return response


@in_a_loop
async def test_the_request_is_what_was_given_and_asks_for_nothing_more() -> None:
    async with endpoint(agrees) as receiver, posting() as poster:
        response = await poster.post(receiver.url(), {"webhook-id": "msg_1", "User-Agent": "billhook"}, b'{"a": 1}')
        (request,) = receiver.requests
    assert (response.outcome, response.status_code, response.error) == ("2xx", 200, None)
    assert (response.body, response.headers) == (b"ok", (("Content-Length", "2"),))
    assert request.head.startswith("POST /hook?to=us HTTP/1.1\r\n")
    assert request.body == b'{"a": 1}'
    assert request.headers == {
        "host": f"receiver.test:{receiver.port}",
        "webhook-id": "msg_1",
        "user-agent": "billhook",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": "8",
        "content-type": "application/octet-stream",
    }


@pytest.mark.parametrize("status", [200, 204, 299, 301, 304, 400, 404, 410, 429, 500, 503, 599])
@in_a_loop
async def test_a_status_is_its_class(status: int) -> None:
    response = await response_of(answers(b"HTTP/1.1 %d So\r\nContent-Length: 0\r\n\r\n" % status))
    assert (response.outcome, response.status_code, response.error) == (f"{status // 100}xx", status, None)


@pytest.mark.parametrize("status", [0, 101, 600, 999])
@in_a_loop
async def test_what_is_no_status_of_an_answer_is_no_answer(status: int) -> None:
    response = await response_of(answers(b"HTTP/1.1 %03d So\r\nContent-Length: 0\r\n\r\n" % status))
    assert (response.outcome, response.status_code) == ("protocol", status)
    assert response.error == f"{status} is no status to answer with"


@in_a_loop
async def test_and_holds_no_place_in_the_pool() -> None:
    async def story(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(b"HTTP/1.1 101 So\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" if request.body else OK)
        await peer.gone()

    async with endpoint(story) as receiver, posting(connections=1) as poster:
        assert (await poster.post(receiver.url(), {}, b"{}")).outcome == "protocol"
        assert (await poster.post(receiver.url(), {}, b"")).outcome == "2xx"


@in_a_loop
async def test_interim_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    response = await response_of(answers(b"HTTP/1.1 100 Continue\r\n\r\n", early * (INTERIM_LIMIT - 1), OK))
    assert (response.outcome, response.headers) == ("2xx", (("Content-Length", "2"),))


@in_a_loop
async def test_a_body_with_trailers_is_whole_and_they_are_not_its_headers() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Server-Timing\r\n\r\n"

    async def story(peer: Peer) -> None:
        for body in (b"2\r\nok\r\n", b""):
            await peer.request()
            await peer.send(head + body + b"0\r\nServer-Timing: db;dur=53\r\nX: y\r\n\r\n")
        await peer.gone()

    async with endpoint(story) as receiver, posting() as poster:
        for body in (b"ok", b""):
            response = await poster.post(receiver.url(), {}, b"{}")
            assert (response.outcome, response.error, response.body) == ("2xx", None, body)
            assert [name for name, _ in response.headers] == ["Transfer-Encoding", "Trailer"]
        assert receiver.connections == 1


@pytest.mark.parametrize("ends", [True, False])
@in_a_loop
async def test_but_not_without_end(ends: bool) -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(b"HTTP/1.1 100 \r\n\r\n" * (INTERIM_LIMIT + 1) + (OK if ends else b""))

    response = await response_of(story)
    assert (response.outcome, response.status_code) == ("protocol", None)


RUBBISH = {
    "HTTP/0.9": b"Hello, here is your page.\r\n",
    "a mail server": b"220 mx.example ESMTP\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a status of two digits": b"HTTP/1.1 99 So\r\n\r\n",
    "a header name that is no token": "HTTP/1.1 200 OK\r\nX-Größe: 1\r\n\r\n".encode(),
    "a zero byte": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "a length beyond numbers": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nok",
    "chunks without sizes": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok\r\n",
    "a header of 120 KB": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 120_000 + b"\r\n\r\n",
    "six thousand headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 6000 + b"\r\n",
    "a reason of 120 KB": b"HTTP/1.1 200 " + b"a" * 120_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", RUBBISH.values(), ids=RUBBISH.keys())
@in_a_loop
async def test_rubbish_is_a_protocol_error_in_one_line(raw: bytes) -> None:
    response = await response_of(answers(raw))
    assert response.outcome == "protocol"
    assert response.error is not None
    assert response.error.isprintable()
    assert response.error.startswith("the answer is not HTTP: ")


WHOLE = {
    "stray bytes": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    "a 204 with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nnull",
    "a 204 in chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a length said twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "seventy headers": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"X-A: a\r\n" * 70 + b"\r\n",
    "a header of 9 KB": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE.keys())
@in_a_loop
async def test_an_answer_that_is_whole_counts_whatever_stands_beside_it(raw: bytes) -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.gone()

    async with endpoint(story) as receiver, posting() as poster:
        first, second = [await poster.post(receiver.url(), {}, b"{}", deadline_seconds=5) for _ in range(2)]
    assert (first.outcome, first.error) == ("2xx", None)
    # Where more came than the answer holds, the next request has a connection that nothing is left on.
    assert (second.outcome if second.connected else "timeout") in ("2xx", "timeout")


@pytest.mark.parametrize(
    "piece, before",
    [
        (b"X-A: a\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"a" * 1000, b"HTTP/1.1 200 OK\r\nX-A: "),
        (b"a" * 1000, b"HTTP/1.1 200 OK\r\n"),
    ],
    ids=["headers", "a value", "a name"],
)
@in_a_loop
async def test_a_head_without_end_is_cut_off(piece: bytes, before: bytes) -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(before)
        while True:
            await peer.send(piece)

    assert (await response_of(story)).outcome == "protocol"


@in_a_loop
async def test_headers_are_handed_on_as_text_whatever_bytes_they_are() -> None:
    raw = (
        b"HTTP/1.1 200 \xff\r\nX-Latin: caf\xe9\r\nX-Utf: \xe2\x82\xac\r\nX-Esc: \x1b[31m\r\nRetry-After: \xff\r\n\r\n"
    )
    response = await response_of(answers(raw.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")))
    assert response.headers == (
        ("X-Latin", r"caf\xe9"),
        ("X-Utf", "€"),
        ("X-Esc", r"\x1b[31m"),
        ("Retry-After", r"\xff"),
        ("Content-Length", "0"),
    )
    assert response.retry_after == r"\udcff"
    assert retry_after_seconds(response.retry_after, datetime(2026, 1, 1, tzinfo=UTC)) is None


@in_a_loop
async def test_no_more_headers_are_kept_than_are_worth_keeping() -> None:
    bomb = b"".join(b"X-%02d: %s\r\n" % (number, b"\xff" * 7000) for number in range(40))
    response = await response_of(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + bomb + b"\r\n"))
    assert response.outcome == "2xx"
    assert sum(len(name) + len(value) for name, value in response.headers) <= 4 * HEADERS_KEPT
    assert [name for name, _ in response.headers] == ["Content-Length", "X-00", "X-01"]


@in_a_loop
async def test_a_body_is_kept_as_it_came_and_not_unpacked() -> None:
    packed = gzip.compress(b"0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert (await response_of(answers(head + packed))).body == packed


@pytest.mark.parametrize("size", [0, 1, BODY_LIMIT - 1, BODY_LIMIT])
@in_a_loop
async def test_a_body_within_the_limit_is_read_whole_and_the_connection_kept(size: int) -> None:
    async def story(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    async with endpoint(story) as receiver, posting() as poster:
        for _ in range(2):
            assert (await poster.post(receiver.url(), {}, b"{}")).body == b"x" * size
        assert receiver.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 100000000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"",
    ],
    ids=["of known length", "in chunks", "until the connection ends"],
)
@in_a_loop
async def test_of_a_huge_answer_the_beginning_is_read_and_its_status_counts(head: bytes) -> None:
    piece = b"x" * 100_000
    sent = 0

    async def story(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        while sent < 100_000_000:
            await peer.send(b"186a0\r\n" + piece + b"\r\n" if b"chunked" in head else piece)
            sent += len(piece)

    response = await response_of(story)
    assert (response.outcome, len(response.body)) == ("2xx", BODY_LIMIT)
    assert sent < 50_000_000


@in_a_loop
async def test_an_endless_answer_costs_little_memory() -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"1\r\nx\r\n" * 1000)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len((await response_of(story)).body) == BODY_LIMIT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@in_a_loop
async def test_an_answer_that_drips_past_the_deadline_is_no_success_though_it_began_as_one() -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: b\r\n\r\n")
        while True:
            await peer.send(b"x")
            await asyncio.sleep(0.01)

    response = await response_of(story, deadline_seconds=SHORT)
    assert (response.outcome, response.status_code) == ("timeout", 200)
    assert response.error == "no complete answer within 1 s"
    assert ("X-A", "b") in response.headers
    assert set(response.body) == set(b"x")


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"], ids=["nothing", "102"])
@in_a_loop
async def test_an_answer_that_does_not_begin_in_time_is_a_timeout(drip: bytes) -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(drip)
            await asyncio.sleep(0.1)

    response = await response_of(story, deadline_seconds=SHORT)
    assert (response.outcome, response.status_code) == ("timeout", None)


@in_a_loop
async def test_an_answer_after_the_deadline_comes_to_nobody() -> None:
    given_up = asyncio.Event()

    async def story(peer: Peer) -> None:
        await peer.request()
        await given_up.wait()
        await peer.send(OK)

    async with endpoint(story) as receiver, posting() as poster:
        first = await poster.post(receiver.url(), {}, b"1", deadline_seconds=SHORT)
        given_up.set()
        second = await poster.post(receiver.url(), {}, b"2")
        assert (first.outcome, second.outcome, second.connected) == ("timeout", "2xx", True)
        assert [request.body for request in receiver.requests] == [b"1", b"2"]


BROKEN_OFF = {
    "before the head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "in a body of known length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    "after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("raw", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
@in_a_loop
async def test_an_answer_that_breaks_off_is_a_reset(raw: bytes, how: str) -> None:
    async def story(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        if how == "reset":
            peer.reset()

    response = await response_of(story)
    assert response.outcome == "reset"
    assert response.error is not None


@in_a_loop
async def test_a_body_that_ends_with_the_connection_is_complete_if_that_ended_in_order() -> None:
    async def story(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        if request.body == b"reset":
            for _ in range(50):  # most likely the head is read by then; if not, it is a reset all the more
                await asyncio.sleep(0)
            peer.reset()

    async with endpoint(story) as receiver, posting() as poster:
        closed = await poster.post(receiver.url(), {}, b"close")
        reset = await poster.post(receiver.url(), {}, b"reset")
    assert (closed.outcome, closed.body) == ("2xx", b"all of it")
    assert reset.outcome == "reset"


@in_a_loop
async def test_no_cookie_comes_back() -> None:
    async def story(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n\r\n"))

    async with endpoint(story) as receiver, posting() as poster:
        for _ in range(2):
            assert (await poster.post(receiver.url(), {}, b"{}")).outcome == "2xx"
        assert all("cookie" not in request.headers for request in receiver.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@in_a_loop
async def test_a_redirect_is_recorded_and_not_followed(status: int) -> None:
    async with endpoint(agrees) as elsewhere:
        response = await response_of(
            answers(b"HTTP/1.1 %d Go\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url().encode()))
        )
        assert elsewhere.connections == 0
    assert (response.outcome, response.status_code) == ("3xx", status)
    assert dict(response.headers)["Location"] == elsewhere.url()


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [b"HTTP/1.1 ", b"200 OK", b"\r\n", b"Content-Length: 3", b"\r\n\r\n", b"abc", b"chunked", b"\xff"]
        )
        | st.binary(max_size=20),
        max_size=12,
    ).map(b"".join)
)
def test_whatever_bytes_come_they_are_one_of_the_outcomes(raw: bytes) -> None:
    async def story() -> None:
        async def says(peer: Peer) -> None:
            await peer.request()
            await peer.send(raw)

        response = await response_of(says)
        assert response.outcome in OUTCOMES
        assert (response.error is None) == (response.outcome in {"2xx", "3xx", "4xx", "5xx"})
        assert all(name.isprintable() and value.isprintable() for name, value in response.headers)
        assert response.error is None or response.error.isprintable()

    asyncio.run(story())


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("9" * 400, 10**9),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sunday, 01-Mar-26 12:01:00 GMT", 60),
        ("Sun Mar  1 12:01:00 2026", 60),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,3} \w{3} \d{1,6} \d+:\d+:\d+ \S*"))
def test_and_anything_else_is_nothing(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or 0 <= seconds <= timedelta(days=366 * 10_000).total_seconds()
