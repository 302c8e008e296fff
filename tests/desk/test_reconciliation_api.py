"""Reconciliation at the desk: runs that are asked for, findings that are decided, and never another merchant's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from desk.world import NOW, Belongings, Desk, World, made, refused

from billhook.store import reconciliation
from billhook.store.reconciliation import Finding
from billhook.store.schema import new_id


def source_of(desk: Desk, whose: Belongings, **options: Any) -> str:
    asked = {"provider": "stripe", "name": "s", "secret": "whsec_s", "api_key": "rk_1", **options}
    return str(made(desk.post("/v1/sources", asked, key=whose.key))["id"])


def plant(desk: Desk, whose: Belongings, source_id: str, **fields: Any) -> str:
    finding = Finding(
        id=new_id("fnd"),
        merchant_id=whose.merchant_id,
        source_id=source_id,
        kind="invoice",
        external_id="in_1",
        finding_class="amount_mismatch",
        state="confirmed",
        differences={"total": [1, 2]},
        seen={},
        local_version="",
        amount=2,
        currency="eur",
        run_id=new_id("rec"),
        suspected_by=None,
        first_seen_at=NOW,
        last_seen_at=NOW,
        decided_by=None,
        decided_at=None,
    )
    with desk.env.database.begin() as tx:
        reconciliation.add_finding(tx, finding)
    return finding.id


def test_a_run_is_started_and_seen(desk: Desk, world: World) -> None:
    source_id = source_of(desk, world.ours)
    run = made(desk.post("/v1/reconciliation/runs", {"source_id": source_id, "lists": ["events"]}, key=world.ours.key))
    assert (run["state"], run["at"], run["repairs"], run["compared"]) == ("running", "events", True, 0)
    assert run["until"] == "2026-01-05T08:58:00Z"
    assert desk.get(f"/v1/reconciliation/runs/{run['id']}", key=world.ours.key).json() == run
    listed = desk.get("/v1/reconciliation/runs", key=world.ours.key).json()["data"]
    assert [one["id"] for one in listed] == [run["id"]]
    assert desk.get("/v1/reconciliation/runs", key=world.theirs.key).json()["data"] == []
    assert desk.get(f"/v1/reconciliation/runs/{run['id']}", key=world.theirs.key).status_code == 404


def test_what_cannot_be_compared_is_refused(desk: Desk, world: World) -> None:
    def post(key: str = world.ours.key, **asked: Any) -> Any:
        return desk.post("/v1/reconciliation/runs", asked, key=key)

    source_id = source_of(desk, world.ours)
    refused(post(source_id=source_id, lists=["galaxy"]), 422, "list_unknown")
    refused(post(source_id=source_id, since=NOW.isoformat()), 422, "range_empty")
    refused(post(source_id=source_id, key=world.theirs.key), 404, "not_found")
    silent = source_of(desk, world.ours, provider="stripe", api_key=None)
    refused(post(source_id=silent, lists=["customer"]), 422, "source_cannot_be_asked")
    assert made(post(source_id=silent))["at"] == "inbox"  # what billhook made of it can be compared
    refused(post(source_id="own", lists=["customer"]), 422, "list_unknown")
    assert made(post(source_id="own"))["source_id"] == "own"
    whose = {"source_id": "own", "merchant_id": world.theirs.merchant_id}
    refused(post(**whose), 404, "not_found")
    refused(desk.post("/v1/reconciliation/runs", {"source_id": "own"}), 422, "merchant_missing")
    assert made(desk.post("/v1/reconciliation/runs", whose))["merchant_id"] == world.theirs.merchant_id


def test_findings_are_exported_for_spreadsheets_and_programs(desk: Desk, world: World) -> None:
    finding = plant(desk, world.ours, source_of(desk, world.ours))
    file = desk.get("/v1/reconciliation/findings.csv", key=world.ours.key)
    assert file.headers["Content-Type"].startswith("text/csv")
    [head, line] = file.text.splitlines()
    assert head.startswith("id,merchant_id,source_id,kind,external_id,finding_class,state,")
    assert line.startswith(f'"{finding}",')
    assert '""total"":[1,2]' in line
    [row] = desk.get("/v1/reconciliation/findings.jsonl", key=world.ours.key).text.splitlines()
    assert json.loads(row)["differences"] == {"total": [1, 2]}
    for whose in (world.theirs.key, world.ours.key):
        state = "confirmed" if whose == world.theirs.key else "repaired"
        file = desk.get("/v1/reconciliation/findings.csv", key=whose, state=[state])
        assert len(file.text.splitlines()) == 1


def test_a_finding_is_accepted_once_by_its_owner(desk: Desk, world: World) -> None:
    finding = plant(desk, world.ours, source_of(desk, world.ours))
    path = f"/v1/reconciliation/findings/{finding}"
    [shown] = desk.get("/v1/reconciliation/findings", key=world.ours.key).json()["data"]
    assert (shown["id"], shown["differences"], shown["amount"]) == (finding, {"total": [1, 2]}, 2)
    assert "seen" not in shown

    assert desk.get(path, key=world.theirs.key).status_code == 404
    assert desk.post(f"{path}/accept", key=world.theirs.key).status_code == 404
    accepted = desk.post(f"{path}/accept", key=world.ours.key).json()
    assert (accepted["state"], accepted["decided_at"]) == ("accepted", "2026-01-05T09:00:00Z")
    assert accepted["decided_by"]
    refused(desk.post(f"{path}/accept", key=world.ours.key), 409, "finding_state")
    refused(desk.post(f"{path}/repair", key=world.ours.key), 409, "finding_state")
    assert desk.get("/v1/reconciliation/findings", key=world.ours.key).json()["data"] == []
    found = desk.get("/v1/reconciliation/findings", key=world.ours.key, state="accepted").json()["data"]
    assert [one["id"] for one in found] == [finding]


@pytest.mark.parametrize("fault", ["away", "gone"])
def test_a_repair_that_cannot_be_made_is_refused_in_words(desk: Desk, world: World, fault: str) -> None:
    source_id = source_of(desk, world.ours, **({} if fault == "away" else {"api_key": None}))
    if fault == "away":
        with desk.env.database.begin() as tx:
            key = desk.env.vault.seal("rk_1")
            from billhook.store.sources import set_api_key

            set_api_key(tx, source_id, key, "http://127.0.0.1:9")
    finding = plant(desk, world.ours, source_id)
    answer = desk.post(f"/v1/reconciliation/findings/{finding}/repair", key=world.ours.key)
    refused(answer, 422, "provider_unavailable" if fault == "away" else "not_repairable")
    [still] = desk.get("/v1/reconciliation/findings", key=world.ours.key).json()["data"]
    assert still["state"] == "confirmed"
