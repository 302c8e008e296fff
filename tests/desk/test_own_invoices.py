"""Invoices of a merchant's own, from the draft to the end of their lives."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import msgspec
import requests
from desk.world import OPERATOR, TERMS, Belongings, Desk, World, add_ready_document, made, own_invoice, refused

from billhook.rules.document import Snapshot
from billhook.store import work
from billhook.store.documents import documents, list_documents
from billhook.store.own_invoices import get_own_invoice
from billhook_testing.clock import ManualClock

LINE = TERMS["lines"][0]
HOUR = timedelta(hours=1)


def draft(desk: Desk, whose: Belongings, key: str | None = None, **changed: Any) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return desk.ask("POST", "/v1/invoices", whose.key, headers, json={**TERMS, **changed})


def do(desk: Desk, whose: Belongings, invoice_id: str, verb: str, body: Any = None) -> requests.Response:
    return desk.post(f"/v1/invoices/{invoice_id}/{verb}", body, key=whose.key)


def test_an_invoice_is_drafted_changed_issued_and_paid(desk: Desk, world: World) -> None:
    ours = world.ours
    first = made(draft(desk, ours))
    assert (first["status"], first["number"], first["total"], first["source"]) == ("draft", None, 1190, "own")
    assert first["terms"] == TERMS
    assert first["documents"] == []
    path = f"/v1/invoices/{first['id']}"

    terms = {**first["terms"], "lines": [{**LINE, "quantity": "3"}], "due_days": 30}
    changed = desk.ask("PUT", path, ours.key, json=terms).json()
    assert (changed["total"], changed["terms"]["due_days"]) == (1785, 30)

    issued = do(desk, ours, first["id"], "finalize").json()
    assert (issued["status"], issued["number"], issued["due_at"]) == ("open", "INV-0002", "2026-02-04T09:00:00Z")
    [document] = issued["documents"]
    assert (document["kind"], document["status"], document["path"]) == ("invoice", "pending", None)
    refused(desk.ask("PUT", path, ours.key, json=terms), 409, "invoice_state", "draft")

    paid = do(desk, ours, first["id"], "pay", {"reference": "bank 17"}).json()
    assert (paid["status"], paid["amount_paid"], paid["amount_remaining"]) == ("paid", 1785, 0)
    assert [document["kind"] for document in paid["documents"]] == ["invoice", "receipt"]
    assert desk.get(path, key=ours.key).json() == paid
    refused(do(desk, ours, first["id"], "void"), 409, "invoice_state", "credit note")


def test_every_transition_is_there_and_the_others_are_refused(desk: Desk, world: World) -> None:
    ours = world.ours
    verbs = ("finalize", "pay", "void", "write-off")
    allowed = {"draft": {"finalize"}, "open": {"pay", "void", "write-off"}, "uncollectible": {"pay", "void"}}
    leads = {"finalize": "open", "pay": "paid", "void": "void", "write-off": "uncollectible"}
    ways: dict[str, tuple[str, ...]] = {
        "draft": (),
        "open": ("finalize",),
        "uncollectible": ("finalize", "write-off"),
        "paid": ("finalize", "pay"),
        "void": ("finalize", "void"),
    }
    for state, way in ways.items():
        for verb in verbs:
            invoice_id = made(draft(desk, ours))["id"]
            for step in way:
                assert do(desk, ours, invoice_id, step).status_code == 200
            answer = do(desk, ours, invoice_id, verb)
            if verb in allowed.get(state, ()):
                assert answer.json()["status"] == leads[verb], (state, verb)
            else:
                refused(answer, 409, "invoice_state")


def test_only_a_draft_can_be_deleted(desk: Desk, world: World) -> None:
    ours = world.ours
    invoice_id = made(draft(desk, ours))["id"]
    assert desk.ask("DELETE", f"/v1/invoices/{invoice_id}", ours.key).status_code == 204
    assert desk.get(f"/v1/invoices/{invoice_id}", key=ours.key).json()["deleted"]
    refused(do(desk, ours, invoice_id, "finalize"), 409, "invoice_state", "deleted")
    issued = own_invoice(desk.env, ours.merchant_id, finalized=True)
    refused(desk.ask("DELETE", f"/v1/invoices/{issued}", ours.key), 409, "invoice_state", "void it")


def test_an_invoice_is_issued_in_one_go_once_a_key(desk: Desk, world: World) -> None:
    ours = world.ours
    first = draft(desk, ours, "order-1", finalize=True)
    assert (made(first)["status"], first.json()["number"]) == ("open", "INV-0002")
    assert "Idempotent-Replayed" not in first.headers
    again = draft(desk, ours, "order-1", finalize=True)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.json() == first.json()
    refused(draft(desk, ours, "order-1", due_days=1), 422, "idempotency_key_reused")
    assert made(draft(desk, world.theirs, "order-1"))["id"] != first.json()["id"], "keys are a merchant's own"
    refused(draft(desk, ours, "é"), 422, "idempotency_key_invalid")


def test_a_mirrored_invoice_is_changed_where_it_was_made(desk: Desk, world: World) -> None:
    ours = world.ours
    invoice_id = ours.ids["invoice_id"]
    for verb in ("finalize", "pay", "void", "write-off"):
        refused(do(desk, ours, invoice_id, verb), 409, "invoice_mirrored", "Ours's billing")
    refused(do(desk, ours, invoice_id, "credit-notes", {}), 409, "invoice_mirrored")
    refused(desk.ask("PUT", f"/v1/invoices/{invoice_id}", ours.key, json=TERMS), 409, "invoice_mirrored")
    refused(desk.ask("DELETE", f"/v1/invoices/{invoice_id}", ours.key), 409, "invoice_mirrored")
    shown = desk.get(f"/v1/invoices/{invoice_id}", key=ours.key).json()
    assert (shown["terms"], shown["amount_credited"]) == (None, None)


def test_a_preview_adds_up_and_stores_nothing(desk: Desk, world: World) -> None:
    ours = world.ours
    before = desk.get("/v1/invoices", key=ours.key).json()
    terms = {**TERMS, "discounts": [{"percent": "10"}]}
    preview = desk.post("/v1/invoices/preview", terms, key=ours.key).json()
    assert (preview["subtotal"], preview["discount"], preview["tax"], preview["total"]) == (1000, 100, 171, 1071)
    assert preview["lines"][0]["proration"] is False, "what is as by default is said, too"
    assert desk.get("/v1/invoices", key=ours.key).json() == before
    long_ago = "1969-12-31T23:59:59Z"
    for terms, said in (
        ({**TERMS, "currency": "zzz"}, "zzz"),
        ({**TERMS, "period_start": long_ago}, "at `period_start`"),
        ({**TERMS, "lines": [{**LINE, "period_end": long_ago}]}, "at `lines[0].period_end`"),
        ({**TERMS, "lines": [{**LINE, "quantity": "9" * 15, "unit_amount": "9" * 15}]}, ""),
        (
            {**TERMS, "period_start": "2026-02-01T00:00:00Z", "period_end": "2026-01-01T00:00:00Z"},
            "before period_start",
        ),
    ):
        for path in ("/v1/invoices/preview", "/v1/invoices"):  # the preview refuses what the draft does
            refused(desk.post(path, terms, key=ours.key), 422, "terms_invalid", said)


def test_a_buyer_whom_no_mail_can_reach_is_refused_at_the_draft(desk: Desk, world: World) -> None:
    for path, email in product(
        ("/v1/invoices", "/v1/invoices/preview"),
        ("nobody", "a b@customer.example", "ada@intranet", "ada@customer.invalid"),
    ):
        terms = {**TERMS, "buyer": {"name": "Ada", "email": email}}
        refused(desk.post(path, terms, key=world.ours.key), 422, "recipient_invalid", "buyer.email", email)


NOT_CHARGEABLE = [
    ({**TERMS, "lines": [{**LINE, "qauntity": "2"}]}, "body.lines.0.qauntity"),
    ({**TERMS, "finalise": True}, "body.finalise"),
    ({**TERMS, "buyer": {"name": "a\0b"}}, "body.buyer.name"),
    ({**TERMS, "metadata": {"a\x1b": "b"}}, "body.metadata"),
    ({**TERMS, "lines": [{**LINE, "unit_amount": "1e9"}]}, "body.lines.0.unit_amount"),
    ({**TERMS, "lines": [{**LINE, "unit_amount": 500}]}, "body.lines.0.unit_amount"),
    ({**TERMS, "lines": [{**LINE, "unit_amount": "-501"}]}, "negative"),
    ({**TERMS, "currency": "EUR"}, "body.currency"),
    ({**TERMS, "locale": "tlh"}, "tlh"),
    ({**TERMS, "pay_url": "javascript:alert(1)"}, "pay_url"),
    ({"currency": "eur", "lines": []}, "buyer"),
    ([], "body"),
    (None, "body"),
]


def test_terms_that_cannot_be_charged_are_refused_with_the_field(desk: Desk, world: World) -> None:
    for terms, word in NOT_CHARGEABLE:
        answer = desk.ask("POST", "/v1/invoices", world.ours.key, json=terms, data="null" if terms is None else None)
        assert answer.status_code == 422, answer.text
        assert word in answer.json()["error"]["message"]


def test_a_draft_without_lines_is_not_issued(desk: Desk, world: World) -> None:
    invoice_id = made(draft(desk, world.ours, lines=[]))["id"]
    refused(do(desk, world.ours, invoice_id, "finalize"), 409, "invoice_empty")


def test_ten_thousand_lines_are_taken_and_one_more_is_not(desk: Desk, world: World) -> None:
    lines = [{**LINE, "description": f"Seat {number}", "quantity": "1"} for number in range(10_000)]
    invoice = made(draft(desk, world.ours, lines=lines, finalize=True))
    assert (len(invoice["lines"]), invoice["subtotal"]) == (10_000, 5_000_000)
    assert sum(line["tax"] for line in invoice["lines"]) == invoice["tax"]
    refused(draft(desk, world.ours, lines=[*lines, LINE]), 422, "invalid", "10000")


def test_a_body_without_end_is_not_read(desk: Desk, world: World) -> None:
    huge = [{**LINE, "description": "x" * 1000}] * 9_000
    refused(draft(desk, world.ours, lines=huge), 413, "too_large", "8192 KiB")


def test_a_document_is_drawn_again_in_another_look_beside_the_first(desk: Desk, world: World) -> None:
    ours = world.ours
    path = f"/v1/invoices/{ours.ids['invoice_id']}"
    [first] = desk.get(path, key=ours.key).json()["documents"]
    look = ours.ids["template_id"]
    second = made(desk.post(f"{path}/documents/invoice", {"template": look}, key=ours.key))
    assert (second["template"], second["status"], second["path"]) == (look, "pending", None)
    again = desk.post(f"{path}/documents/invoice", {"template": look}, key=ours.key)
    assert (again.status_code, again.json()) == (200, second)
    assert desk.get(path, key=ours.key).json()["documents"] == [first, second], "the first is as it was"

    refused(desk.get(f"{path}/documents/invoice.pdf", key=ours.key, template=look), 404, "document_not_ready")
    assert desk.get(f"{path}/documents/invoice.pdf", key=ours.key).status_code == 200, "the one that is ready"
    assert desk.get(first["path"], key=ours.key).status_code == 200
    with desk.env.database.read() as tx:
        [row] = [row for row in list_documents(tx, ours.ids["invoice_id"]) if row["template"] == look]
    snapshot = msgspec.json.decode(row["snapshot"], type=Snapshot)
    add_ready_document(desk.env, ours.merchant_id, ours.ids["invoice_id"], snapshot)
    ready = desk.get(path, key=ours.key).json()["documents"][1]
    assert desk.get(ready["path"], key=ours.key).headers["Content-Type"] == "application/pdf"

    for unknown in (world.theirs.ids["template_id"], "billhook-1", "mine"):
        answer = desk.post(f"{path}/documents/invoice", {"template": unknown}, key=ours.key)
        refused(answer, 422, "template_unknown")
    desk.ask("DELETE", f"/v1/merchants/{ours.merchant_id}/templates/{look}", ours.key)
    refused(desk.post(f"{path}/documents/receipt", {"template": look}, key=ours.key), 404, "no_document")
    refused(desk.post(f"{path}/documents/invoice", {"template": look}, key=ours.key), 422, "template_unknown", "in use")


def test_a_document_says_how_far_it_is(desk: Desk, world: World, clock: ManualClock) -> None:
    ours = world.ours
    invoice_id = own_invoice(desk.env, ours.merchant_id, finalized=True)
    path = f"/v1/invoices/{invoice_id}"

    def status() -> Any:
        [document] = desk.get(path, key=ours.key).json()["documents"]
        return document["status"]

    assert status() == "pending"
    with desk.env.database.begin() as tx:
        [row] = list_documents(tx, invoice_id)
        held = work.claim(tx, documents, ids=[row["id"]], limit=1, max_attempts=9, now=clock(), lease=HOUR)
    assert status() == "rendering"
    with desk.env.database.begin() as tx:
        assert work.lock_claimed(tx, documents, {row["id"]: held.token})
        work.defer_claimed(tx, documents, [(row["id"], clock() + HOUR, "the engine died")])
    assert status() == "failed"
    refused(desk.get(f"{path}/documents/invoice.pdf", key=ours.key), 404, "document_not_ready", "the engine died")
    with desk.env.database.begin() as tx:
        work.give_up(tx, documents, [(row["id"], "the engine died")], clock())
    assert status() == "dead"
    refused(do(desk, ours, invoice_id, "send"), 409, "document_failed", "the engine died")


def test_a_link_to_a_file_is_the_desks_own_where_the_store_has_none(desk: Desk, world: World) -> None:
    ours = world.ours
    link = desk.get(f"/v1/invoices/{ours.ids['invoice_id']}/documents/invoice/link", key=ours.key).json()
    assert link["expires_at"] is None
    assert desk.get(link["url"], key=ours.key).content.startswith(b"%PDF")
    assert desk.get(link["url"], key=world.theirs.key).status_code == 404


def test_an_invoice_is_mailed_and_its_mails_are_seen(desk: Desk, world: World) -> None:
    ours = world.ours
    issued = own_invoice(desk.env, ours.merchant_id, finalized=True)
    waiting = do(desk, ours, issued, "send")
    assert (waiting.status_code, waiting.json()["to"], waiting.json()["waiting"]) == (202, ["buyer@example.com"], True)
    refused(do(desk, ours, issued, "send", {"kind": "receipt"}), 422, "document_unknown", "receipt")
    refused(do(desk, ours, issued, "send", {"to": ["a@example.com\nBcc: x@y"]}), 422, "invalid")
    refused(do(desk, ours, issued, "send", {"to": ["nobody"]}), 422, "recipient_invalid")

    asked = {"to": ["ada@example.com"]}
    refused(do(desk, ours, ours.ids["invoice_id"], "send", asked), 422, "recipient_other", "BILLHOOK_MAIL_TO_ANYONE")
    sent = desk.post(f"/v1/invoices/{ours.ids['invoice_id']}/send", asked, key=OPERATOR)
    assert not sent.json()["waiting"], "a mirrored one can be mailed, too, and by the operator to anyone"
    [mail] = desk.get("/v1/mails", key=ours.key, state="due").json()["data"]
    assert (mail["recipient"], mail["attachments"][0]["media_type"]) == ("ada@example.com", "application/pdf")
    assert desk.get("/v1/mails", key=ours.key, state="dead").json()["data"] == []
    assert desk.get("/v1/mails", key=world.theirs.key).json()["data"] == []


def test_numbers_have_no_gap_where_requests_are_refused(desk: Desk, world: World) -> None:
    ours = world.ours
    numbers = []
    for turn in range(4):
        refused(draft(desk, ours, lines=[], finalize=True), 409, "invoice_empty")
        numbers.append(made(draft(desk, ours, f"turn-{turn}", finalize=True))["number"])
        assert draft(desk, ours, f"turn-{turn}", finalize=True).status_code == 200
    assert numbers == ["INV-0002", "INV-0003", "INV-0004", "INV-0005"]


def test_what_was_issued_does_not_change_with_the_seller(desk: Desk, world: World) -> None:
    ours = world.ours
    issued = own_invoice(desk.env, ours.merchant_id, finalized=True)
    desk.ask("PUT", f"/v1/merchants/{ours.merchant_id}/seller", ours.key, json={"name": "Renamed"})
    do(desk, ours, issued, "pay")
    with desk.env.database.read() as tx:
        rows = list_documents(tx, issued)
        own = get_own_invoice(tx, issued)
    assert own is not None
    assert own.snapshot is not None
    names = {
        msgspec.json.decode(data, type=Snapshot).seller.name for data in [own.snapshot, *(r["snapshot"] for r in rows)]
    }
    assert names == {"Ours"}
    assert made(draft(desk, ours))["seller_name"] == "Renamed"
