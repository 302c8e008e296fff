"""What a key may do, until when, and how often."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import requests
from desk.world import OPERATOR, Desk, World, made, new_env, refused, serving
from store.databases import lay_ledger

from billhook.parts import Parts
from billhook.store.database import Database
from billhook.store.merchants import Caller, create_key, create_merchant, list_keys
from billhook_testing.clock import ManualClock
from services.desk.api import SUBJECTS
from services.desk.dependencies import Body
from services.desk.key_use import KeyUse

BUYER = {"currency": "eur", "buyer": {"name": "Ada"}}
NEWS = {"event_type": "order.shipped", "data": {"order": 17}}


def publish(desk: Desk, key: str, idempotency_key: str = "a") -> requests.Response:
    return desk.ask("POST", "/v1/messages", key, {"Idempotency-Key": idempotency_key}, json=NEWS)


def test_a_key_does_what_its_scope_says_and_no_more(desk: Desk, world: World) -> None:
    keys = f"/v1/merchants/{world.ours.merchant_id}/keys"
    read, publishes = (made(desk.post(keys, {"name": scope, "scope": scope}))["key"] for scope in ("read", "publish"))
    new = {"url": "https://example.com/x"}
    assert desk.get("/v1/endpoints", read).status_code == 200
    refused(desk.post("/v1/endpoints", new, read), 403, "key_scope", "look, and change nothing")
    refused(publish(desk, read), 403, "key_scope")
    assert publish(desk, publishes).status_code == 201
    assert publish(desk, publishes).status_code == 200
    refused(desk.get("/v1/endpoints", publishes), 403, "key_scope", "publish events, and nothing else")
    refused(desk.post("/v1/endpoints", new, publishes), 403, "key_scope")
    shown = {key["name"]: key["scope"] for key in desk.get(keys).json()}
    assert (shown["read"], shown["publish"]) == ("read", "publish")


def test_a_key_ends_when_its_time_is_over_wherever_it_is_remembered(
    desk: Desk, world: World, clock: ManualClock
) -> None:
    keys = f"/v1/merchants/{world.ours.merchant_id}/keys"
    new = made(desk.post(keys, {"name": "for a day", "expires_in_days": 1}))
    assert publish(desk, new["key"]).status_code == 201
    clock.move(hours=23)
    assert publish(desk, new["key"]).status_code == 200
    assert desk.get("/v1/endpoints", new["key"]).status_code == 200
    clock.move(hours=1)
    refused(publish(desk, new["key"]), 401, "wrong_key", "past its time")
    refused(desk.get("/v1/endpoints", new["key"]), 401, "wrong_key")


def test_many_wrong_keys_are_not_looked_at_and_those_that_work_are(desk: Desk, world: World) -> None:
    assert desk.get("/v1/endpoints", world.ours.key).status_code == 200
    answers = [desk.get("/v1/endpoints", f"bh_guess_{number}") for number in range(60)]
    assert {answer.status_code for answer in answers} == {401, 429}
    refused(next(answer for answer in answers if answer.status_code == 429), 429, "too_many_tries")
    assert {desk.get("/v1/endpoints", "bh_guess_0").status_code for _ in range(3)} == {401}, (
        "one and the same is no try"
    )
    assert desk.get("/v1/endpoints", world.ours.key).status_code == 200


def test_behind_a_trusted_proxy_each_has_tries_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("authentication", "console.sign_in"):
        monkeypatch.setattr(f"services.desk.{where}.TRIES_PER_SECOND", 0.001)
    lay_ledger(tmp_path / "billhook.db")
    url = f"sqlite:///{tmp_path / 'billhook.db'}"
    said = ("198.51.100.1", "203.0.113.9, 198.51.100.1", "198.51.100.2", "2001:db8::1", "2001:db8::2")
    for trusted, refused_ones in {"": [1, 2, 3, 4], "127.0.0.0/8": [1, 4], "192.0.2.1": [1, 2, 3, 4]}.items():
        with serving(new_env(url, tmp_path, trusted_proxies=trusted)) as found:
            for path, data, wrong in (("/v1/messages", {}, 401), ("/sign-in/key", {"key": "bh_wrong"}, 403)):
                codes = [
                    found.ask("POST", path, f"bh_guess_{number}", {"X-Forwarded-For": one}, data=data).status_code
                    for number, one in enumerate(said)
                ]
                expected = [429 if number in refused_ones else wrong for number in range(len(said))]
                assert codes == expected, (trusted, path)


def test_a_merchant_asks_so_often_a_second_and_the_operator_as_often_as_it_likes(
    database: Database, tmp_path: Path
) -> None:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, requests_per_second=0.01)
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "a", env.clock())
        _, key = create_key(tx, merchant.id, "a", env.clock())
    with serving(env) as desk:
        assert desk.get("/v1/endpoints", key).status_code == 200
        answer = desk.get("/v1/endpoints", key)
        refused(answer, 429, "too_many_requests", "0.01 times a second")
        assert answer.headers["Retry-After"]
        refused(publish(desk, key), 429, "too_many_requests")
        assert {desk.get("/v1/endpoints", OPERATOR).status_code for _ in range(3)} == {200}
    env.close()


def test_when_a_key_was_last_used_is_written_down(database: Database, tmp_path: Path, clock: ManualClock) -> None:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, clock)
    with env.database.begin() as tx:
        key_id, _ = create_key(tx, None, "operator", clock())
    use = KeyUse(env, Parts())
    use.note(Caller(key_id, None))
    use.write()
    clock.move(minutes=-5)
    use.note(Caller(key_id, None))
    use.write()
    use.stop()
    with env.database.read() as tx:
        [key] = list_keys(tx)
    assert key.last_used_at == clock() + timedelta(minutes=5)
    env.close()


def test_what_is_sent_is_read_as_it_is_written(desk: Desk, world: World) -> None:
    case, merchant = "dun_" + "0" * 32, world.ours.merchant_id
    for path, body in (
        (f"/v1/dunning/cases/{case}/grace", {"days": True}),
        (f"/v1/dunning/cases/{case}/grace", {"days": "7"}),
        ("/v1/dead-letters/replay", {"queue": "inbox", "limit": 1.0}),
        (f"/v1/merchants/{merchant}/keys", {"name": 7}),
        ("/v1/endpoints", {"url": "https://example.com", "max_in_flight": True}),
        ("/v1/endpoints", {"url": "https://example.com", "timeout_seconds": "3"}),
        ("/v1/replays", {"kind": "replay", "since": 1767225600}),
        ("/v1/invoices", {**BUYER, "lines": [{"description": "x", "quantity": True, "unit_amount": "1"}]}),
        ("/v1/invoices", {**BUYER, "lines": [{"description": "x", "unit_amount": "1"}], "finalize": 1}),
    ):
        answer = desk.post(path, body, merchant_id=merchant)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid"), (path, body, answer.text)


def test_no_body_is_read_in_another_way() -> None:
    bodies = {
        body
        for subject in SUBJECTS
        for route in subject.router.routes
        if (field := getattr(route, "body_field", None)) is not None
        for body in (get_args(field.field_info.annotation) or (field.field_info.annotation,))
        if body is not type(None)
    }
    assert len(bodies) > 10
    assert not [body for body in bodies if not issubclass(body, Body)]
