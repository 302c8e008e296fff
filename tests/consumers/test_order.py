"""Order at an endpoint that wants it, through the events of an outage: what is held, and what is replayed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from consumers.receiver import receiver
from consumers.world import Silence, World

from billhook.actions.dead_letters import replay_dead_letters
from billhook.queue.steps import Steps
from billhook.store import dead_letters
from billhook.store.endpoints import set_disabled
from billhook.store.replays import create_replay
from services.relay.replaying import SETTLED, Replaying


@pytest.fixture(autouse=True)
def today(world: World) -> None:
    """A replay walks along ids, which bear the real time."""
    world.clock.at = datetime.now(UTC) + timedelta(seconds=1)


def relay(world: World) -> None:
    """Take the replays a step on."""
    Steps(Replaying(world.database, world.clock), world.database, Silence(), world.metrics, world.clock).run(None)


def test_what_is_said_after_an_endpoint_was_enabled_does_not_overtake_what_was_held(world: World) -> None:
    with receiver() as merchant:
        endpoint = world.endpoint(merchant.url, ordering="customer")
        with world.database.begin() as tx:
            set_disabled(tx, endpoint, world.clock(), "by hand")
        held = [world.say(customer="cus_1") for _ in range(2)]
        with world.database.begin() as tx:
            set_disabled(tx, endpoint, None, None)
            create_replay(
                tx,
                world.merchant_id,
                kind="replay",
                states=["held"],
                since=world.clock() - timedelta(hours=1),
                by="key_1",
                now=world.clock(),
            )
        later = world.say(customer="cus_1")
        elsewhere = world.say(customer="cus_2")
        world.deliver()
        for _ in range(6):
            world.clock.move(seconds=SETTLED.total_seconds())
            relay(world)
            world.deliver()
    arrived = [headers["webhook-id"] for headers, _ in merchant.received]
    assert arrived == [elsewhere, *held, later]


def test_nothing_new_waits_for_what_is_replayed_and_fails_again(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(500, {})] * 3
        world.endpoint(merchant.url, ordering="customer", schedule=[3600])
        old = world.say(customer="cus_1")
        for _ in range(2):
            world.deliver()
            world.clock.move(hours=2)
        with world.database.begin() as tx:
            replay_dead_letters(tx, dead_letters.list_dead(tx), by="key_1", now=world.clock())
        world.deliver()
        new = world.say(customer="cus_1")
        world.deliver()
    assert [headers["webhook-id"] for headers, _ in merchant.received] == [old, old, old, new]
    assert world.rows("deliveries", "state") == [("delivered",), ("due",)]
