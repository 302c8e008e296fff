"""From a message to a merchant's endpoint."""

from __future__ import annotations

import socket

from consumers.lifecycle import event, invoice
from consumers.receiver import receiver
from consumers.world import SECRET, World
from standardwebhooks import Webhook

from billhook.rules.delivery import MAX_ATTEMPTS
from billhook.store import queues

PAID = event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), 1_772_366_400)


def verified(headers: dict[str, str], body: bytes, world: World) -> bool:
    """By the official library, at the world's time: the signature's own timestamp is what it signs."""
    expected = Webhook(SECRET).sign(headers["webhook-id"], world.clock(), body.decode())
    return headers["webhook-signature"] == expected


def test_a_delivery_is_signed_sent_and_recorded(world: World) -> None:
    with receiver() as merchant:
        world.endpoint(merchant.url, "invoice.*")
        world.arrive(world.stripe_source, PAID)
        world.post()
        world.deliver()

    ((headers, body),) = merchant.received
    assert verified(headers, body, world)
    assert world.rows("messages", "id", "body") == [(headers["webhook-id"], body)]
    assert world.rows("deliveries", "state", "attempts") == [("delivered", 1)]
    assert world.rows("delivery_attempts", "number", "outcome", "status_code", "response") == [(1, "2xx", 200, b"ok")]


def test_a_failed_delivery_comes_again_under_the_same_id_with_a_fresh_signature(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(500, {}), (302, {"Location": merchant.url}), (429, {"Retry-After": "7200"})]
        world.endpoint(merchant.url, "invoice.paid")
        world.arrive(world.stripe_source, PAID)
        world.post()
        for wait in (0, 6, 331, 7921):  # 5 s, 5 min (jitter adds at most a tenth), and what the receiver asked for
            world.clock.move(seconds=wait)
            world.deliver()

    assert len({headers["webhook-id"] for headers, _ in merchant.received}) == 1
    assert len({headers["webhook-signature"] for headers, _ in merchant.received}) == 4
    assert [row[1] for row in world.rows("delivery_attempts", "number", "outcome")] == ["5xx", "3xx", "4xx", "2xx"]
    assert world.rows("deliveries", "state") == [("delivered",)]


def test_an_endpoint_that_never_answers_well_ends_as_a_dead_letter_that_can_be_replayed(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(503, {})] * MAX_ATTEMPTS
        world.endpoint(merchant.url, "invoice.paid")
        world.arrive(world.stripe_source, PAID)
        world.post()
        for _ in range(MAX_ATTEMPTS):
            world.deliver()
            world.clock.move(hours=27)
        world.deliver()
        ((delivery, state),) = world.rows("deliveries", "id", "state")
        assert state == "dead"
        assert len(merchant.received) == MAX_ATTEMPTS

        with world.database.begin() as tx:
            assert queues.replay(tx, "deliveries", [delivery], by="test", now=world.clock()) == [delivery]
        world.deliver()
    assert world.rows("deliveries", "state") == [("delivered",)]
    assert world.rows("dead_letters", "resolution") == [("replayed",)]


def test_an_endpoint_that_is_not_there_is_a_recorded_attempt(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    world.endpoint(f"http://127.0.0.1:{port}/hook", "invoice.paid")
    world.arrive(world.stripe_source, PAID)
    world.post()
    world.deliver()

    ((outcome, status),) = world.rows("delivery_attempts", "outcome", "status_code")
    assert (outcome, status) == ("connect", None)
    assert world.rows("deliveries", "state", "attempts") == [("due", 1)]


def test_a_receiver_that_hangs_or_never_stops_talking_is_cut_off(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        world.endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}/hook", "invoice.paid")
        world.arrive(world.stripe_source, PAID)
        world.post()
        world.deliver()
    assert world.rows("delivery_attempts", "outcome") == [("timeout",)]
