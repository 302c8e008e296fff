"""A merchant's own events: published once a key, to whoever asked for them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from desk.world import NOW, OPERATOR, Belongings, Desk, World, made, new_env, refused, serving, settle
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from billhook.store.database import Database
from billhook.store.deliveries import list_deliveries
from billhook.store.endpoints import create_endpoint, set_disabled, subscribed_endpoints, update_endpoint
from billhook.store.merchants import revoke_key
from billhook.store.messages import get_message
from billhook.tracing import Tracing
from billhook_testing.servers import ValkeyServer

SHIPPED: dict[str, Any] = {
    "event_type": "order.shipped",
    "data": {"id": "o_1", "total": 100000000000000000000, "é": [1.5]},
}


def publish(desk: Desk, key: str, body: Any, idempotency_key: str = "key-1", **request: Any) -> requests.Response:
    return desk.ask("POST", "/v1/messages", key, {"Idempotency-Key": idempotency_key}, json=body, **request)


def deliveries(desk: Desk, message_id: str) -> list[Any]:
    with desk.env.database.read() as tx:
        return [*list_deliveries(tx, merchant_id=None, message_id=message_id)]


def test_an_event_goes_to_the_endpoints_that_asked_for_it(desk: Desk, world: World) -> None:
    ours = world.ours
    for event_types in (["order.*"], ["invoice.*"], ["order.shipped"]):
        made(desk.post("/v1/endpoints", {"url": "https://example.com", "event_types": event_types}, key=ours.key))
    published = made(publish(desk, ours.key, {**SHIPPED, "customer": "cus_1", "subscription": "sub_1"}))
    assert published["deliveries"] == 3, "with the one that wants everything"
    message = desk.get(f"/v1/messages/{published['id']}", key=ours.key).json()
    assert json.loads(message["body"]["content"]) == {
        "type": "order.shipped",
        "timestamp": "2026-01-05T09:00:00Z",
        "data": SHIPPED["data"],
    }
    assert (message["type"], message["event_id"], message["object_id"]) == ("order.shipped", None, "key-1")
    assert (message["customer"], message["subscription"]) == ("cus_1", "sub_1")
    assert len(message["deliveries"]) == 3
    assert all(delivery["state"] == "due" for delivery in message["deliveries"])


def test_the_same_again_is_answered_with_what_was_published(desk: Desk, world: World) -> None:
    key = world.ours.key
    request = {**SHIPPED, "occurred_at": "2026-01-05T08:00:00Z"}
    first = publish(desk, key, request)
    assert "Idempotent-Replayed" not in first.headers
    turned = {"data": dict(reversed(SHIPPED["data"].items())), "event_type": "order.shipped"}
    for same in (request, {**turned, "occurred_at": "2026-01-05T09:00:00+01:00"}):
        again = publish(desk, key, same)
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
        assert again.json() == made(first)
    assert len(desk.get("/v1/messages", key=key, type="order.shipped").json()["data"]) == 1


def test_a_key_speaks_for_one_event(desk: Desk, world: World) -> None:
    key = world.ours.key
    first = made(publish(desk, key, SHIPPED))
    for other in (
        {**SHIPPED, "event_type": "order.sent"},
        {**SHIPPED, "data": {}},
        {**SHIPPED, "customer": "cus_1"},
        {**SHIPPED, "occurred_at": "2026-01-05T09:00:00Z"},
    ):
        refused(publish(desk, key, other), 422, "idempotency_key_reused", "new key")
    assert made(publish(desk, key, SHIPPED, "key-2"))["id"] != first["id"]
    assert made(publish(desk, world.theirs.key, {**SHIPPED, "data": {}}))["id"] != first["id"], (
        "keys are a merchant's own"
    )


def test_requests_that_race_publish_once(desk: Desk, world: World) -> None:
    key, racers = world.ours.key, 6
    for race in range(3):
        line = threading.Barrier(racers)

        def run(_: int, name: str = f"race-{race}", line: threading.Barrier = line) -> requests.Response:
            line.wait(30)
            return publish(desk, key, SHIPPED, name)

        with ThreadPoolExecutor(racers) as pool:
            answers = list(pool.map(run, range(racers)))
        assert sorted(answer.status_code for answer in answers) == [200] * (racers - 1) + [201]
        [message_id] = {answer.json()["id"] for answer in answers}
        assert len(deliveries(desk, message_id)) == 1
    assert len(desk.get("/v1/messages", key=key, type="order.shipped").json()["data"]) == 3


def test_a_disabled_endpoint_finds_it_held(desk: Desk, world: World) -> None:
    ours = world.ours
    desk.post(f"/v1/endpoints/{ours.ids['endpoint_id']}/disable", key=ours.key)
    published = made(publish(desk, ours.key, SHIPPED))
    assert published["deliveries"] == 1
    assert [row["state"] for row in deliveries(desk, published["id"])] == ["held"]
    assert publish(desk, ours.key, SHIPPED).json() == published


def test_what_it_is_about_keeps_it_in_order_at_endpoints_that_want_that(desk: Desk, world: World) -> None:
    ours = world.ours
    path = f"/v1/endpoints/{ours.ids['endpoint_id']}"
    desk.ask("PATCH", path, ours.key, json={"ordering": "subscription"})
    published = made(publish(desk, ours.key, {**SHIPPED, "customer": "cus_1", "subscription": "sub_1"}))
    assert [row["subject"] for row in deliveries(desk, published["id"])] == ["sub_1"]


NAMES_OF_OTHERS = [
    *((name, "event_type_reserved") for name in ("invoice.paid", "invoice.payed", "endpoint.disabled", "ping.me")),
    *((name, "event_type_invalid") for name in ("ping", "order", "", "Order.x", "order.*", "*", f"a.{'b' * 99}")),
]


def test_nobody_publishes_under_another_name_than_their_own(desk: Desk, world: World) -> None:
    for event_type, code in NAMES_OF_OTHERS:
        refused(publish(desk, world.ours.key, {**SHIPPED, "event_type": event_type}), 422, code, "event_type")


def test_without_a_key_that_can_be_kept_nothing_is_published(desk: Desk, world: World) -> None:
    key = world.ours.key
    refused(desk.post("/v1/messages", SHIPPED, key=key), 422, "invalid", "Idempotency-Key")
    for odd in ("", "x" * 256, "caf\xe9", "a\tb"):
        refused(publish(desk, key, SHIPPED, odd), 422, "idempotency_key_invalid", "255")
    made(publish(desk, key, SHIPPED, "x" * 255))
    made(publish(desk, key, SHIPPED, "order 1, shipped"))


UNREADABLE = [
    ('{"a": NaN}', 422, "data_invalid"),
    ('{"a": [{"b": -Infinity}]}', 422, "data_invalid"),
    ('{"a": 1e999}', 422, "data_invalid"),
    ('{"a": "\\ud800"}', 422, "data_invalid"),
    ('{"a": {"\\udfff": 1}}', 422, "data_invalid"),
    ("[]", 422, "invalid"),
    ("null", 422, "invalid"),
    ('"text"', 422, "invalid"),
    ('{"a": ' + "[" * 20_000 + "]" * 20_000 + "}", 400, "unreadable"),
    ('{"a": "%s"}' % ("x" * 66_000), 413, "too_large"),
]


def test_data_that_receivers_could_not_read_is_refused(desk: Desk, world: World) -> None:
    for data, status, code in UNREADABLE:
        headers = {"Idempotency-Key": "key-1", "Content-Type": "application/json"}
        body = f'{{"event_type": "order.shipped", "data": {data}}}'
        refused(desk.ask("POST", "/v1/messages", world.ours.key, headers, data=body.encode()), status, code)


def test_data_is_sent_as_it_was_given(desk: Desk, world: World) -> None:
    data = {"\0": "\u2028 \x7f", "deep": [[[[{"": None}]]]], "small": -0.5, "yes": True, "large": 2**64}
    published = made(publish(desk, world.ours.key, {**SHIPPED, "data": data}))
    message = desk.get(f"/v1/messages/{published['id']}", key=world.ours.key).json()
    assert json.loads(message["body"]["content"])["data"] == data


AS_IT_IS = '{"amount": 10.00000000000000001, "a" : 1,  "a": 2, "large": 123456789012345678901234567890.10, "z": 1E2}'


def publish_raw(desk: Desk, key: str, data: str, idempotency_key: str = "key-1") -> requests.Response:
    headers = {"Idempotency-Key": idempotency_key, "Content-Type": "application/json"}
    body = f'{{"event_type": "order.shipped", "data": {data}}}'
    return desk.ask("POST", "/v1/messages", key, headers, data=body.encode())


def test_data_arrives_byte_by_byte_as_it_was_given(desk: Desk, world: World) -> None:
    key = world.ours.key
    published = made(publish_raw(desk, key, AS_IT_IS))
    message = desk.get(f"/v1/messages/{published['id']}", key=key).json()
    assert message["body"]["content"].endswith(f'"data":{AS_IT_IS}}}')
    assert publish_raw(desk, key, AS_IT_IS).json() == published


def test_another_number_is_another_request_however_close(desk: Desk, world: World) -> None:
    key = world.ours.key
    made(publish_raw(desk, key, '{"amount": 10.00000000000000001}'))
    for other in (
        '{"amount": 10.0}',
        '{"amount": 10.00000000000000002}',
        '{"amount": "10.00000000000000001"}',
        '{"amount": []}',
        '{"amount": 10.00000000000000001, "amount": 10.00000000000000001}',
    ):
        refused(publish_raw(desk, key, other), 422, "idempotency_key_reused")


def test_how_large_it_may_be_is_a_setting(database: Database, tmp_path: Path) -> None:
    url = database.url.render_as_string(hide_password=False)
    env = new_env(url, tmp_path, message_limit_kib=1024)
    ours = settle(env, "Ours")
    with serving(env) as desk:
        largest = json.dumps({"text": "x" * (1024 * 1024 - 100)})
        published = made(publish_raw(desk, ours.key, largest))
        message = desk.get(f"/v1/messages/{published['id']}", key=ours.key).json()
        assert message["body"]["content"].endswith(f'"data":{largest}}}')
        refused(publish_raw(desk, ours.key, json.dumps({"text": "x" * 1024 * 1024}), "2"), 413, "too_large", "1024 KiB")
    env.close()


def test_a_key_that_is_revoked_ends_at_once_however_often_it_was_used(desk: Desk, world: World) -> None:
    ours = world.ours
    made(publish(desk, ours.key, SHIPPED))
    with desk.env.database.begin() as tx:  # by anybody, in any process
        assert revoke_key(tx, ours.ids["own_key_id"], NOW)
    for body in (SHIPPED, {**SHIPPED, "data": {"id": "o_2"}}, {"event_type": "order"}):
        refused(publish(desk, ours.key, body), 401, "wrong_key")
        refused(publish(desk, ours.key, body, "key-2"), 401, "wrong_key")
    assert len(desk.get("/v1/messages", type="order.shipped").json()["data"]) == 1


def test_endpoints_count_as_they_are_at_this_moment(desk: Desk, world: World) -> None:
    ours, endpoint_id = world.ours, world.ours.ids["endpoint_id"]

    def states(key: str) -> list[str]:
        published = made(publish(desk, ours.key, SHIPPED, key))
        found = [row["state"] for row in deliveries(desk, published["id"])]
        assert published["deliveries"] == len(found)
        return sorted(found)

    assert states("1") == ["due"]
    with desk.env.database.begin() as tx:  # by anybody, in any process
        create_endpoint(tx, ours.merchant_id, "https://example.com/2", ["order.*"], b"sealed", NOW)
    assert states("2") == ["due", "due"]
    with desk.env.database.begin() as tx:
        set_disabled(tx, endpoint_id, NOW, "by hand")
    assert states("3") == ["due", "held"]
    with desk.env.database.begin() as tx:
        update_endpoint(tx, endpoint_id, deleted_at=NOW)
    assert states("4") == ["due"]
    with desk.env.database.begin() as tx:
        [left] = subscribed_endpoints(tx, [ours.merchant_id])[ours.merchant_id][1]
        update_endpoint(tx, left.id, event_types=["invoice.*"])
    assert states("5") == []


NO_TIMES = [
    ("2026-01-05T09:00:00", "invalid"),
    ("yesterday", "invalid"),
    ("1969-12-31T23:59:59Z", "occurred_at_invalid"),
    ("0001-01-01T00:00:00+23:59", "occurred_at_invalid"),
    ("9999-12-31T23:59:59-23:59", "occurred_at_invalid"),
    ("2026-01-07T09:00:00Z", "occurred_at_invalid"),
]


def test_a_time_at_which_nothing_happened_is_refused(desk: Desk, world: World) -> None:
    for occurred_at, code in NO_TIMES:
        refused(publish(desk, world.ours.key, {**SHIPPED, "occurred_at": occurred_at}), 422, code, "occurred_at")


def test_what_happened_before_says_when(desk: Desk, world: World) -> None:
    published = made(publish(desk, world.ours.key, {**SHIPPED, "occurred_at": "2026-01-04T09:00:00.5+02:00"}))
    message = desk.get(f"/v1/messages/{published['id']}", key=world.ours.key).json()
    assert json.loads(message["body"]["content"])["timestamp"] == "2026-01-04T07:00:00.500000Z"
    assert (message["occurred_at"], message["created_at"]) == ("2026-01-04T07:00:00.500000Z", "2026-01-05T09:00:00Z")


def test_the_operator_publishes_for_a_merchant(desk: Desk, world: World) -> None:
    ours = world.ours
    refused(publish(desk, OPERATOR, SHIPPED), 422, "merchant_missing")
    refused(publish(desk, OPERATOR, SHIPPED, params={"merchant_id": f"mrc_{'0' * 32}"}), 404, "not_found")
    published = made(publish(desk, OPERATOR, SHIPPED, params={"merchant_id": ours.merchant_id}))
    assert publish(desk, ours.key, SHIPPED).json() == published
    foreign = publish(desk, ours.key, SHIPPED, "key-2", params={"merchant_id": world.theirs.merchant_id})
    refused(foreign, 404, "not_found")


def test_what_is_published_is_rung_for_once(database: Database, valkey: ValkeyServer, tmp_path: Path) -> None:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, queue_url=valkey.url)
    env.broker.client.flushall()
    ours: Belongings = settle(env, "Ours")
    with serving(env) as desk:
        made(publish(desk, ours.key, SHIPPED))
        assert publish(desk, ours.key, SHIPPED).status_code == 200
    env.bell.close()
    assert env.broker.waiting("deliveries") == 1
    env.close()


def test_what_is_published_belongs_to_the_trace_of_its_request(database: Database, tmp_path: Path) -> None:
    env, told = new_env(database.url.render_as_string(hide_password=False), tmp_path), InMemorySpanExporter()
    vars(env)["tracing"] = Tracing("desk", told, at_once=True)
    ours: Belongings = settle(env, "Ours")
    traceparent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with serving(env) as desk:
        for replayed in ("published", "replayed"):
            headers = {"Idempotency-Key": "key-1", **traceparent}
            answer = desk.ask("POST", "/v1/messages", ours.key, headers, json=SHIPPED)
            assert answer.ok, answer.text
            span = [span for span in told.get_finished_spans() if span.name == "publish"][-1]
            assert span.attributes
            assert span.attributes["billhook.outcome"] == replayed
            assert span.attributes["billhook.message_id"] == answer.json()["id"]
            assert span.context.trace_id == 0x4BF92F3577B34DA6A3CE929D0E0E4736
    with env.database.read() as tx:
        message = get_message(tx, answer.json()["id"], merchant_id=ours.merchant_id)
    (first, _) = (span for span in told.get_finished_spans() if span.name == "publish")
    assert message is not None
    assert message["traceparent"] == f"00-{first.context.trace_id:032x}-{first.context.span_id:016x}-01"
    (commit, _) = (span for span in told.get_finished_spans() if span.name == "commit publications")
    assert [link.context.span_id for link in commit.links] == [first.context.span_id]
    env.close()
