"""What people do at the desk, from the first merchant to a repaired dead letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from desk.world import (
    NOW,
    PDF,
    Desk,
    World,
    add_letter,
    add_to_book,
    made,
    new_env,
    new_invoice,
    refused,
    serving,
    settle,
)

from billhook.rules.signing import signing_key
from billhook.store import work
from billhook.store.database import Database
from billhook.store.documents import NewDocument, add_documents, documents, list_documents
from billhook.store.inbox import Arrival, accept, get_event
from billhook.store.schema import new_id
from billhook.store.sources import get_source
from billhook_testing.servers import ValkeyServer


def test_a_merchant_is_made_and_given_a_key_that_can_be_taken_away(desk: Desk) -> None:
    merchant = made(desk.post("/v1/merchants", {"name": "Ada & Söhne", "locale": "de-AT"}))
    path = f"/v1/merchants/{merchant['id']}"
    assert desk.get(path).json() == merchant
    key = made(desk.post(f"{path}/keys", {"name": "their shop"}))
    assert key["key"].startswith("bh_")
    assert desk.get("/v1/events", key=key["key"]).json() == {"data": [], "next": None}
    assert key["key"] not in desk.get(f"{path}/keys").text
    assert desk.ask("DELETE", f"{path}/keys/{key['id']}").status_code == 204
    refused(desk.get("/v1/events", key=key["key"]), 401, "wrong_key")
    refused(desk.ask("DELETE", f"{path}/keys/{key['id']}"), 404, "not_found")
    refused(desk.post("/v1/merchants", {"name": "x", "locale": "tlh"}), 422, "locale_unknown", "tlh")


def test_a_merchant_says_whom_to_tell(desk: Desk, world: World) -> None:
    path, key = f"/v1/merchants/{world.ours.merchant_id}", world.ours.key
    assert desk.get(path, key=key).json()["contact_email"] is None
    for address in ("ops@example.com", "Ada Lovelace <ada@example.com>", None):
        changed = desk.ask("PATCH", path, key, json={"contact_email": address}).json()
        assert changed["contact_email"] == address
        assert desk.ask("PATCH", path, json={}).json() == changed, "what is not named stays"
    for odd in ("", "ops", "a@b, c@d", "a@example.com\nBcc: b@example.com", f"{'x' * 310}@example.com"):
        answer = desk.ask("PATCH", path, key, json={"contact_email": odd})
        assert answer.status_code == 422
        assert "contact_email" in answer.json()["error"]["message"]
    refused(desk.ask("PATCH", path, key, json={"name": "Another"}), 422, "invalid", "name")
    made_so = made(desk.post("/v1/merchants", {"name": "Ada", "contact_email": "ada@example.com"}))
    assert made_so["contact_email"] == "ada@example.com"
    refused(desk.post("/v1/merchants", {"name": "Ada", "contact_email": "x"}), 422, "contact_email_invalid")


def test_the_life_of_a_source(desk: Desk, world: World) -> None:
    key = world.ours.key
    source = made(desk.post("/v1/sources", {"provider": "standard", "name": "in-house"}, key=key))
    path = f"/v1/sources/{source['id']}"
    assert source["path"] == f"{path}/events"
    assert len(signing_key(source["secret"])) >= 24
    assert not source["rotating"]
    rotated = desk.post(f"{path}/rotate", {}, key=key).json()
    assert rotated["secret"] != source["secret"]
    assert rotated["rotating"]
    with desk.env.database.read() as tx:
        stored = get_source(tx, source["id"])
    assert stored is not None
    assert [desk.env.vault.open(sealed) for sealed in stored.sealed_secrets] == [rotated["secret"], source["secret"]]
    assert not desk.post(f"{path}/end-rotation", key=key).json()["rotating"]
    with_key = desk.ask("PUT", f"{path}/api-key", key, json={"api_key": "sk_live_1"})
    assert with_key.json()["api_key_set"]
    assert desk.post(f"{path}/disable", key=key).json()["disabled_at"] == "2026-01-05T09:00:00Z"
    assert desk.post(f"{path}/enable", key=key).json()["disabled_at"] is None
    everything = desk.get(path, key=key).text + desk.get("/v1/sources", key=key).text + with_key.text
    for secret in (source["secret"], rotated["secret"], "sk_live_1", "whsec_"):
        assert secret not in everything
    assert not desk.ask("PUT", f"{path}/api-key", key, json={"api_key": None}).json()["api_key_set"]


def test_a_source_that_cannot_work_is_refused_with_what_to_do(desk: Desk, world: World) -> None:
    key = world.ours.key

    def post(**fields: Any) -> requests.Response:
        return desk.post("/v1/sources", {"name": "n", **fields}, key=key)

    refused(post(provider="stripe"), 422, "secret_missing", "stripe")
    refused(post(provider="paypal", secret="x"), 422, "provider_unknown", "standard")
    refused(post(provider="standard", secret="whsec_!!!"), 422, "secret_invalid")
    refused(post(provider="standard", secret="whsec_c2hvcnQ="), 422, "secret_invalid", "24")
    refused(post(provider="standard", name="a\0b"), 422, "invalid", "body.name")
    refused(post(provider="standard", name="x" * 256), 422, "invalid", "body.name")
    refused(post(provider="standard", colour="red"), 422, "invalid", "body.colour")
    refused(post(provider="standard", api_base="http://localhost:1"), 403, "operator_only")
    stripe = made(post(provider="stripe", secret="whsec_of_stripe", api_key="sk_1"))
    assert stripe["secret"] is None
    refused(desk.post(f"/v1/sources/{stripe['id']}/rotate", {}, key=key), 422, "secret_missing")
    based = made(
        desk.post(
            "/v1/sources",
            {"provider": "stripe", "name": "n", "secret": "s", "api_base": "http://localhost:1"},
            merchant_id=world.ours.merchant_id,
        )
    )
    assert based["api_base"] == "http://localhost:1"


def test_lists_come_page_by_page_and_miss_nothing(desk: Desk, world: World) -> None:
    ours = world.ours
    for number in range(7):
        add_letter(desk.env, ours.merchant_id, ours.ids["source_id"], f"more_{number}")
        made(desk.post("/v1/endpoints", {"url": f"https://example.com/{number}"}, key=ours.key))
    for path, cursor, newest_first in (
        ("/v1/events", "before", True),
        ("/v1/dead-letters", "before", True),
        ("/v1/endpoints", "after", False),
    ):
        whole = [row["id"] for row in desk.get(path, key=ours.key).json()["data"]]
        assert whole == sorted(whole, reverse=newest_first)
        assert len(whole) >= 8
        seen: list[str] = []
        page = desk.get(path, key=ours.key, limit=3).json()
        while page["next"]:
            assert len(page["data"]) == 3
            seen += [row["id"] for row in page["data"]]
            page = desk.get(path, key=ours.key, limit=3, **{cursor: page["next"]}).json()
        assert seen + [row["id"] for row in page["data"]] == whole


def test_a_query_that_means_nothing_is_refused(desk: Desk) -> None:
    for query in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"before": "x"}, {"staet": "dead"}, {"state": "odd"}):
        [name] = query
        refused(desk.get("/v1/events", **query), 422, "invalid", name)
    refused(desk.get("/v1/events", type="a\0"), 422, "invalid", "type")


def test_an_event_is_shown_as_it_came_with_what_else_came_under_its_id(desk: Desk, world: World) -> None:
    ours = world.ours
    event_id = ours.ids["event_id"]
    other = Arrival(
        new_id("evt"), ours.merchant_id, ours.ids["source_id"], "", "evt_1", "t", b"{}", b"\xff\x00", b"2" * 32, NOW
    )
    with desk.env.database.begin() as tx:
        accept(tx, [other], NOW)
    event = desk.get(f"/v1/events/{event_id}", key=ours.key).json()
    assert event["body"] == {"encoding": "utf-8", "content": '{"a": 1}'}
    assert event["headers"] == {"webhook-id": "evt"}
    assert [conflict["body"] for conflict in event["conflicts"]] == [{"encoding": "base64", "content": "/wA="}]
    assert not event["more_conflicts"]
    with desk.env.database.begin() as tx:
        for number in range(20):
            accept(
                tx,
                [msgspec.structs.replace(other, id=new_id("evt"), body=b"%d" % number, sha256=b"%032d" % number)],
                NOW,
            )
    event = desk.get(f"/v1/events/{event_id}", key=ours.key).json()
    assert (len(event["conflicts"]), event["more_conflicts"]) == (20, True)
    first = desk.get(f"/v1/events/{event_id}/conflicts", key=ours.key).json()
    last = desk.get(f"/v1/events/{event_id}/conflicts", key=ours.key, before=first["next"]).json()
    assert (first["data"], len(last["data"]), last["next"]) == (event["conflicts"], 1, None)
    [dead] = desk.get("/v1/events", key=ours.key, state="dead", type="invoice.paid").json()["data"]
    assert dead["external_id"] == "evt_2"
    assert desk.get("/v1/events", key=ours.key, type="something.else").json()["data"] == []


def test_a_dead_letter_is_replayed_once_and_says_by_whom(desk: Desk, world: World) -> None:
    ours = world.ours
    path = f"/v1/dead-letters/{ours.ids['dead_letter_id']}"
    letter = desk.post(f"{path}/replay", key=ours.key).json()
    assert (letter["resolution"], letter["resolved_by"]) == ("replayed", ours.ids["own_key_id"])
    event = desk.get(f"/v1/events/{letter['work_id']}", key=ours.key).json()
    assert (event["state"], event["attempts"]) == ("due", 0)
    refused(desk.post(f"{path}/replay", key=ours.key), 409, "already_resolved", ours.ids["own_key_id"])
    refused(desk.post(f"{path}/discard", key=ours.key), 409, "already_resolved")
    assert desk.get("/v1/dead-letters", key=ours.key).json()["data"] == []


def test_a_discarded_letter_leaves_its_work_dead(desk: Desk, world: World) -> None:
    ours = world.ours
    letter = desk.post(f"/v1/dead-letters/{ours.ids['dead_letter_id']}/discard").json()
    assert (letter["resolution"], letter["resolved_by"]) == ("discarded", "operator")
    with desk.env.database.read() as tx:
        event = get_event(tx, letter["work_id"])
    assert event is not None
    assert event["state"] == "dead"


def test_dead_letters_are_replayed_in_bulk_up_to_a_bound(desk: Desk, world: World) -> None:
    ours = world.ours
    for number in range(4):
        add_letter(desk.env, ours.merchant_id, ours.ids["source_id"], f"more_{number}")
    path = "/v1/dead-letters/replay"
    assert desk.post(path, {"queue": "deliveries"}, key=ours.key).json() == {
        "replayed": 0,
        "refused": [],
        "more": False,
    }
    assert desk.post(path, {"queue": "inbox", "limit": 3}, key=ours.key).json() == {
        "replayed": 3,
        "refused": [],
        "more": True,
    }
    assert desk.post(path, {"queue": "inbox"}, key=ours.key).json() == {"replayed": 2, "refused": [], "more": False}
    assert len(desk.get("/v1/dead-letters").json()["data"]) == 1, "another merchant's"


def test_an_event_is_replayed_unless_it_is_due_anyway(desk: Desk, world: World) -> None:
    ours = world.ours
    due = desk.post(f"/v1/events/{ours.ids['event_id']}/replay", key=ours.key).json()
    assert due == {"id": ours.ids["event_id"], "replayed": False}
    [dead] = desk.get("/v1/events", key=ours.key, state="dead").json()["data"]
    assert desk.post(f"/v1/events/{dead['id']}/replay", key=ours.key).json()["replayed"]
    assert desk.get("/v1/dead-letters", key=ours.key).json()["data"] == []


def test_a_replay_rings_where_there_is_a_queue(database: Database, valkey: ValkeyServer, tmp_path: Path) -> None:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, queue_url=valkey.url)
    env.broker.client.flushall()
    ours = settle(env, "Ours")
    with serving(env) as desk:
        assert desk.post("/v1/dead-letters/replay", {"queue": "inbox"}, key=ours.key).json()["replayed"] == 1
    env.bell.close()
    assert env.broker.waiting("inbox") == 1
    env.close()


def test_an_invoice_comes_with_its_lines_its_file_and_its_page(desk: Desk, world: World) -> None:
    ours = world.ours
    path = f"/v1/invoices/{ours.ids['invoice_id']}"
    invoice = desk.get(path, key=ours.key).json()
    assert (invoice["object"], invoice["total"], invoice["lines"][0]["amount"]) == ("invoice", 1000, 1000)
    [document] = invoice["documents"]
    pdf = desk.get(document["path"], key=ours.key)
    assert (pdf.content, pdf.headers["Content-Type"]) == (PDF, "application/pdf")
    disposition = pdf.headers["Content-Disposition"]
    assert disposition == 'attachment; filename="invoice-A-quoted-..-name-0001.pdf"'
    page = desk.get(f"{path}/page", key=ours.key)
    assert "Seats" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.headers["Cache-Control"] == "no-store"
    refused(desk.get(f"{path}/documents/receipt.pdf", key=ours.key), 404, "no_document", "open")
    refused(desk.get(f"{path}/documents/poem.pdf", key=ours.key), 404, "not_found")
    assert desk.get("/v1/book/invoice/" + invoice["id"]).json()["number"] == invoice["number"]


def test_a_document_that_is_not_there_says_why(desk: Desk, world: World) -> None:
    ours = world.ours
    value = new_invoice(external_id="in_2", status="paid")
    invoice_id = add_to_book(desk.env, ours.merchant_id, ours.ids["source_id"], value)
    with desk.env.database.begin() as tx:
        add_documents(tx, [NewDocument(ours.merchant_id, invoice_id, "invoice", "billhook-2", b"{}")], NOW)
    refused(desk.get(f"/v1/invoices/{invoice_id}/documents/invoice.pdf"), 404, "document_not_ready")
    with desk.env.database.begin() as tx:
        work.give_up(tx, documents, [(list_documents(tx, invoice_id)[0]["id"], "no such locale")], NOW)
    refused(desk.get(f"/v1/invoices/{invoice_id}/documents/invoice.pdf"), 404, "document_failed", "no such locale")
    # The snapshot planted here is none: a fault of ours has the same shape as a refusal, and tells nothing.
    refused(desk.get(f"/v1/invoices/{invoice_id}/page"), 500, "internal")


def test_a_damaged_file_is_never_handed_out(desk: Desk, world: World) -> None:
    [file] = desk.env.settings.var.rglob(f"{world.ours.merchant_id}.pdf")
    file.write_bytes(b"something else")
    path = f"/v1/invoices/{world.ours.ids['invoice_id']}/documents/invoice.pdf"
    refused(desk.get(path), 500, "document_damaged")


def test_invoices_are_found_by_customer_and_status(desk: Desk, world: World) -> None:
    ours = world.ours
    paid = new_invoice(external_id="in_2", status="paid", customer="cus_2", subscription="sub_1")
    paid_id = add_to_book(desk.env, ours.merchant_id, ours.ids["source_id"], paid)
    for query in ({"status": "paid"}, {"customer": "cus_2"}, {"subscription": "sub_1"}):
        assert [row["id"] for row in desk.get("/v1/invoices", key=ours.key, **query).json()["data"]] == [paid_id]
    assert desk.get("/v1/invoices", key=ours.key, status="paid", customer="cus_1").json()["data"] == []


def test_a_message_shows_its_bytes_and_every_attempt(desk: Desk, world: World) -> None:
    ours = world.ours
    message = desk.get(f"/v1/messages/{ours.ids['message_id']}", key=ours.key).json()
    assert message["body"]["content"] == '{"type":"invoice.paid"}'
    [delivery] = message["deliveries"]
    [attempt] = delivery["tries"]
    assert (attempt["status_code"], attempt["response"]["encoding"]) == (500, "base64")
    listed = desk.get("/v1/deliveries", key=ours.key, message_id=message["id"], state="due").json()["data"]
    assert [row["id"] for row in listed] == [delivery["id"]]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "not_json"),
        (b"\xff\xfe", 400, "not_json"),
        (b"[" * 30_000, 400, "unreadable"),
        (b'{"name": "\\ud800"}', 422, "invalid"),
        (b'{"name": "a", "\\ud800": 1}', 422, "invalid"),
        (b"null", 422, "invalid"),
        (b"", 422, "invalid"),
        (b'{"name": "%s"}' % (b"x" * 70_000), 413, "too_large"),
    ],
)
def test_a_body_that_cannot_be_read_costs_only_itself(desk: Desk, body: bytes, status: int, code: str) -> None:
    answer = requests.post(
        f"{desk.address}/v1/merchants",
        data=body,
        headers={"Authorization": "Bearer bh_the-operators-own", "Content-Type": "application/json"},
        timeout=30,
    )
    refused(answer, status, code)


def test_while_the_database_is_away_callers_are_told_to_come_back(tmp_path: Path) -> None:
    blocked = tmp_path / "billhook.db"
    blocked.mkdir()  # a directory is no database
    env = new_env(f"sqlite:///{blocked}", tmp_path)
    with serving(env) as desk:
        for key in (None, "bh_some-key"):
            assert desk.get("/readyz", key=key).status_code == 503
        answer = desk.get("/v1/events", key="bh_some-key")
        refused(answer, 503, "store_unavailable")
        assert answer.headers["Retry-After"] == "5"
        refused(desk.get("/v1/events"), 503, "store_unavailable")
    env.close()
