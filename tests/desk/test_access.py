"""Who may see and do what, over every route the document names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from desk.world import (
    NOW,
    OPERATOR,
    PIXEL,
    TERMS,
    Belongings,
    Desk,
    World,
    add_letter,
    add_reconciliation,
    add_replay,
    ids_for,
)

from billhook.rules.document import TEMPLATE
from billhook.store.merchants import create_key
from billhook.store.operator_actions import list_actions
from billhook.store.schema import new_id
from billhook_testing.fake_stripe import FakeStripe
from services.desk.refusals import refusal_of

BODIES = {
    "/v1/merchants": {"name": "New"},
    "/v1/merchants/{merchant_id}/keys": {"name": "new"},
    "/v1/merchants/{merchant_id}/views": {},
    "/v1/sources": {"provider": "standard", "name": "new"},
    "/v1/sources/{source_id}/rotate": {},
    "/v1/sources/{source_id}/api-key": {"api_key": "sk_1"},
    "/v1/sources/{source_id}/mode": {"livemode": False},
    "/v1/endpoints": {"url": "https://example.com/x"},
    "/v1/messages": {"event_type": "order.shipped", "data": {"id": "o_1"}},
    "/v1/replays": {"kind": "replay"},
    "/v1/events/replays": {},
    "/v1/events/replays/preview": {},
    "/v1/dead-letters/replay": {"queue": "inbox"},
    "/v1/invoices": TERMS,
    "/v1/invoices/preview": TERMS,
    "/v1/invoices/{invoice_id}": TERMS,
    "/v1/invoices/{invoice_id}/credit-notes": {},
    "/v1/invoices/{invoice_id}/links": {},
    "/v1/invoices/{invoice_id}/send": {"to": ["buyer@example.com"]},
    "/v1/invoices/{invoice_id}/documents/{kind}": {"template": TEMPLATE},
    "/v1/credit-notes/{credit_note_id}/documents/credit_note": {"template": TEMPLATE},
    "/v1/merchants/{merchant_id}/seller": {"name": "New"},
    "/v1/merchants/{merchant_id}/invoicing": {},
    "/v1/merchants/{merchant_id}/templates": {"name": "new", "source": "{{ document.name }}"},
    "/v1/merchants/{merchant_id}/logo": PIXEL,
    "/v1/merchants/{merchant_id}/dunning": {},
    "/v1/dunning/cases/{case_id}/grace": {"days": 1},
    "/v1/dunning/cases/{case_id}/plan": {},
    "/v1/dunning/cases/{case_id}/stop": {"reason": "they called"},
}

CHANGES = {
    "/v1/merchants/{merchant_id}": {"contact_email": "ops@example.com"},
    "/v1/endpoints/{endpoint_id}": {"description": "theirs"},
}

HEADERS = {"Idempotency-Key": "key-1"}
"""Whoever has no need of them passes over them."""

OWN = "/v1/merchants/{merchant_id}"
OWN_PARTS = tuple(
    f"{OWN}/{part}" for part in ("seller", "logo", "invoicing", "templates", "dunning", "limits", "views")
)
"""What a merchant may see and set of itself; all else about merchants is the operator's."""

ASKS_FOR_WHOM = (
    *("/v1/sources", "/v1/endpoints", "/v1/messages", "/v1/replays", "/v1/invoices"),
    *("/v1/events/replays", "/v1/events/replays/preview"),
)
"""Where the operator makes something new, which belongs to somebody."""


RUNS = "/v1/reconciliation/runs"
"""What is made there is about a source that the body names, and so belongs to whom that does."""


@pytest.fixture
def world(desk: Desk, world: World) -> Iterator[World]:
    with FakeStripe() as fake:
        for whose in (world.ours, world.theirs):
            add_replay(desk.env, whose)
            add_reconciliation(desk.env, whose, fake)
        yield world


def operators_only(path: str) -> bool:
    return path.startswith("/v1/merchants") and path != OWN and not path.startswith(OWN_PARTS)


def done(path: str) -> tuple[int, ...]:
    """What a route answers to whoever may use it. The one letter is resolved by whichever route comes first."""
    return (200, 409) if path.startswith("/v1/dead-letters/{") else (200, 201, 202, 204)


def routes(desk: Desk) -> Iterator[tuple[str, str]]:
    """Every (method, path), those that change the least first."""
    paths = desk.get("/openapi.json").json()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert len(found) > 40
    yield from sorted(found, key=lambda route: (("GET", "PUT", "PATCH", "POST", "DELETE").index(route[0]), route[1]))


def ask(desk: Desk, method: str, path: str, whose: Belongings, key: str | None, **query: str | None) -> tuple[int, str]:
    ids = {**ids_for(desk.env, f"{method} {path}", whose), "kind": "invoice"}
    filled = re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], ""), path)
    if path == "/v1/book/{kind}/{object_id}":
        filled = f"/v1/book/customer/{whose.ids['object_id']}"
    body = CHANGES[path] if method == "PATCH" else BODIES.get(path) if method in ("POST", "PUT") else None
    if (method, path) == ("POST", RUNS):
        body = {"source_id": whose.ids["asked_source_id"]}
    sent = {"data": body} if body is PIXEL else {"json": body}
    answer = desk.ask(method, filled, key, HEADERS, params=query, **sent)
    return answer.status_code, answer.text


def test_without_a_key_that_works_nothing_is_said(desk: Desk, world: World) -> None:
    operator_key = desk.post(f"/v1/merchants/{world.ours.merchant_id}/keys", {"name": "gone"}).json()
    revoked = desk.ask("DELETE", f"/v1/merchants/{world.ours.merchant_id}/keys/{operator_key['id']}")
    assert revoked.status_code == 204
    for method, path in routes(desk):
        for key in (None, "bh_nobody", operator_key["key"], "x" * 10_000):
            assert ask(desk, method, path, world.ours, key)[0] == 401, (method, path)
    answer = desk.get("/v1/events", key=None)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "missing_key"
    assert desk.get("/v1/nothing-here", key=None).status_code == 401
    assert desk.ask("GET", "/v1/events", None, auth=("bh_user", "word")).status_code == 401


def test_a_merchant_sees_nothing_of_another_one(desk: Desk, world: World) -> None:
    shared = {"customer"}
    foreign = set(world.theirs.ids.values()) - shared
    for method, path in routes(desk):
        status, text = ask(desk, method, path, world.theirs, world.ours.key)
        if operators_only(path):
            assert status == 403, (method, path)
        elif "{" in path.replace("{kind}", "") or (method, path) == ("POST", RUNS):
            assert status == 404, (method, path, text)
        else:
            assert status in (200, 201), (method, path, text)
        for known in foreign:
            assert known not in text, (method, path)
    # Nothing of theirs was changed on the way either.
    theirs = desk.get("/v1/dead-letters", key=world.theirs.key).json()["data"]
    assert [letter["id"] for letter in theirs] == [world.theirs.ids["dead_letter_id"]]
    assert desk.get("/v1/dead-letters", key=world.ours.key).json()["data"] == []
    states = ["suspected", "confirmed", "reopened", "repaired", "accepted"]
    findings = desk.get("/v1/reconciliation/findings", key=world.theirs.key, state=states).json()["data"]
    assert world.theirs.ids["finding_id"] in {finding["id"] for finding in findings}
    assert {(finding["state"], finding["decided_by"]) for finding in findings} == {("confirmed", None)}
    for whose in (world.ours, world.theirs):
        assert [run["id"] for run in desk.get(RUNS, key=whose.key).json()["data"]] == [whose.ids["run_id"]]


def test_a_merchant_can_do_everything_with_their_own(desk: Desk, world: World) -> None:
    for method, path in routes(desk):
        if operators_only(path):
            continue
        status, text = ask(desk, method, path, world.ours, world.ours.key)
        assert status in done(path), (method, path, text)


def test_the_operator_can_do_everything_and_says_for_whom(desk: Desk, world: World) -> None:
    ours, theirs = world.ours, world.theirs
    for method, path in routes(desk):
        if path in ASKS_FOR_WHOM and method == "POST":
            assert ask(desk, method, path, ours, OPERATOR)[0] == 422
        else:
            assert ask(desk, method, path, ours, OPERATOR)[0] in done(path), (method, path)
    made = desk.post("/v1/endpoints", {"url": "https://example.com"}, merchant_id=ours.merchant_id)
    assert made.json()["merchant_id"] == ours.merchant_id
    for path in (
        "/v1/events",
        "/v1/invoices",
        "/v1/messages",
        "/v1/deliveries",
        "/v1/sources",
        "/v1/book/customer",
        RUNS,
        "/v1/reconciliation/findings",
    ):
        everyones = {row["merchant_id"] for row in desk.get(path).json()["data"]}
        assert everyones == {ours.merchant_id, theirs.merchant_id}, path
        one = {row["merchant_id"] for row in desk.get(path, merchant_id=theirs.merchant_id).json()["data"]}
        assert one == {theirs.merchant_id}, path


LEAVES_NO_ENTRY = {
    ("POST", "/v1/messages"): "what is published is a row of its own, with its key; and it is published by the hundred",
    ("POST", "/v1/invoices/preview"): "it changes nothing",
    ("POST", "/v1/events/replays/preview"): "it changes nothing",
}


def test_whatever_an_operators_key_changes_is_noted_under_its_name(desk: Desk, world: World) -> None:
    ours = world.ours
    with desk.env.database.begin() as tx:
        key_id, key = create_key(tx, None, "night shift", NOW)
    for method, path in routes(desk):
        if path.startswith("/v1/dead-letters"):
            ours.ids["dead_letter_id"] = add_letter(desk.env, ours.merchant_id, ours.ids["source_id"], new_id("e"))
        before = noted(desk)
        whose = ours.merchant_id if path in ASKS_FOR_WHOM else None
        status, text = ask(desk, method, path, ours, key, merchant_id=whose if method == "POST" else None)
        assert status in (200, 201, 202, 204), (method, path, text)
        new = noted(desk)[len(before) :]
        if method == "GET" or (method, path) in LEAVES_NO_ENTRY:
            assert new == [], (method, path)
            continue
        assert len(new) == 1, (method, path)
        entry = new[0]
        assert (entry["by"], entry["detail"]["key_id"]) == ("key night shift", key_id), (method, path)
        if path not in ("/v1/merchants", "/v1/dead-letters/replay") and not path.endswith("/send"):
            assert entry["merchant_id"] == ours.merchant_id, (method, path, entry["subject"])
    actions = {row["action"] for row in noted(desk)}
    assert actions >= {"endpoint.rotate", "source.set_api_key", "key.add", "dead_letter.discard", "dunning_case.stop"}
    (stopped,) = (row for row in noted(desk) if row["action"] == "dunning_case.stop")
    assert stopped["detail"]["reason"] == "they called"
    assert stopped["subject"].startswith("case_")
    # What a merchant does with their own is theirs, and what is refused did not happen.
    before = noted(desk)
    ask(desk, "PUT", "/v1/merchants/{merchant_id}/seller", ours, ours.key)
    assert desk.post(f"/v1/endpoints/ep_{'0' * 32}/rotate", {}, key=key).status_code == 404
    assert noted(desk) == before


def noted(desk: Desk) -> list[Any]:
    """The audit log, the oldest first."""
    with desk.env.database.read() as tx:
        return list_actions(tx, limit=1000)[::-1]


def test_an_operators_key_in_the_ledger_counts_like_the_one_in_the_settings(desk: Desk, world: World) -> None:
    with desk.env.database.begin() as tx:
        _, key = create_key(tx, None, "second operator", NOW)
    assert len(desk.get("/v1/merchants", key=key).json()["data"]) == 2


def test_a_merchant_cannot_act_for_another_one_by_naming_it(desk: Desk, world: World) -> None:
    theirs, key = world.theirs.merchant_id, world.ours.key
    for path in (
        "/v1/events",
        "/v1/sources",
        "/v1/invoices",
        "/v1/dead-letters",
        RUNS,
        "/v1/reconciliation/findings",
    ):
        assert desk.get(path, key=key, merchant_id=theirs).status_code == 404
        assert desk.get(path, key=key, merchant_id=world.ours.merchant_id).status_code == 200
    assert desk.post("/v1/endpoints", {"url": "https://a.example"}, key=key, merchant_id=theirs).status_code == 404
    bulk = desk.post("/v1/dead-letters/replay", {"queue": "inbox", "merchant_id": theirs}, key=key)
    assert bulk.status_code == 404
    assert desk.get(f"/v1/dead-letters/{world.theirs.ids['dead_letter_id']}").json()["resolved_at"] is None


HOSTILE_IDS = [
    "..%2f..%2fetc",
    "%00",
    "evt_%00",
    "a" * 5000,
    "' OR 1=1 --",
    "evt_" + "G" * 32,
    "evt_" + "0" * 32,
    "%ff%fe",
    "\u202e",
]


def test_ids_that_cannot_be_are_not_found(desk: Desk) -> None:
    paths = ("events", "sources", "endpoints", "invoices", "messages", "dead-letters", "merchants", "book/invoice")
    for path, hostile in product(paths, HOSTILE_IDS):
        answer = desk.get(f"/v1/{path}/{hostile}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


def test_the_probes_need_no_key(desk: Desk) -> None:
    assert desk.get("/livez", key=None).json() == {"status": "ok"}
    assert desk.get("/readyz", key=None).json() == {"status": "ok"}
    assert "process_resident_memory_bytes" in desk.get("/metrics", key=None).text


METHODS = [
    ("/v1/merchants", "GET, POST"),
    ("/v1/messages", "GET, POST"),
    ("/v1/invoices/oin_1", "DELETE, GET, PUT"),
    ("/livez", "GET, HEAD"),
]


def test_a_method_that_is_none_is_told_which_there_are(desk: Desk) -> None:
    for path, methods in METHODS:
        answer = desk.ask("PATCH", path, OPERATOR)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    if not desk.env.database.sqlite:
        return  # the routes are the same
    served: dict[str, set[str]] = {}
    for method, path in routes(desk):
        served.setdefault(re.sub(r"\{\w+\}", "x", path), set()).add(method)
    for path, known in served.items():
        answer = desk.ask("TRACE", path, OPERATOR)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed"), path
        assert known <= set(answer.headers["allow"].split(", ")), path


def test_a_compressed_body_is_told_that_it_is(desk: Desk) -> None:
    for path in ("/v1/merchants", "/v1/messages"):
        answer = desk.ask("POST", path, OPERATOR, {"Content-Encoding": "gzip"}, data=b"\x1f\x8b")
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "compressed"), path


def test_a_database_that_takes_nothing_is_asked_again_and_not_blamed_on_the_desk() -> None:
    class NoRoom(Exception):
        sqlstate = "53100"

    said = refusal_of(sa.exc.OperationalError("INSERT", {}, NoRoom("no space left")))
    assert (said.status, said.code, str(said)) == (
        503,
        "store_unavailable",
        "The database takes nothing more now. Ask again.",
    )


def test_two_keys_are_none(desk: Desk) -> None:
    """In front of all routes, and at the two that answer before them."""
    for method, path in (("POST", "/v1/merchants"), ("POST", "/v1/messages"), ("GET", "/v1/customers/cus_1/standing")):
        connection = HTTPConnection(desk.address.removeprefix("http://"))
        connection.putrequest(method, path)
        for key in (OPERATOR, "bh_other"):
            connection.putheader("Authorization", f"Bearer {key}")
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (400, "two_keys")
        connection.close()
