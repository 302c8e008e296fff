"""The probes of a consumer answer however many connect and say nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Router

from billhook.runtime import health
from billhook.runtime.env import Env
from billhook.runtime.health import PROBED_AT_ONCE, Probes, ProbeServer, probe_routes
from billhook.runtime.service import Health
from billhook.runtime.settings import read_settings


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProbeServer]:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 1_000.0)  # nobody is late before the story says so
    env = Env(read_settings(var=tmp_path))
    server = ProbeServer(Probes(env, Health()), "127.0.0.1", 0)
    yield server
    server.close()
    env.close()


def asked(server: ProbeServer) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            return connection.recv(64)
        except ConnectionError:
            return b""


def test_silent_connections_are_bounded_and_make_way(server: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(server).startswith(b"HTTP/1.0 200")
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(PROBED_AT_ONCE + 40)]
    for over in silent[PROBED_AT_ONCE:]:
        assert over.recv(1) == b"", "what is over the bound is closed"
    assert asked(server) == b""
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.0)
    assert asked(server).startswith(b"HTTP/1.0 200"), "those who were silent made way"
    assert silent[0].recv(1) == b""
    for connection in silent:
        connection.close()


def test_they_answer_on_a_machine_that_has_only_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody's name is looked up for it, which a silent name server would make a wait of."""

    def silent(name: str) -> str:
        raise AssertionError(name)

    monkeypatch.setattr(socket, "getfqdn", silent)
    env = Env(read_settings(var=tmp_path))
    server = ProbeServer(Probes(env, Health()), "::1", 0)
    with socket.create_connection(("::1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.0 200")
    server.close()
    env.close()


def test_a_server_says_that_it_is_alive_while_all_its_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a database that is silent, say. Whoever restarted it for that would make it worse."""
    env, database_answers = Env(read_settings(var=tmp_path)), threading.Event()
    monkeypatch.setattr(Probes, "_ask_database", lambda self: database_answers.wait(60) and None)
    app = Router(probe_routes(Probes(env, Health())))

    async def asked(path: str) -> int:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}, None, send)
        return int(said[0]["status"])

    async def story() -> None:
        waiting = [asyncio.create_task(asked("/readyz")) for _ in range(60)]
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(asked("/livez"), 30) == 200
        assert not any(task.done() for task in waiting)
        database_answers.set()
        assert await asyncio.gather(*waiting) == [200] * 60

    asyncio.run(story())
    env.close()
