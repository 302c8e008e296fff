"""From a message to a merchant's endpoint."""

from __future__ import annotations

import json
import socket
from datetime import UTC, timedelta

import sqlalchemy as sa
from consumers.lifecycle import event, invoice
from consumers.receiver import receiver
from consumers.world import SECRET, World
from standardwebhooks import Webhook

from billhook.rules.delivery import SCHEDULE_SECONDS
from billhook.rules.signing import new_secret, public_key
from billhook.store import dead_letters, queues
from billhook.store.deliveries import delivery_attempts
from billhook.store.endpoints import get_endpoint, rotate_secret, set_disabled, update_endpoint
from billhook.store.merchants import set_contact
from billhook.store.messages import messages

MAX_ATTEMPTS = len(SCHEDULE_SECONDS) + 1

PAID = event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), 1_772_366_400)


def verified(headers: dict[str, str], body: bytes, world: World) -> bool:
    """By the official library, at the world's time: the signature's own timestamp is what it signs."""
    # The library takes the time as it is written, whatever the zone.
    expected = Webhook(SECRET).sign(headers["webhook-id"], world.clock().astimezone(UTC), body.decode())
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
        for wait in (*SCHEDULE_SECONDS, 0):
            world.deliver()
            world.clock.move(seconds=wait * 1.11)
        world.deliver()
        ((delivery, state),) = world.rows("deliveries", "id", "state")
        assert state == "dead"
        assert len(merchant.received) == MAX_ATTEMPTS

        with world.database.begin() as tx:
            rings = queues.replay(tx, "deliveries", [delivery], by="test", now=world.clock())
            assert rings == {"deliveries.replay": [delivery]}
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


def test_an_endpoint_that_is_gone_is_disabled_and_its_messages_are_kept(world: World) -> None:
    with receiver() as merchant, receiver() as other:
        merchant.answers = [(410, {})]
        endpoint = world.endpoint(merchant.url, "order.*")
        world.endpoint(other.url, "endpoint.*")
        world.say()
        world.deliver()
        world.say()
        world.deliver()
        assert len(merchant.received) == 1
        ((_, notice),) = other.received

        assert world.rows("endpoints", "id", "disabled_reason")[0] == (endpoint, "the endpoint answered 410 Gone")
        assert json.loads(notice)["type"] == "endpoint.disabled"
        assert json.loads(notice)["data"]["id"] == endpoint
        assert [state for (state,) in world.rows("deliveries", "state")] == ["delivered", "held", "held"]

        with world.database.begin() as tx:
            set_disabled(tx, endpoint, None, None)
            held = [row_id for row_id, state in world.rows("deliveries", "id", "state") if state == "held"]
            queues.replay(tx, "deliveries", held, by="test", now=world.clock())
        world.deliver()
    assert len(merchant.received) == 3


def test_an_endpoint_that_fails_for_five_days_is_disabled_and_its_merchant_hears_of_it_in_time(world: World) -> None:
    with receiver() as merchant, receiver() as other:
        endpoint = world.endpoint(merchant.url, "order.*", schedule=[6 * 3600] * 20)
        world.endpoint(other.url, "endpoint.*")
        with world.database.begin() as tx:
            set_contact(tx, world.merchant_id, "ops@acme.test")
        world.say()
        merchant.answers = [(500, {})] * 100
        for _ in range(20):  # the schedule's six hours, and a tenth of jitter at most
            world.deliver()
            world.clock.move(hours=6.7)
        notices = [json.loads(body) for _, body in other.received]
        assert [notice["type"] for notice in notices] == ["endpoint.failing"] * 2 + ["endpoint.disabled"]
        assert {notice["data"]["last_error"] for notice in notices} == {"the endpoint answered 500"}
        assert world.rows("deliveries", "state").count(("held",)) == 1
        mails = world.rows("mails", "created_at", "recipient", "subject")
        assert [recipient for _, recipient, _ in mails] == ["ops@acme.test"] * 3

        with world.database.begin() as tx:
            set_disabled(tx, endpoint, None, None)
        assert world.rows("endpoints", "failing_since", "notices") == [(None, 0)] * 2


def test_one_success_wipes_the_slate_clean(world: World) -> None:
    with receiver() as merchant:
        world.endpoint(merchant.url)
        merchant.answers = [(500, {}), (200, {})]
        world.say()
        world.deliver()
        failing = world.rows("endpoints", "failing_since", "notices")
        world.clock.move(hours=13)
        world.deliver()
    assert failing == [(world.clock() - timedelta(hours=13), 0)]
    assert world.rows("endpoints", "failing_since", "notices") == [(None, 0)]


def test_enabling_what_is_enabled_hides_no_failure(world: World) -> None:
    with receiver() as merchant:
        endpoint = world.endpoint(merchant.url)
        merchant.answers = [(500, {})]
        world.say()
        world.deliver()
    failing = world.rows("endpoints", "failing_since", "last_failure_at")
    assert failing == [(world.clock(),) * 2]
    with world.database.begin() as tx:
        set_disabled(tx, endpoint, None, None)
    assert world.rows("endpoints", "failing_since", "last_failure_at") == failing


def test_a_secret_on_its_way_out_signs_beside_the_new_one(world: World) -> None:
    with receiver() as merchant:
        endpoint_id = world.endpoint(merchant.url)
        new = new_secret("v1a")
        with world.database.begin() as tx:
            endpoint = get_endpoint(tx, endpoint_id)
            assert endpoint is not None
            until = world.clock() + timedelta(hours=24)
            rotate_secret(tx, endpoint, world.vault.seal(new), public_key(new), until=until, now=world.clock())
        for _ in range(2):
            world.say()
            world.deliver()
            world.clock.move(hours=25)
    schemes = [
        [entry.partition(",")[0] for entry in headers["webhook-signature"].split()] for headers, _ in merchant.received
    ]
    assert schemes == [["v1a", "v1"], ["v1a"]]


def test_custom_headers_are_sent_and_cannot_replace_what_signs(world: World) -> None:
    with receiver() as merchant:
        own = {"X-Shop": "one", "Authorization": "Bearer t"}
        world.endpoint(merchant.url, headers=world.vault.seal(json.dumps(own)))
        world.say()
        world.deliver()
    ((headers, _),) = merchant.received
    assert (headers["x-shop"], headers["authorization"]) == ("one", "Bearer t")
    assert headers["content-type"] == "application/json"


def test_what_fails_leaves_the_first_lane(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(500, {})]
        world.endpoint(merchant.url)
        world.say()
        world.deliver()
    assert world.rows("deliveries", "lane", "state") == [("retry", "due")]


def test_an_answer_is_recorded_with_its_headers(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(503, {"X-Why": "busy"})]
        world.endpoint(merchant.url)
        world.say()
        world.deliver()
    with world.database.read() as tx:
        attempt = tx.execute(sa.select(delivery_attempts)).mappings().one()
    assert (attempt["status_code"], attempt["outcome"], attempt["response"]) == (503, "5xx", b"ok")
    assert ["X-Why", "busy"] in attempt["response_headers"]


def test_a_message_whose_body_is_gone_is_a_dead_letter(world: World) -> None:
    world.endpoint("https://merchant.test/hook")
    message = world.say()
    with world.database.begin() as tx:
        tx.execute(sa.update(messages).where(messages.c.id == message).values(body=b"", pruned_at=world.clock()))
    world.deliver()
    ((state, error),) = world.rows("deliveries", "state", "last_error")
    assert state == "dead"
    assert "pruned" in error


def test_a_receiver_that_hangs_or_never_stops_talking_is_cut_off(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        world.endpoint(url, "invoice.paid", timeout_seconds=0.5)
        world.arrive(world.stripe_source, PAID)
        world.post()
        world.deliver()
    assert world.rows("delivery_attempts", "outcome") == [("timeout",)]


def test_an_attempt_shows_where_it_went_and_with_which_headers(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(500, {})]
        headers = world.vault.seal('{"Authorization": "Bearer mine"}')
        endpoint = world.endpoint(merchant.url, headers=headers)
        world.say()
        world.deliver()
        with world.database.begin() as tx:
            update_endpoint(tx, endpoint, url=f"{merchant.url}/moved")
        world.clock.move(seconds=6)
        world.deliver()

    received = [heard for heard, _ in merchant.received]
    shown = world.rows("delivery_attempts", "number", "url", "request_headers")
    assert [(number, url) for number, url, _ in shown] == [(1, merchant.url), (2, f"{merchant.url}/moved")]
    for heard, (_, _, kept) in zip(received, shown, strict=True):
        assert ["Authorization", "(not kept)"] in kept
        written = {name.lower(): value for name, value in kept if name != "Authorization"}
        assert {"webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "user-agent"} == set(written)
        assert {name: heard[name] for name in written} == written


def test_attempts_are_numbered_on_through_a_replay(world: World) -> None:
    with receiver() as merchant:
        merchant.answers = [(500, {})] * 3
        world.endpoint(merchant.url, schedule=[5])
        world.say()
        for _ in range(2):
            world.deliver()
            world.clock.move(seconds=6)
        with world.database.begin() as tx:
            [letter] = dead_letters.list_dead(tx)
            queues.replay(tx, "deliveries", [letter["work_id"]], by="key_1", now=world.clock())
        for _ in range(2):
            world.deliver()
            world.clock.move(seconds=6)
    assert world.rows("delivery_attempts", "number", "outcome") == [(1, "5xx"), (2, "5xx"), (3, "5xx"), (4, "2xx")]
    assert world.rows("deliveries", "state", "attempts") == [("delivered", 2)]


def test_an_attempt_that_a_crash_cut_off_is_shown_as_such(world: World) -> None:
    with receiver() as merchant:
        world.endpoint(merchant.url)
        world.say()
        world.courier().take()  # and it dies
        world.clock.move(seconds=60)
        world.deliver()
    (cut, whole) = world.rows("delivery_attempts", "number", "outcome", "status_code", "error")
    assert cut[:3] == (1, "cut", None)
    assert "not known" in cut[3]
    assert whole == (2, "2xx", 200, None)
