"""A server that is told to stop while a request takes too long says so once, and does not end well."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from runtime.test_connections import answer, eventually, request

from billhook.runtime.health import is_ready
from billhook.runtime.valkey import free_port
from billhook_testing.servers import ValkeyServer

SCRIPT = """
import sys
from billhook.runtime.env import Env
from billhook.runtime.host import run_service
from billhook.runtime.service import Service
from billhook.runtime.settings import read_settings
from billhook.store import migrate

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/readyz":
        print("begun", flush=True)
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

env = Env(read_settings())
migrate.upgrade(env.database)
sys.exit(run_service(Service("ingress", "", app=lambda env, health: app), env))
"""


@pytest.mark.timeout(90)
def test_a_drain_that_had_to_cut_says_so_once_and_does_not_end_well(tmp_path: Path, valkey: ValkeyServer) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    environment |= {
        "BILLHOOK_VAR": str(tmp_path),
        "BILLHOOK_INGRESS_PORT": str(port),
        "BILLHOOK_QUEUE_URL": valkey.url,
        "BILLHOOK_DRAIN_SECONDS": "0.5",
    }
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        eventually(lambda: is_ready("127.0.0.1", port))
        assert host.stdout is not None
        with socket.create_connection(("127.0.0.1", port)) as one, socket.create_connection(("127.0.0.1", port)) as two:
            for connection in (one, two):
                connection.sendall(request(b"abc"))
                assert host.stdout.readline() == "begun\n"
            host.send_signal(signal.SIGTERM)
            for connection in (one, two):
                status, body = answer(connection)
                assert (status, b"stopping" in body) == (503, True)
        _, said = host.communicate(timeout=60)
    assert host.returncode == 1
    (line,) = said.splitlines()
    assert "requests were cut off" in line
    assert '"count":2' in line
