"""The probes of a consumer answer however many connect and say nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from billhook.runtime import health
from billhook.runtime.env import Env
from billhook.runtime.health import PROBED_AT_ONCE, Probes, ProbeServer
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
