"""What a server bounds: the time a request takes to arrive, its connections, the bodies it holds. Over real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from billhook.metrics import Metrics
from billhook.runtime.connections import HEAD_LIMIT, MOST_PIPELINED, BoundedConnection, Bounds
from billhook.runtime.request_body import read_body
from billhook_testing.prompt_server import PromptServer

HOST = "127.0.0.1"
LARGE = 8 * 1024 * 1024


class App:
    """Reads the body and answers with its length; waits for a word before it answers `/held`, and at `/streamed`
    between the head and the rest; reads nothing at `/early`, says much at `/large`, says it in `/pieces`, and fails at
    `/broken`, as at `/short`, where it says less than it was to. `/names` is answered with those of the headers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.ended: list[BaseException | None] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        try:
            if scope["path"] != "/early":
                body = await read_body(receive, "", 1 << 30)
        except Exception as error:
            self.ended.append(error)
            raise
        if scope["path"] == "/held":
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        if scope["path"] == "/broken":
            raise ValueError("of the application")
        if scope["path"].startswith("/pieces"):
            headers = [(b"x-word", scope["path"].encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"one ", "more_body": True})
            await send({"type": "http.response.body", "body": b"two"})
            return
        said = b"x" * LARGE if scope["path"] == "/large" else b"%d" % len(body)
        if scope["path"] == "/names":
            said = b" ".join(name for name, _ in scope["headers"])
        headers = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while scope["path"] == "/streamed" and not self.go.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"" if scope["path"] == "/short" else said})


@dataclass
class Served:
    port: int
    app: App
    metrics: Metrics
    stack: ExitStack

    def connect(self) -> socket.socket:
        return self.stack.enter_context(socket.create_connection((HOST, self.port), timeout=20))

    def cut(self, reason: str) -> float:
        return float(self.metrics.requests_cut.labels(reason)._value.get())


@contextmanager
def served(**limits: Any) -> Iterator[Served]:
    app, metrics = App(), Metrics()
    bounds = Bounds(metrics, **{"connections": 100, "receive_seconds": 30.0, **limits})
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(
        app, http=bounds.protocol, loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = PromptServer(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with ExitStack() as stack:
        yield Served(listener.getsockname()[1], app, metrics, stack)
    app.go.set()
    server.end()
    thread.join()


def request(body: bytes = b"", path: str = "/", *, announced: int | None = None, more: str = "") -> bytes:
    length = len(body) if announced is None else announced
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {length}\r\n\r\n".encode() + body


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer; status 0 when the connection ended without one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            return 0, head
        head += piece
    (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(head.split()[1]), body


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def eventually(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "half", [b"PO", b"POST / HTTP/1.1\r\nHost: x\r\nX-", request(b"{", announced=100)], ids=["word", "head", "body"]
)
def test_half_a_request_is_told_that_it_took_too_long(half: bytes) -> None:
    with served(receive_seconds=0.3) as server:
        connection = server.connect()
        connection.sendall(half)
        status, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "too_slow")
        assert ended(connection)
        assert server.cut("slow") == 1


def flood(line: bytes) -> bytes:
    return line * (8 * HEAD_LIMIT // len(line))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "begun",
    [
        [b"POST /", b"a"],
        [b"POST / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"],
        [b"POST / HTTP/1.1\r\nHost: x\r\nA: ", b"b"],
        [b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n0\r\n", b"A: b\r\n"],
    ],
    ids=["address", "headers", "a header", "trailers"],
)
def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(begun: list[bytes]) -> None:
    *begun, line = begun
    with served() as server:
        connection = server.connect()
        for piece in begun:
            connection.sendall(piece)
            time.sleep(0.02)
        with suppress(OSError):  # it hears no more of it
            while server.cut("head") == 0:
                connection.sendall(flood(line))
        eventually(lambda: server.cut("head") == 1)
    assert server.metrics.connections_open._value.get() == 0


@pytest.mark.timeout(60)
def test_what_strangers_send_is_counted_and_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with served() as server, caplog.at_level(logging.WARNING):
        for sent in (b"no HTTP\r\n\r\n", request(more="Connection: upgrade\r\nUpgrade: websocket\r\n")):
            connection = server.connect()
            connection.sendall(sent)
            answer(connection)
        assert server.cut("malformed") == 1
    assert caplog.messages == []


@pytest.mark.timeout(60)
def test_a_body_in_the_smallest_chunks_is_no_head() -> None:
    with served() as server:
        connection = server.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"1\r\na\r\n" * 5_000)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection) == (200, b"50000")


@pytest.mark.timeout(60)
def test_a_request_in_drops_does_not_get_more_time_for_each_drop() -> None:
    with served(receive_seconds=0.5) as server:
        connection = server.connect()
        connection.sendall(request(announced=10**6))
        with suppress(OSError):  # reset, broken pipe or aborted, as the system likes
            while server.cut("slow") == 0:
                connection.sendall(b"x")
                time.sleep(0.05)


@pytest.mark.timeout(60)
def test_thousands_of_requests_in_one_packet_are_refused_before_they_fill_the_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as server:
        some, many = server.connect(), server.connect()
        some.sendall(request(b"a", "/held") + request(b"ab") * MOST_PIPELINED)
        many.sendall(request(b"a", "/held") + b"GET / HTTP/1.1\r\n\r\n" * 1_000)
        assert ended(many)
        assert server.cut("pipelined") == 1
        server.app.go.set()
        assert [answer(some) for _ in range(1 + MOST_PIPELINED)] == [(200, b"1")] + [(200, b"2")] * MOST_PIPELINED
    assert caplog.messages == [], "the one whose client had gone"


@pytest.mark.timeout(60)
def test_whoever_takes_no_answers_is_left_and_whoever_is_slow_is_not() -> None:
    with served(send_seconds=0.3) as server:
        connections = []
        for _ in range(2):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((HOST, server.port))
            connections.append(server.stack.enter_context(connection))
            connection.sendall(request(path="/large"))
        slow, deaf = connections
        taken = 0
        while server.cut("unread") == 0:
            taken += len(slow.recv(512))
            time.sleep(0.01)
        slow.settimeout(5)
        while taken < LARGE:
            piece = slow.recv(65536)
            assert piece, "it was not left"
            taken += len(piece)
        assert server.cut("unread") == 1
        with suppress(ConnectionResetError):
            while deaf.recv(1 << 20):
                pass


@pytest.mark.timeout(60)
def test_whoever_closes_their_half_still_hears_the_answer() -> None:
    """RFC 9112, 9.6. The other half of a request that was not all said ends it."""
    with served() as server:
        half, whole, several = (server.connect() for _ in range(3))
        half.sendall(request(b"a", announced=2))
        whole.sendall(request(b"abc", "/held"))
        several.sendall(request(b"abc", "/held") + request(b"de"))
        for connection in (half, whole, several):
            connection.shutdown(socket.SHUT_WR)
        assert ended(half)
        server.app.go.set()
        assert answer(whole) == (200, b"3")
        assert [answer(several) for _ in range(2)] == [(200, b"3"), (200, b"2")]
        assert ended(whole)
        assert ended(several)


@pytest.mark.timeout(60)
def test_connections_that_have_ended_need_no_collector() -> None:
    def left() -> int:
        return sum(isinstance(one, BoundedConnection) for one in gc.get_objects())

    with served() as server:
        gc.collect()
        gc.disable()
        try:
            for more in ("", OFFERS[0]):
                connection = server.connect()
                connection.sendall(request(b"a", more=more) * 2)
                assert answer(connection) == answer(connection) == (200, b"1")
                connection.close()
            cut = server.connect()
            cut.sendall(request(b"a", "/held"))
            eventually(lambda: left() == 1)
            cut.close()
            server.app.go.set()
            eventually(lambda: left() == 0)
        finally:
            gc.enable()


@pytest.mark.timeout(60)
def test_a_connection_that_never_speaks_is_closed() -> None:
    with served(receive_seconds=0.3) as server:
        assert ended(server.connect())


@pytest.mark.timeout(60)
def test_a_second_half_request_on_a_kept_connection_is_bounded_too() -> None:
    with served(receive_seconds=0.3) as server:
        connection = server.connect()
        connection.sendall(request(b"abc"))
        assert answer(connection) == (200, b"3")
        connection.sendall(request(b"abc")[:20])
        assert answer(connection)[0] == 408


@pytest.mark.timeout(60)
def test_what_takes_long_to_answer_is_not_slow_to_arrive() -> None:
    with served(receive_seconds=1.0) as server:
        connection = server.connect()
        connection.sendall(request(b"abc", "/held") + request(b"de")[:-1])  # the second one begun already
        waited = server.connect()
        assert ended(waited)  # so the time is over
        connection.sendall(b"e")
        server.app.go.set()
        assert (answer(connection), answer(connection)) == ((200, b"3"), (200, b"2"))


@pytest.mark.timeout(60)
def test_connections_that_wait_for_nothing_make_way() -> None:
    with served(connections=4) as server:
        used = server.connect()
        used.sendall(request(b"a"))
        assert answer(used) == (200, b"1")
        silent = [server.connect() for _ in range(3)]
        crowd = [server.connect() for _ in range(3)]
        for connection in crowd:
            connection.sendall(request(b"ab"))
            assert answer(connection) == (200, b"2")
        assert ended(used)  # idle for longest
        assert [ended(connection) for connection in silent[:2]] == [True, True]


@pytest.mark.timeout(60)
def test_where_all_are_at_work_one_more_is_told_to_come_again() -> None:
    with served(connections=3) as server:
        working = [server.connect() for _ in range(3)]
        for connection in working:
            connection.sendall(request(b"a", "/held"))
        one_more = server.connect()
        status, body = answer(one_more)
        while status == 0:  # it came before those were seen to work
            one_more = server.connect()
            status, body = answer(one_more)
        assert (status, json.loads(body)["error"]["code"]) == (503, "busy")
        server.app.go.set()


@pytest.mark.timeout(60)
def test_bodies_that_do_not_fit_together_are_sent_again_and_room_comes_back() -> None:
    with served(bodies_limit=100_000) as server:
        first = server.connect()
        first.sendall(request(b"x" * 60_000, "/held"))
        second = server.connect()

        def refused() -> bool:
            nonlocal second
            second = server.connect()
            second.sendall(request(b"x" * 60_000))
            status, body = answer(second)
            return status == 503 and json.loads(body)["error"]["code"] == "busy"

        eventually(refused)
        assert ended(second)
        server.app.go.set()
        assert answer(first) == (200, b"60000")
        third = server.connect()
        third.sendall(request(b"x" * 90_000))
        assert answer(third) == (200, b"90000")
        gone = server.connect()
        gone.sendall(request(b"x" * 50_000, announced=90_000))
        gone.close()

        def taken() -> bool:
            again = server.connect()  # for a refusal ends the connection that it was said on
            again.sendall(request(b"x" * 90_000))
            return answer(again)[0] == 200

        eventually(taken)


@pytest.mark.timeout(60)
def test_what_is_answered_before_it_is_here_is_dropped_and_the_connection_goes_on() -> None:
    with served(bodies_limit=100_000) as server:
        connection = server.connect()
        connection.sendall(request(b"x", "/early", announced=1_000_001))
        assert answer(connection) == (200, b"0")
        connection.sendall(b"x" * 1_000_000 + request(b"abc"))
        assert answer(connection) == (200, b"3")


@pytest.mark.timeout(60)
def test_where_a_body_may_or_may_not_come_the_connection_ends() -> None:
    with served() as server:
        connection = server.connect()
        connection.sendall(request(b"", "/early", announced=10, more="Expect: 100-continue\r\n"))
        assert answer(connection) == (200, b"0")
        assert ended(connection)


OFFERS = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
)


@pytest.mark.timeout(60)
def test_who_offers_another_protocol_is_answered_in_this_one_body_and_all() -> None:
    chunks = b"POST / HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    with served() as server:
        for offer in OFFERS:
            for whole in (request(b"abcdefg", more=offer), chunks % offer.encode()):
                connection = server.connect()
                connection.sendall(request(b"a") + whole + whole + request(b"ab"))
                assert [answer(connection)[1] for _ in range(4)] == [b"1", b"7", b"7", b"2"]
                for piece in (whole[:-12], whole[-12:-2], whole[-2:]):
                    connection.sendall(piece)
                    time.sleep(0.01)  # or they may come as one
                assert answer(connection) == (200, b"7")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "asked",
    [b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", request(b"a", more="Host: y\r\n")],
    ids=["tunnel", "two hosts"],
)
def test_what_this_server_cannot_be_asked_is_malformed(asked: bytes) -> None:
    with served() as server:
        connection = server.connect()
        connection.sendall(asked + request(b"a"))
        status, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (400, "malformed")
        assert ended(connection)


@pytest.mark.timeout(60)
def test_what_stands_behind_a_body_says_nothing_of_its_request() -> None:
    head = b"POST /names HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served() as server:
        connection = server.connect()
        connection.sendall(head + b"1\r\na\r\n0\r\nAuthorization: Bearer other\r\n\r\n" + request(path="/names"))
        assert answer(connection) == (200, b"host transfer-encoding")
        assert answer(connection) == (200, b"host content-length")


@pytest.mark.timeout(60)
def test_a_whole_address_may_be_asked_for_and_the_old_protocol_knows_no_chunks_and_no_word() -> None:
    with served() as server:
        connection = server.connect()
        connection.sendall(request(b"ab", "http://x") + request(b"abc", "http://x?y"))
        assert [answer(connection), answer(connection)] == [(200, b"2"), (200, b"3")]
        old = request(b"a", "/pieces", more="Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        connection.sendall(old)
        said = b""
        while piece := connection.recv(65536):
            said += piece
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding" not in head
        assert body == b"one two"


def test_the_head_of_an_answer_goes_out_with_its_body_and_waits_for_none() -> None:
    with served() as server:
        streamed, other = server.connect(), server.connect()
        streamed.sendall(request(path="/streamed"))
        assert streamed.recv(65536).endswith(b"\r\n\r\n"), "its body is still to come"
        other.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + request(b"abc"))
        head = b""
        while not head.endswith(b"\r\n\r\n3"):
            head += other.recv(65536)
        assert head.count(b"HTTP/1.1 200 OK") == 2
        for _ in range(20):
            other.sendall(request(b"abc"))
            assert other.recv(65536).endswith(b"\r\n\r\n3"), "the head came by itself"
        server.app.go.set()
        assert streamed.recv(65536) == b"0"


@pytest.mark.timeout(60)
def test_an_answer_without_a_length_goes_in_chunks_and_one_that_cannot_be_said_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as server:
        connection = server.connect()
        connection.sendall(request(path="/pieces"))
        pieces = b""
        while not pieces.endswith(b"\r\n0\r\n\r\n"):
            pieces += connection.recv(65536)
        head, _, body = pieces.partition(b"\r\n\r\n")
        assert b"x-word: /pieces" in head
        assert body == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
        for path in ("/broken", "/pieces%0d%0aa:b", "/short"):
            connection = server.connect()
            connection.sendall(request(path=path))
            status, said = answer(connection)
            assert (status, json.loads(said)["error"]["code"]) == (500, "internal"), path
            assert ended(connection)
    errors = [type(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert errors == [ValueError, ValueError, RuntimeError]


@pytest.mark.timeout(60)
def test_a_connection_is_kept_for_a_while_and_whoever_has_begun_is_not_idle() -> None:
    with served(idle_seconds=0.3) as server:
        begun, idle = server.connect(), server.connect()
        begun.sendall(request(b"a") + request(b"abc")[:5])
        assert answer(begun) == (200, b"1")
        idle.sendall(request(b"a"))
        assert answer(idle) == (200, b"1")
        assert ended(idle)
        begun.sendall(request(b"abc")[5:])
        assert answer(begun) == (200, b"3")


def test_the_limit_of_descriptors_is_raised_to_what_is_allowed() -> None:
    script = (
        "import resource\n"
        "from billhook.runtime.descriptors import raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 700))\n"
        "print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 700:
        pytest.skip("fewer than 700 descriptors are allowed here")
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "700 (700, 700)"
