"""The courier, killed with requests under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sqlalchemy as sa

from billhook.rules.breaker import FIRST_WINDOW
from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from billhook.runtime.valkey import free_port
from billhook.store import migrate
from billhook.store.deliveries import address, deliveries, delivery_attempts
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.messages import Message, add_messages
from billhook.store.vault import new_key
from billhook_testing.servers import PostgresServer, ValkeyServer

MESSAGES = 60
PATIENCE_SECONDS = 60.0


def eventually(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


class Shop:
    """A merchant's endpoint that takes a request in, and answers when it is let."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.open = threading.Event()


@contextmanager
def shop() -> Iterator[tuple[str, Shop]]:
    state = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            state.heard.append(self.headers["webhook-id"])
            state.open.wait()
            try:
                self.send_response(204)
                self.end_headers()
            except OSError:
                pass  # whoever asked is dead

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", state
    finally:
        state.open.set()
        server.shutdown()
        server.server_close()


@contextmanager
def courier(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "billhook.runtime.process", "courier"],
        env={**os.environ, **environment, "BILLHOOK_COURIER_PORT": str(free_port())},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_courier_killed_in_mid_send_sends_again_under_the_same_ids_and_leaves_nothing_stuck(
    backend: str, tmp_path: Path, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    chosen = {
        "BILLHOOK_VAR": str(tmp_path),
        "BILLHOOK_DATABASE_URL": "" if backend == "sqlite" else postgres.create_database(),
        "BILLHOOK_QUEUE_URL": valkey.url,
        "BILLHOOK_ENCRYPTION_KEYS": new_key(),
        "BILLHOOK_ALLOW_HTTP": "true",
        "BILLHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "BILLHOOK_LOG_LEVEL": "error",
    }
    names = {name.removeprefix("BILLHOOK_").lower(): value for name, value in chosen.items()}
    env = Env(read_settings(**names))
    migrate.upgrade(env.database)
    with shop() as (url, merchant):
        sent = publish(env, url)
        with courier(chosen) as first:
            eventually(lambda: len(merchant.heard) >= FIRST_WINDOW, "sending")
            first.send_signal(signal.SIGKILL)
            first.wait()
        in_mid_send = set(merchant.heard)
        assert states(env) == {"due": MESSAGES}
        cut = in_hand(env)

        merchant.open.set()
        end_leases(env)
        with courier(chosen):
            eventually(lambda: states(env) == {"delivered": MESSAGES}, "delivering the rest")
    heard = Counter(merchant.heard)
    assert set(heard) == sent
    assert all(heard[message_id] >= 2 for message_id in in_mid_send)
    with env.database.read() as tx:
        attempts = tx.execute(sa.select(delivery_attempts.c.delivery_id, delivery_attempts.c.outcome)).all()
    assert {delivery_id for delivery_id, outcome in attempts if outcome == "cut"} == cut
    assert [outcome for _, outcome in attempts if outcome != "cut"] == ["2xx"] * MESSAGES
    env.close()


def publish(env: Env, url: str) -> set[str]:
    now = env.clock()
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Acme", now)
        secret = env.vault.seal("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        create_endpoint(tx, merchant.id, url, ["*"], secret, now)
        new = [Message.own(merchant.id, "order.shipped", "own", "", b"{}", now) for _ in range(MESSAGES)]
        address(tx, add_messages(tx, new, now), now)
    return {message.id for message in new}


def states(env: Env) -> dict[str, int]:
    query = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
    with env.database.read() as tx:
        return {row[0]: row[1] for row in tx.execute(query)}


def in_hand(env: Env) -> set[str]:
    """The deliveries that a courier has claimed."""
    with env.database.read() as tx:
        return set(tx.execute(sa.select(deliveries.c.id).where(deliveries.c.token.is_not(None))).scalars())


def end_leases(env: Env) -> None:
    """Let the time pass that the dead courier's leases had left."""
    with env.database.begin() as tx:
        tx.execute(sa.update(deliveries).where(deliveries.c.token.is_not(None)).values(due_at=env.clock()))
