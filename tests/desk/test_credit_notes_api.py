"""Credit notes at the desk: never more than there was, under numbers of their own."""

from __future__ import annotations

from typing import Any

import msgspec
import requests
from desk.world import PDF, Belongings, Desk, World, add_ready_document, add_to_book, made, own_invoice, refused

from billhook.rules.book.invoice import CreditNote
from billhook.rules.document import Snapshot
from billhook.store.own_credit_notes import get_own_credit_note


def credit(desk: Desk, whose: Belongings, invoice_id: str, terms: Any, key: str | None = None) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return desk.ask("POST", f"/v1/invoices/{invoice_id}/credit-notes", whose.key, headers, json=terms)


def invoice(desk: Desk, whose: Belongings, *verbs: str) -> str:
    invoice_id = own_invoice(desk.env, whose.merchant_id, finalized=True)
    for verb in verbs:
        assert desk.post(f"/v1/invoices/{invoice_id}/{verb}", key=whose.key).status_code == 200
    return invoice_id


def test_a_paid_invoice_is_credited_in_parts_and_never_beyond(desk: Desk, world: World) -> None:
    ours = world.ours
    paid = invoice(desk, ours, "pay")
    first = made(credit(desk, ours, paid, {"lines": [{"line": 0, "amount": 190}], "refund": "re_1"}))
    assert (first["number"], first["total"], first["refund"], first["invoice_id"]) == ("CN-0002", 190, "re_1", paid)
    refused(credit(desk, ours, paid, {"lines": [{"line": 0, "amount": 1001}]}), 422, "credit_invalid")
    rest = made(credit(desk, ours, paid, {"reason": "order_change"}))
    assert (rest["number"], rest["total"]) == ("CN-0003", 1000)
    assert first["tax"] + rest["tax"] == 190
    assert desk.get(f"/v1/invoices/{paid}", key=ours.key).json()["amount_credited"] == 1190
    refused(credit(desk, ours, paid, {}), 422, "credit_invalid")
    listed = desk.get(f"/v1/invoices/{paid}/credit-notes", key=ours.key).json()["data"]
    assert {note["number"] for note in listed} == {"CN-0002", "CN-0003"}


def test_an_open_invoice_that_is_credited_whole_is_settled(desk: Desk, world: World) -> None:
    ours = world.ours
    unpaid = invoice(desk, ours)
    made(credit(desk, ours, unpaid, {"lines": [{"line": 0, "amount": 190}]}))
    refused(desk.post(f"/v1/invoices/{unpaid}/void", key=ours.key), 409, "invoice_credited")
    made(credit(desk, ours, unpaid, {}))
    settled = desk.get(f"/v1/invoices/{unpaid}", key=ours.key).json()
    assert (settled["status"], settled["amount_paid"], settled["amount_remaining"]) == ("paid", 0, 0)


def test_what_was_never_owed_is_not_credited(desk: Desk, world: World) -> None:
    ours = world.ours
    draft = own_invoice(desk.env, ours.merchant_id, finalized=False)
    for invoice_id in (draft, invoice(desk, ours, "void")):
        refused(credit(desk, ours, invoice_id, {}), 409, "invoice_state")
    refused(credit(desk, ours, invoice(desk, ours), {"lines": [{"line": 7}]}), 422, "credit_invalid")
    refused(credit(desk, ours, invoice(desk, ours), {"lines": [{"lime": 0}]}), 422, "invalid", "line")
    refused(credit(desk, ours, invoice(desk, ours), {"lines": [{"line": 0, "amount": -1}]}), 422, "invalid", "amount")


def test_the_same_note_is_made_once_a_key(desk: Desk, world: World) -> None:
    ours = world.ours
    paid = invoice(desk, ours, "pay")
    terms = {"lines": [{"line": 0, "amount": 100}]}
    first = credit(desk, ours, paid, terms, "refund-1")
    again = credit(desk, ours, paid, terms, "refund-1")
    assert (again.status_code, again.headers["Idempotent-Replayed"], again.json()) == (200, "true", made(first))
    refused(credit(desk, ours, paid, {}, "refund-1"), 422, "idempotency_key_reused")
    refused(credit(desk, ours, invoice(desk, ours), terms, "refund-1"), 422, "idempotency_key_reused")


def test_a_note_comes_with_its_file_and_can_be_drawn_again_and_mailed(desk: Desk, world: World) -> None:
    ours = world.ours
    note = made(credit(desk, ours, invoice(desk, ours, "pay"), {}))
    path = f"/v1/credit-notes/{note['id']}"
    refused(desk.get(f"{path}/documents/credit_note.pdf", key=ours.key), 404, "document_not_ready", "credit note")
    with desk.env.database.read() as tx:
        own = get_own_credit_note(tx, note["id"])
    assert own is not None
    add_ready_document(desk.env, ours.merchant_id, own.id, msgspec.json.decode(own.snapshot, type=Snapshot))
    [document] = desk.get(path, key=ours.key).json()["documents"]
    pdf = desk.get(document["path"], key=ours.key)
    assert (pdf.content, pdf.headers["Content-Disposition"]) == (
        PDF,
        f'attachment; filename="credit-note-{note["number"]}.pdf"',
    )
    link = desk.get(f"{path}/documents/credit_note/link", key=ours.key).json()
    assert desk.get(link["url"], key=ours.key).content == PDF
    again = made(desk.post(f"{path}/documents/credit_note", {"template": ours.ids["template_id"]}, key=ours.key))
    assert again["template"] == ours.ids["template_id"]
    sent = desk.post(f"{path}/send", {"to": ["buyer@example.com"]}, key=ours.key)
    assert (sent.status_code, sent.json()["to"]) == (202, ["buyer@example.com"])


def test_a_providers_credit_note_is_shown_beside_ours(desk: Desk, world: World) -> None:
    ours = world.ours
    theirs = CreditNote(
        external_id="cn_1", number="CN-1", invoice="in_1", status="issued", currency="eur", subtotal=5, total=5
    )
    mirrored = add_to_book(desk.env, ours.merchant_id, ours.ids["source_id"], theirs)
    shown = desk.get(f"/v1/credit-notes/{mirrored}", key=ours.key).json()
    assert (shown["invoice_id"], shown["documents"], shown["total"]) == (None, [], 5)
    everything = {row["id"] for row in desk.get("/v1/credit-notes", key=ours.key).json()["data"]}
    assert everything == {mirrored, ours.ids["credit_note_id"]}
    listed = desk.get(f"/v1/invoices/{ours.ids['invoice_id']}/credit-notes", key=ours.key).json()["data"]
    assert [row["id"] for row in listed] == [mirrored]
    refused(desk.get(f"/v1/credit-notes/{mirrored}/documents/credit_note.pdf", key=ours.key), 404, "no_document")
