"""A merchant's webhook endpoint at the desk: set up, changed, tried out, stopped and given up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from desk.world import NOW, Belongings, Desk, World, made, new_env, refused, serving, settle

from billhook.events import OPERATIONAL_EVENTS
from billhook.rules.signing import new_secret, public_key
from billhook.store import work
from billhook.store.database import Database
from billhook.store.deliveries import Attempt, NewDelivery, add_attempts, add_deliveries, deliveries
from billhook.store.endpoints import Endpoint, endpoints_of, save_health
from billhook.store.messages import Message, add_messages
from billhook.store.replays import get_replay
from billhook_testing.clock import ManualClock
from billhook_testing.servers import ValkeyServer

EVERYTHING: dict[str, Any] = {
    "description": "Bookkeeping",
    "event_types": ["invoice.*", "order.shipped"],
    "headers": {"Authorization": "Bearer s3cr3t", "X-Team": "books"},
    "schedule": [5, 300.5],
    "timeout_seconds": 20,
    "max_in_flight": 8,
    "rate_limit": 2.5,
    "ordering": "customer",
}

DEFAULTS: dict[str, Any] = {
    "description": "",
    "event_types": ["*"],
    "header_names": [],
    "schedule": None,
    "timeout_seconds": None,
    "max_in_flight": None,
    "rate_limit": None,
    "ordering": "none",
}


def stored(desk: Desk, endpoint_id: str) -> Endpoint:
    with desk.env.database.read() as tx:
        return endpoints_of(tx, [endpoint_id])[endpoint_id]


def secrets(desk: Desk, endpoint_id: str) -> list[str]:
    """What it is signed with now, the current secret first."""
    return [desk.env.vault.open(sealed) for sealed in stored(desk, endpoint_id).secrets(desk.env.clock())]


def new_endpoint(desk: Desk, key: str, **fields: Any) -> Any:
    return made(desk.post("/v1/endpoints", {"url": "https://example.com/hooks", **fields}, key=key))


def hold(desk: Desk, ours: Belongings, endpoint_id: str, count: int) -> None:
    """Messages that come while the endpoint is disabled."""
    with desk.env.database.begin() as tx:
        for _ in range(count):
            message = Message.own(ours.merchant_id, "order.shipped", "publication", "k", b"{}", NOW)
            add_messages(tx, [message], NOW)
            add_deliveries(tx, [NewDelivery(ours.merchant_id, message.id, endpoint_id, held=True)], NOW)


def test_an_endpoint_is_made_with_defaults_and_its_secret_is_shown_once(desk: Desk, world: World) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, url="https://example.com/hooks?a=1", event_types=["a.b", "invoice.*", "a.b"])
    assert endpoint["event_types"] == ["a.b", "invoice.*"]
    path = f"/v1/endpoints/{endpoint['id']}"
    shown = desk.get(path, key=key).json()
    assert {**shown, "event_types": ["*"]} | DEFAULTS == {**shown, "event_types": ["*"]}
    assert (shown["state"], shown["signing"], shown["public_key"], shown["held"]) == ("enabled", "v1", None, 0)
    assert secrets(desk, endpoint["id"]) == [endpoint["secret"]]
    assert endpoint["secret"] not in desk.get(path, key=key).text + desk.get("/v1/endpoints", key=key).text


def test_every_setting_is_kept_shown_changed_and_reset(desk: Desk, world: World) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, **EVERYTHING)
    path = f"/v1/endpoints/{endpoint['id']}"
    shown = {name: value for name, value in EVERYTHING.items() if name != "headers"}
    shown["header_names"] = ["Authorization", "X-Team"]
    assert desk.get(path, key=key).json() | shown == desk.get(path, key=key).json()
    row = stored(desk, endpoint["id"])
    assert row.headers is not None
    assert json.loads(desk.env.vault.open(row.headers)) == EVERYTHING["headers"]
    assert (row.schedule, row.timeout_seconds, row.max_in_flight, row.rate_limit) == ([5, 300.5], 20, 8, 2.5)

    changed = desk.ask("PATCH", path, key, json={"timeout_seconds": 3, "url": "https://example.com/new"}).json()
    assert desk.get(path, key=key).json() == {**changed, "held": 0}
    assert (changed["timeout_seconds"], changed["url"]) == (3, "https://example.com/new")
    assert changed["header_names"] == shown["header_names"], "what is not named stays"
    assert desk.ask("PATCH", path, key, json={}).json() == changed
    everything = changed | {"header_names": ["X-Other"]}
    assert desk.ask("PATCH", path, key, json={"headers": {"X-Other": "2"}}).json() == everything

    reset = desk.ask("PATCH", path, key, json=dict.fromkeys(EVERYTHING)).json()
    assert reset | DEFAULTS == reset
    assert stored(desk, endpoint["id"]).headers is None


def test_the_values_of_headers_are_nowhere_to_be_seen(desk: Desk, world: World) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, **EVERYTHING)
    path = f"/v1/endpoints/{endpoint['id']}"
    answers = [desk.get(path, key=key), desk.get("/v1/endpoints", key=key), desk.post(f"{path}/disable", key=key)]
    answers.append(desk.ask("PATCH", path, key, json={"headers": {"X-Token": "s3cr3t\n"}}))
    for answer in answers:
        assert "s3cr3t" not in answer.text
    assert b"s3cr3t" not in (stored(desk, endpoint["id"]).headers or b"")


CANNOT_WORK = [
    ({"event_types": []}, "event_types_invalid", "event_types"),
    ({"event_types": ["invoice.piad"]}, "event_type_unknown", "invoice.piad"),
    ({"event_types": ["*.paid"]}, "event_type_unknown", "event_types"),
    ({"headers": {"Host": "x"}}, "header_reserved", "Host"),
    ({"headers": {"X A": "x"}}, "header_invalid", "X A"),
    ({"schedule": [0]}, "schedule_invalid", "schedule"),
    ({"timeout_seconds": 31}, "timeout_seconds_invalid", "timeout_seconds"),
    ({"max_in_flight": 0}, "max_in_flight_invalid", "max_in_flight"),
    ({"rate_limit": 0}, "rate_limit_invalid", "rate_limit"),
    ({"ordering": "invoice"}, "invalid", "ordering"),
    ({"description": "a\0b"}, "description_invalid", "description"),
    ({"max_in_flight": 1.5}, "invalid", "max_in_flight"),
    ({"colour": "red"}, "invalid", "colour"),
    ({"disabled_at": None}, "invalid", "disabled_at"),
    ({"url": None}, "invalid", "url"),
    ({"url": "https://10.1.2.3/"}, "url_refused", "10.1.2.3"),
]


def test_what_cannot_work_is_refused_alike_when_it_is_made_and_when_it_is_changed(desk: Desk, world: World) -> None:
    for fields, code, word in CANNOT_WORK:
        key, path = world.ours.key, f"/v1/endpoints/{world.ours.ids['endpoint_id']}"
        before = desk.get(path, key=key).json()
        refused(desk.post("/v1/endpoints", {"url": "https://example.com", **fields}, key=key), 422, code, word)
        refused(desk.ask("PATCH", path, key, json={"timeout_seconds": 7, **fields}), 422, code, word)
        assert desk.get(path, key=key).json() == before


def test_a_number_that_is_none_is_refused(desk: Desk, world: World) -> None:
    headers = {"Content-Type": "application/json"}
    path = f"/v1/endpoints/{world.ours.ids['endpoint_id']}"
    for text in ('{"rate_limit": NaN}', '{"timeout_seconds": Infinity}', '{"schedule": [NaN]}'):
        refused(
            desk.ask("PATCH", path, world.ours.key, headers, data=text), 422, json.loads(text).popitem()[0] + "_invalid"
        )


NO_ADDRESSES = [
    *("ftp://example.com", "example.com", "https://", "https:///path", "http://a b/", "javascript:alert(1)", ""),
    *("https://user:word@example.com", "https://example.com:99999", "http://[::1", "https://a.example/\x00", "//a"),
    *("https://a.example/\n", "https://a.example\\@b.example", f"https://a.example/{'x' * 2000}"),
]


def test_an_endpoint_needs_an_address_that_can_be_posted_to(desk: Desk, world: World) -> None:
    for url in NO_ADDRESSES:
        answer = desk.post("/v1/endpoints", {"url": url}, key=world.ours.key)
        assert answer.status_code == 422
        assert "url" in answer.json()["error"]["message"]


PRIVATE = [
    ("http://example.com", "BILLHOOK_ALLOW_HTTP"),
    ("https://127.0.0.1:8080/", "BILLHOOK_ALLOWED_NETWORKS"),
    ("https://localhost/", "BILLHOOK_ALLOWED_NETWORKS"),
    ("https://169.254.169.254/latest", "BILLHOOK_ALLOWED_NETWORKS"),
    ("https://[::ffff:10.0.0.1]/", "BILLHOOK_ALLOWED_NETWORKS"),
    ("https://2130706433/", ""),
]


def test_a_private_address_is_refused_with_the_setting_that_may_allow_it(desk: Desk, world: World) -> None:
    for url, setting in PRIVATE:
        answer = desk.post("/v1/endpoints", {"url": url}, key=world.ours.key)
        refused(answer, 422, "url_refused", "url", setting)
        assert bool(setting) == ("BILLHOOK_" in answer.text)


def test_what_the_operator_allows_may_be_posted_to(database: Database, tmp_path: Path) -> None:
    url = database.url.render_as_string(hide_password=False)
    env = new_env(url, tmp_path, allow_http=True, allowed_networks="127.0.0.0/8, 10.0.0.0/8")
    ours = settle(env, "Ours")
    with serving(env) as desk:
        for allowed in ("http://127.0.0.1:8080/hook", "https://10.9.8.7", "http://localhost/", "http://example.com"):
            new_endpoint(desk, ours.key, url=allowed)
        answer = desk.post("/v1/endpoints", {"url": "http://192.168.0.1"}, key=ours.key)
        refused(answer, 422, "url_refused", "BILLHOOK_ALLOWED_NETWORKS")
    env.close()


def test_a_rotated_secret_signs_beside_the_old_one_until_their_overlap_ends(
    desk: Desk, world: World, clock: ManualClock
) -> None:
    key = world.ours.key
    first = new_endpoint(desk, key)
    path = f"/v1/endpoints/{first['id']}"
    second = desk.post(f"{path}/rotate", {"overlap_seconds": 3600}, key=key).json()
    assert secrets(desk, first["id"]) == [second["secret"], first["secret"]]
    assert (second["previous_secrets"], second["previous_secrets_until"]) == (1, "2026-01-05T10:00:00Z")
    third = desk.post(f"{path}/rotate", key=key).json()
    assert secrets(desk, first["id"]) == [third["secret"], second["secret"], first["secret"]]
    assert (third["previous_secrets"], third["previous_secrets_until"]) == (2, "2026-01-06T09:00:00Z")
    for told in (first, second, third):
        assert told["secret"] not in desk.get(path, key=key).text
    clock.move(hours=2)
    assert secrets(desk, first["id"]) == [third["secret"], second["secret"]]
    assert desk.get(path, key=key).json()["previous_secrets"] == 1
    clock.move(days=1)
    ended = desk.get(path, key=key).json()
    assert (ended["previous_secrets"], ended["previous_secrets_until"]) == (0, None)


def test_a_secret_that_others_have_seen_is_taken_back_at_once(desk: Desk, world: World) -> None:
    key = world.ours.key
    path = f"/v1/endpoints/{world.ours.ids['endpoint_id']}/rotate"
    desk.post(path, key=key)
    told = desk.post(path, {"overlap_seconds": 0}, key=key).json()
    assert secrets(desk, told["id"]) == [told["secret"]]
    for seconds in (-1, 604_801):
        refused(desk.post(path, {"overlap_seconds": seconds}, key=key), 422, "overlap_seconds_invalid", "604800")
    assert secrets(desk, told["id"]) == [told["secret"]]


def test_of_rotations_at_the_same_time_no_secret_is_lost(desk: Desk, world: World) -> None:
    key, endpoint_id = world.ours.key, world.ours.ids["endpoint_id"]
    before = secrets(desk, endpoint_id)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: desk.post(f"/v1/endpoints/{endpoint_id}/rotate", key=key).json(), range(4))
        told = [answer["secret"] for answer in answers]
    now = secrets(desk, endpoint_id)
    assert len(now) == 5
    assert set(now) == {*before, *told}


def test_with_a_key_pair_only_the_public_key_is_ever_told(desk: Desk, world: World) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, signing="v1a")
    path = f"/v1/endpoints/{endpoint['id']}"
    assert (endpoint["signing"], endpoint["secret"]) == ("v1a", None)
    assert [endpoint["public_key"]] == [public_key(secret) for secret in secrets(desk, endpoint["id"])]
    rotated = desk.post(f"{path}/rotate", key=key).json()
    assert (rotated["signing"], rotated["secret"]) == ("v1a", None), "the scheme stays"
    assert [rotated["public_key"], endpoint["public_key"]] == [
        public_key(secret) for secret in secrets(desk, endpoint["id"])
    ]
    shared = desk.post(f"{path}/rotate", {"signing": "v1"}, key=key).json()
    assert (shared["signing"], shared["public_key"]) == ("v1", None)
    assert secrets(desk, endpoint["id"])[0] == shared["secret"]


def test_a_secret_can_be_brought_along(desk: Desk, world: World) -> None:
    key = world.ours.key
    shared, private = new_secret("v1"), new_secret("v1a")
    endpoint = new_endpoint(desk, key, secret=shared)
    assert (endpoint["secret"], endpoint["signing"], secrets(desk, endpoint["id"])) == (None, "v1", [shared])
    answer = desk.post(f"/v1/endpoints/{endpoint['id']}/rotate", {"secret": private, "overlap_seconds": 0}, key=key)
    assert (answer.json()["secret"], answer.json()["public_key"]) == (None, public_key(private))
    assert new_endpoint(desk, key, secret=private)["signing"] == "v1a"
    for fields in ({"secret": shared, "signing": "v1a"}, {"secret": "whsec_c2hvcnQ="}, {"secret": "hunter2"}):
        refusal = desk.post("/v1/endpoints", {"url": "https://example.com", **fields}, key=key)
        refused(refusal, 422, "secret_invalid", "secret")
        assert fields["secret"] not in refusal.text


def test_a_test_goes_to_the_one_endpoint_whatever_it_asked_for(desk: Desk, world: World) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, event_types=["invoice.paid"])
    path = f"/v1/endpoints/{endpoint['id']}"
    sent = made(desk.post(f"{path}/test", key=key))
    message = desk.get(f"/v1/messages/{sent['message_id']}", key=key).json()
    assert message["type"] in OPERATIONAL_EVENTS
    assert (message["type"], message["object_id"], message["event_id"]) == ("ping", endpoint["id"], None)
    body = json.loads(message["body"]["content"])
    assert (body["type"], body["timestamp"]) == ("ping", "2026-01-05T09:00:00Z")
    assert (body["data"]["id"], body["data"]["object"], body["data"]["url"]) == (
        endpoint["id"],
        "endpoint",
        endpoint["url"],
    )
    [delivery] = message["deliveries"]
    assert (delivery["id"], delivery["endpoint_id"], delivery["state"]) == (sent["delivery_id"], endpoint["id"], "due")
    desk.post(f"{path}/disable", key=key)
    refused(desk.post(f"{path}/test", key=key), 409, "endpoint_disabled", "nable it")


def test_more_secrets_than_may_overlap_are_refused_and_none_is_dropped(desk: Desk, world: World) -> None:
    key, endpoint_id = world.ours.key, world.ours.ids["endpoint_id"]
    path = f"/v1/endpoints/{endpoint_id}/rotate"
    for _ in range(10):
        assert desk.post(path, key=key).status_code == 200
    before = stored(desk, endpoint_id)
    refused(desk.post(path, key=key), 409, "secrets_too_many", "overlap_seconds")
    assert stored(desk, endpoint_id) == before
    assert desk.post(path, {"overlap_seconds": 0}, key=key).json()["previous_secrets"] == 0


def test_a_merchant_has_so_many_endpoints_and_no_more(database: Database, tmp_path: Path) -> None:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, endpoints_per_merchant=3)
    ours, theirs = settle(env, "Ours"), settle(env, "Theirs")
    new = {"url": "https://example.com/hook"}
    with serving(env) as desk:
        last = [made(desk.post("/v1/endpoints", new, key=ours.key)) for _ in range(2)][-1]
        refused(desk.post("/v1/endpoints", new, key=ours.key), 409, "endpoints_too_many", "3 endpoints", "delete")
        made(desk.post("/v1/endpoints", new, key=theirs.key))
        desk.ask("DELETE", f"/v1/endpoints/{last['id']}", ours.key)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: desk.post("/v1/endpoints", new, key=ours.key).status_code, range(4)))
        assert sorted(answers) == [201, 409, 409, 409], "also when they come at once"
    env.close()


NO_HOSTS = [
    "256.256.256.256",
    "good..example.com",
    f"{'a' * 64}.example.com",
    "1.2.3.4.5",
    "a." * 130 + "com",
    "a&b.com",
]


def test_a_url_that_can_never_work_is_refused(desk: Desk, world: World) -> None:
    for host in NO_HOSTS:
        answer = desk.post("/v1/endpoints", {"url": f"https://{host}/hook"}, key=world.ours.key)
        refused(answer, 422, "url_refused", "there is no host")


def test_an_endpoint_is_disabled_with_a_trace_and_enabled_with_a_clean_record(desk: Desk, world: World) -> None:
    key, by = world.ours.key, f"disabled by {world.ours.ids['own_key_id']}"
    path = f"/v1/endpoints/{world.ours.ids['endpoint_id']}"
    with desk.env.database.begin() as tx:
        row = endpoints_of(tx, [world.ours.ids["endpoint_id"]])[world.ours.ids["endpoint_id"]]
        save_health(tx, {row.id: type(row.health)(NOW, NOW, 1)})
    assert desk.get(path, key=key).json()["failing_since"] == "2026-01-05T09:00:00Z"
    disabled = desk.post(f"{path}/disable", {"reason": "moving house"}, key=key).json()
    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", f"{by}: moving house")
    again = desk.post(f"{path}/disable", {"reason": "to be sure"}, key=key).json()
    assert again == disabled, "the first reason stays, and so does the time"
    enabled = desk.post(f"{path}/enable", key=key).json()
    assert (enabled["state"], enabled["disabled_at"], enabled["disabled_reason"]) == ("enabled", None, None)
    assert (enabled["failing_since"], enabled["held"], enabled["replay_id"]) == (None, 0, None)


def test_what_was_held_is_counted_and_sent_when_somebody_asks_for_it(
    desk: Desk, world: World, clock: ManualClock
) -> None:
    ours = world.ours
    endpoint_id = ours.ids["endpoint_id"]
    path = f"/v1/endpoints/{endpoint_id}"
    desk.post(f"{path}/disable", key=ours.key)
    hold(desk, ours, endpoint_id, 3)
    clock.move(hours=1)
    assert desk.get(path, key=ours.key).json()["held"] == 3
    assert len(desk.get("/v1/deliveries", key=ours.key, state="held").json()["data"]) == 3
    enabled = desk.post(f"{path}/enable", key=ours.key).json()
    assert (enabled["held"], enabled["replay_id"]) == (3, None)
    enabled = desk.post(f"{path}/enable", {"replay_held": True}, key=ours.key).json()
    with desk.env.database.read() as tx:
        job = get_replay(tx, enabled["replay_id"], merchant_id=ours.merchant_id)
    assert job is not None
    assert (job.endpoint_id, job.states, job.since, job.until) == (endpoint_id, ["held"], NOW, clock())
    assert job.created_by == ours.ids["own_key_id"]


def test_a_deleted_endpoint_is_gone_but_what_it_was_sent_is_not(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.ours.key
    endpoint = new_endpoint(desk, key, **EVERYTHING)
    path = f"/v1/endpoints/{endpoint['id']}"
    delivery_id = made(desk.post(f"{path}/test", key=key))["delivery_id"]
    hold(desk, world.ours, endpoint["id"], 2)
    monkeypatch.setattr("billhook.store.deliveries.CANCELED_AT_ONCE", 2)  # and three there are
    answer = desk.ask("DELETE", path, key)
    assert (answer.status_code, answer.content) == (204, b"")
    for method, gone in (
        *(("GET", path), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/test"), ("POST", f"{path}/rotate")),
        *(("POST", f"{path}/enable"), ("POST", f"{path}/disable")),
    ):
        refused(desk.ask(method, gone, key, json={} if method == "PATCH" else None), 404, "not_found")
    assert endpoint["id"] not in desk.get("/v1/endpoints", key=key).text
    row = stored(desk, endpoint["id"])
    assert (row.deleted_at, row.headers, row.previous_secrets) == (NOW, None, None)
    assert desk.get(f"/v1/deliveries/{delivery_id}", key=key).json()["endpoint_id"] == endpoint["id"]
    canceled = desk.get("/v1/deliveries", key=key, endpoint_id=endpoint["id"]).json()["data"]
    assert [(one["state"], one["finished_at"]) for one in canceled] == [("canceled", "2026-01-05T09:00:00Z")] * 3
    untouched = desk.get(f"/v1/deliveries/{world.ours.ids['delivery_id']}", key=key).json()
    assert untouched["state"] == "due", "another endpoint's"


def test_however_often_it_was_tried_an_answer_has_an_end(desk: Desk, world: World) -> None:
    ours, delivery_id = world.ours, world.ours.ids["delivery_id"]
    long = b"x" * 64 * 1024
    with desk.env.database.begin() as tx:
        add_attempts(
            tx,
            [Attempt(ours.merchant_id, delivery_id, number, NOW, 9, "5xx", 500, None, long) for number in range(2, 60)],
        )
    delivery = desk.get(f"/v1/deliveries/{delivery_id}", key=ours.key).json()
    assert [attempt["number"] for attempt in delivery["tries"]] == list(range(40, 60))
    assert delivery["earlier_tries"]
    message = desk.get(f"/v1/messages/{delivery['message_id']}", key=ours.key).json()
    [sent] = [one for one in message["deliveries"] if one["id"] == delivery_id]
    assert ([attempt["number"] for attempt in sent["tries"]], sent["earlier_tries"]) == ([57, 58, 59], True)

    seen, before = [], None
    while True:
        query = {} if before is None else {"before": before}
        page = desk.get(f"/v1/deliveries/{delivery_id}/attempts", key=ours.key, limit=100, **query).json()
        assert len(page["data"]) < 40, "a page ends where it is large"
        seen += [attempt["number"] for attempt in page["data"]]
        before = page["next"]
        if before is None:
            break
    assert seen == list(range(59, 0, -1))


def test_a_delivery_is_shown_with_every_attempt(desk: Desk, world: World) -> None:
    ours = world.ours
    delivery = desk.get(f"/v1/deliveries/{ours.ids['delivery_id']}", key=ours.key).json()
    [attempt] = delivery["tries"]
    assert (attempt["status_code"], attempt["outcome"], attempt["duration_ms"]) == (500, "5xx", 12)
    assert attempt["response_headers"] == [{"name": "Server", "value": "old"}]
    assert attempt["response"] == {"encoding": "base64", "content": "/yBvaA=="}
    assert not delivery["earlier_tries"]
    with desk.env.database.begin() as tx:
        work.finish(tx, deliveries, [delivery["id"]], "expired", NOW)
    [expired] = desk.get("/v1/deliveries", key=ours.key, state="expired").json()["data"]
    assert expired["id"] == delivery["id"]
    assert desk.get("/v1/deliveries", key=ours.key, state="canceled").json()["data"] == []


def test_whatever_is_to_be_done_is_rung_for(database: Database, valkey: ValkeyServer, tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, clock, queue_url=valkey.url)
    env.broker.client.flushall()
    ours = settle(env, "Ours")
    path = f"/v1/endpoints/{ours.ids['endpoint_id']}"
    with serving(env) as desk:
        made(desk.post(f"{path}/test", key=ours.key))
        hold(desk, ours, ours.ids["endpoint_id"], 1)
        clock.move(seconds=1)
        assert desk.post(f"{path}/enable", {"replay_held": True}, key=ours.key).json()["replay_id"]
    env.bell.close()
    assert (env.broker.waiting("deliveries"), env.broker.waiting("replays")) == (1, 1)
    env.close()
