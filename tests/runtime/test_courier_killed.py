"""The courier, killed with requests under way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sqlalchemy as sa
from runtime.killing import Installation, eventually, kill

from billhook.rules.breaker import FIRST_WINDOW
from billhook.runtime.env import Env
from billhook.store.deliveries import address, deliveries, delivery_attempts
from billhook.store.endpoints import create_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.messages import Message, add_messages
from billhook_testing.servers import PostgresServer, ValkeyServer

MESSAGES = 60


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


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_courier_killed_in_mid_send_sends_again_under_the_same_ids_and_leaves_nothing_stuck(
    backend: str, tmp_path: Path, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    server = None if backend == "sqlite" else postgres
    reach = {"allow_http": "true", "allowed_networks": "127.0.0.0/8"}
    installation = Installation(tmp_path, valkey, server, **reach)
    env = installation.env
    with shop() as (url, merchant):
        sent = publish(env, url)
        with installation.running("courier") as first:
            eventually(lambda: len(merchant.heard) >= FIRST_WINDOW, "sending")
            kill(first)
        in_mid_send = set(merchant.heard)
        assert states(env) == {"due": MESSAGES}
        cut = in_hand(env)

        merchant.open.set()
        end_leases(env)
        with installation.running("courier"):
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
