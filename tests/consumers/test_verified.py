"""What the courier really sends, verified by receivers that know only the standard and read their own clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import standardwebhooks
from consumers.world import SECRET, World
from receivers.node_receiver import node_receiver
from receivers.python_receiver import python_receiver

import billhook_webhooks
from billhook.rules.signing import new_secret, public_key
from billhook.store.endpoints import get_endpoint, rotate_secret

Verifier = Callable[[str], AbstractContextManager[str]]


@pytest.fixture
def now(world: World) -> World:
    """The world at the receivers' time."""
    world.clock.move(seconds=(datetime.now(UTC) - world.clock()).total_seconds())
    return world


def in_python(secret: str) -> AbstractContextManager[str]:
    return python_receiver(lambda headers, body: standardwebhooks.Webhook(secret).verify(body, dict(headers.items())))


def by_ours(secret: str) -> AbstractContextManager[str]:
    return python_receiver(billhook_webhooks.Webhook(secret).verify)


def rotate(world: World, endpoint_id: str, secret: str, scheme_key: str | None = None) -> None:
    with world.database.begin() as tx:
        endpoint = get_endpoint(tx, endpoint_id)
        assert endpoint is not None
        until = world.clock() + timedelta(hours=24)
        rotate_secret(tx, endpoint, world.vault.seal(secret), scheme_key, until=until, now=world.clock())


@pytest.mark.parametrize("receiver", [in_python, by_ours])
def test_the_libraries_for_python_accept_every_attempt_before_during_and_after_a_rotation(
    now: World, receiver: Verifier
) -> None:
    with receiver(SECRET) as url:
        endpoint = now.endpoint(url)
        now.say()
        now.deliver()
        rotate(now, endpoint, new_secret("v1"))
        now.say()
        now.deliver()
    assert now.rows("delivery_attempts", "outcome") == [("2xx",), ("2xx",)]


def test_the_library_for_node_accepts_what_the_courier_sends(now: World, node_project: Path) -> None:
    with node_receiver(node_project, SECRET) as node:
        endpoint = now.endpoint(node.url)
        said = [now.say("order.shipped")]
        now.deliver()
        rotate(now, endpoint, new_secret("v1"))
        said.append(now.say("order.returned"))
        now.deliver()
        verdicts = node.verdicts()
    assert [(verdict.id, verdict.type, verdict.error) for verdict in verdicts] == [
        (said[0], "order.shipped", None),
        (said[1], "order.returned", None),
    ]


def test_a_public_key_is_enough_for_v1a_beside_a_shared_secret_on_its_way_out(now: World, node_project: Path) -> None:
    secret = new_secret("v1a")
    with node_receiver(node_project, public_key(secret)) as node:
        endpoint = now.endpoint(node.url)
        rotate(now, endpoint, secret, public_key(secret))
        now.say()
        now.deliver()
        assert [verdict.error for verdict in node.verdicts()] == [None]
