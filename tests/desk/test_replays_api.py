"""Replays at the desk: asked for, followed, canceled, and never another merchant's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk.world import NOW, OPERATOR, Belongings, Desk, World, made, new_env, refused, serving, settle

from billhook.store import work
from billhook.store.database import Database
from billhook.store.endpoints import set_disabled
from billhook.store.replays import advance, get_replay, replays
from billhook.store.schema import id_at
from billhook_testing.servers import ValkeyServer

DAY = timedelta(days=1)
REPLAY = {"kind": "replay"}


def ids(desk: Desk, whose: Belongings) -> list[str]:
    return [job["id"] for job in desk.get("/v1/replays", key=whose.key).json()["data"]]


def start(desk: Desk, whose: Belongings, **asked: Any) -> Any:
    return made(desk.post("/v1/replays", {**REPLAY, **asked}, key=whose.key))


def test_a_job_says_what_it_will_do(desk: Desk, world: World) -> None:
    endpoint = world.ours.ids["endpoint_id"]
    job = start(desk, world.ours, endpoint_id=endpoint, event_types=["invoice.*", "invoice.*"], states=["dead"])
    assert job["id"].startswith("rpl_")
    assert job | {"id": ""} == {
        "id": "",
        "merchant_id": world.ours.merchant_id,
        "kind": "replay",
        "state": "running",
        "progress": 0.0,
        "matched": 0,
        "note": None,
        "endpoint_id": endpoint,
        "source_id": None,
        "event_types": ["invoice.*"],
        "states": ["dead"],
        "since": "2025-12-06T09:00:00Z",
        "until": "2026-01-05T09:00:00Z",
        "created_by": world.ours.ids["own_key_id"],
        "created_at": "2026-01-05T09:00:00Z",
        "finished_at": None,
    }
    assert desk.get(f"/v1/replays/{job['id']}", key=world.ours.key).json() == job


def test_its_progress_is_seen(desk: Desk, world: World) -> None:
    job = start(desk, world.ours, since=(NOW - 4 * DAY).isoformat())
    with desk.env.database.begin() as tx:
        advance(tx, job["id"], id_at("dlv", NOW - DAY), 12)
        work.defer_claimed(tx, replays, [(job["id"], NOW, "waits for room")])
    seen = desk.get(f"/v1/replays/{job['id']}", key=world.ours.key).json()
    assert (seen["progress"], seen["matched"], seen["note"]) == (0.75, 12, "waits for room")
    with desk.env.database.begin() as tx:
        work.finish(tx, replays, [job["id"]], "done", NOW)
    seen = desk.get(f"/v1/replays/{job['id']}", key=world.ours.key).json()
    assert (seen["state"], seen["progress"], seen["note"]) == ("done", 1.0, None)


def test_what_cannot_work_is_refused_with_what_to_do(desk: Desk, world: World) -> None:
    key, endpoint = world.ours.key, world.ours.ids["endpoint_id"]
    before = ids(desk, world.ours)

    def ask(**asked: Any) -> Any:
        return desk.post("/v1/replays", {**REPLAY, **asked}, key=key)

    refused(ask(since=NOW.isoformat(), until=(NOW - DAY).isoformat()), 422, "range_empty", "since", "until")
    refused(ask(since=(NOW + DAY).isoformat()), 422, "range_empty", "future")
    refused(ask(since="2026-01-01T00:00:00"), 422, "invalid", "since")
    refused(ask(kind="backfill"), 422, "endpoint_missing")
    refused(ask(kind="backfill", endpoint_id=endpoint, states=["dead"]), 422, "states_given")
    refused(ask(kind="again"), 422, "invalid", "kind")
    refused(ask(states=["due"]), 422, "invalid", "states")
    refused(ask(states=[]), 422, "invalid", "states")
    refused(ask(event_types=["invoice.piad"]), 422, "event_type_unknown", "invoice.piad")
    refused(ask(endpoint_id=f"ep_{'0' * 32}"), 404, "not_found", "endpoint")
    refused(ask(colour="red"), 422, "invalid", "colour")
    with desk.env.database.begin() as tx:
        set_disabled(tx, endpoint, NOW, "gone")
    refused(ask(endpoint_id=endpoint), 422, "endpoint_disabled", "enable it first")
    refused(ask(kind="backfill", endpoint_id=endpoint), 422, "endpoint_disabled")
    assert ids(desk, world.ours) == before


def test_times_may_lie_anywhere(desk: Desk, world: World) -> None:
    far = start(desk, world.ours, since="0001-01-01T00:00:00+14:00", until="9999-12-31T23:59:59-12:00")
    assert (far["since"], far["until"]) == ("1970-01-01T00:00:00Z", "2026-01-05T09:00:00Z")
    zoned = start(desk, world.ours, since="2026-01-04T10:00:00+01:00")
    assert zoned["since"] == "2026-01-04T09:00:00Z"


def test_a_job_is_canceled_once(desk: Desk, world: World) -> None:
    job = start(desk, world.ours)
    path = f"/v1/replays/{job['id']}/cancel"
    canceled = desk.post(path, key=world.ours.key).json()
    assert (canceled["state"], canceled["finished_at"]) == ("canceled", "2026-01-05T09:00:00Z")
    refused(desk.post(path, key=world.ours.key), 409, "already_over", "canceled")


def test_jobs_come_page_by_page_the_newest_first(desk: Desk, world: World) -> None:
    jobs = [start(desk, world.ours)["id"] for _ in range(3)]
    first = desk.get("/v1/replays", key=world.ours.key, limit=2).json()
    rest = desk.get("/v1/replays", key=world.ours.key, limit=2, before=first["next"]).json()
    assert [job["id"] for job in first["data"] + rest["data"]][:3] == jobs[::-1]
    assert rest["next"] is None


def test_no_merchant_reaches_the_jobs_or_endpoints_of_another(desk: Desk, world: World) -> None:
    job = start(desk, world.theirs)
    ours, before = world.ours.key, ids(desk, world.ours)
    for answer in (
        desk.get(f"/v1/replays/{job['id']}", key=ours),
        desk.post(f"/v1/replays/{job['id']}/cancel", key=ours),
        desk.get("/v1/replays", key=ours, merchant_id=world.theirs.merchant_id),
        desk.post("/v1/replays", REPLAY, key=ours, merchant_id=world.theirs.merchant_id),
        desk.post("/v1/replays", {**REPLAY, "endpoint_id": world.theirs.ids["endpoint_id"]}, key=ours),
        # The operator names an endpoint that is not the merchant's.
        desk.post(
            "/v1/replays",
            {**REPLAY, "endpoint_id": world.theirs.ids["endpoint_id"]},
            merchant_id=world.ours.merchant_id,
        ),
    ):
        refused(answer, 404, "not_found")
    assert ids(desk, world.ours) == before
    assert job["id"] not in before
    assert desk.get(f"/v1/replays/{job['id']}").json()["state"] == "running"


def test_the_operator_says_for_whom(desk: Desk, world: World) -> None:
    refused(desk.post("/v1/replays", REPLAY), 422, "merchant_missing")
    refused(desk.post("/v1/replays", REPLAY, merchant_id=f"mrc_{'0' * 32}"), 404, "not_found")
    job = made(desk.post("/v1/replays", REPLAY, key=OPERATOR, merchant_id=world.ours.merchant_id))
    assert (job["merchant_id"], job["created_by"]) == (world.ours.merchant_id, "operator")
    start(desk, world.theirs)
    assert {row["merchant_id"] for row in desk.get("/v1/replays").json()["data"]} == {
        world.ours.merchant_id,
        world.theirs.merchant_id,
    }


@pytest.fixture
def rung(valkey: ValkeyServer, database: Database, tmp_path: Path) -> Any:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, queue_url=valkey.url)
    env.broker.client.flushall()
    yield env
    env.close()


def test_the_relay_is_rung_for_a_job_that_is_in_the_ledger(rung: Any) -> None:
    ours = settle(rung, "Ours")
    with serving(rung) as desk:
        job = start(desk, ours)
    rung.bell.close()  # it sends what it holds first
    assert rung.broker.waiting("replays") == 1
    with rung.database.read() as tx:
        assert get_replay(tx, job["id"]) is not None


def test_what_came_in_is_replayed_by_a_job_of_its_own_kind(desk: Desk, world: World) -> None:
    ours, key = world.ours, world.ours.key
    asked = {"source_id": ours.ids["source_id"], "states": ["dead", "dead"], "event_types": ["invoice.*"]}
    tried = desk.post("/v1/events/replays/preview", {}, key=key)
    assert tried.status_code == 200
    assert tried.json()["changes_nothing"]
    job = made(desk.post("/v1/events/replays", asked, key=key))
    assert (job["kind"], job["states"], job["source_id"]) == ("events", ["dead"], ours.ids["source_id"])
    assert desk.get(f"/v1/replays/{job['id']}", key=key).json() == job
    assert desk.post(f"/v1/replays/{job['id']}/cancel", key=key).json()["state"] == "canceled"
    assert desk.post("/v1/events/replays", asked, key=world.theirs.key).status_code == 404
    assert desk.post("/v1/events/replays", {"states": ["due"]}, key=key).status_code == 422
    assert desk.get("/v1/events", key=key, source_id=world.theirs.ids["source_id"]).json()["data"] == []
