"""Documents of any subject, kind and look, and snapshots of any age."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from store.databases import NOW

from billhook.rules.document import Seller, Snapshot
from billhook.store import work
from billhook.store.database import Database
from billhook.store.documents import (
    NewDocument,
    Rendered,
    add_documents,
    documents,
    documents_by_id,
    latest_document,
    list_documents,
    read_snapshot,
    set_files,
    set_mail_to,
    undocumented,
)

LATER = NOW + timedelta(days=1)

BEFORE_0003 = {
    "kind": "receipt",
    "seller_name": "Acme",
    "seller_country": "DE",
    "locale": "de",
    "template": 1,
    "invoice": {
        "external_id": "in_1",
        "created": "2026-01-02T00:00:00Z",
        "deleted": False,
        "metadata": {},
        "number": "A-1",
        "customer": "cus_1",
        "status": "paid",
        "currency": "eur",
        "subtotal": 1000,
        "discount": 0,
        "tax": 190,
        "total": 1190,
        "amount_due": 1190,
        "amount_paid": 1190,
        "amount_remaining": 0,
        "paid_at": "2026-01-03T00:00:00Z",
        "seller_country": "DE",
        "customer_name": "Ada",
        "lines": [{"external_id": "il_1", "description": "Plan", "amount": 1000}],
        "lines_complete": True,
    },
}
"""As it was written until then."""


def wanted(kind: str = "invoice", template: str = "billhook-2", **fields: object) -> NewDocument:
    return NewDocument("mrc_a", "inv_1", kind, template, b"{}", **fields)  # type: ignore[arg-type]


def test_a_new_look_is_a_new_document_and_the_old_one_stays(database: Database) -> None:
    with database.begin() as tx:
        [old] = add_documents(tx, [wanted(template="billhook-1")], NOW)
        set_files(tx, [Rendered(old, "documents/1.pdf", "ab" * 32, 17, "wkhtmltopdf")])
        work.finish(tx, documents, [old], "ready", NOW)
        [new] = add_documents(tx, [wanted(template="billhook-1"), wanted()], LATER)
        assert [(row["id"], row["state"]) for row in list_documents(tx, "inv_1")] == [(old, "ready"), (new, "due")]
        latest = latest_document(tx, "inv_1", "invoice", lock=True)
        assert latest is not None
        assert latest["id"] == new
        assert latest_document(tx, "inv_1", "receipt") is None
        assert list_documents(tx, "inv_1")[0]["engine"] == "wkhtmltopdf"


def test_what_has_a_document_in_some_look_is_not_asked_for_again(database: Database) -> None:
    with database.begin() as tx:
        add_documents(tx, [wanted(template="billhook-1")], NOW)
        assert undocumented(tx, [wanted(), wanted("receipt")]) == [wanted("receipt")]
        assert undocumented(tx, []) == []


def test_a_document_remembers_whom_it_is_mailed_to(database: Database) -> None:
    with database.begin() as tx:
        [first] = add_documents(tx, [wanted(mail_to=("ada@example.com",), e_invoice=True)], NOW)
        [second] = add_documents(tx, [wanted("receipt")], NOW)
        one, other = documents_by_id(tx, [first, second])
        assert (one["mail_to"], one["e_invoice"]) == (["ada@example.com"], True)
        assert (other["mail_to"], other["e_invoice"]) == (None, False)
        set_mail_to(tx, second, ["bob@example.com"])
        assert documents_by_id(tx, [second])[0]["mail_to"] == ["bob@example.com"]


def test_a_snapshot_is_read_as_it_was_written() -> None:
    snapshot = Snapshot(kind="invoice", currency="jpy", seller=Seller(name="Acme"), subtotal=5, total=5)
    assert read_snapshot(msgspec.json.encode(snapshot)) == snapshot


def test_a_snapshot_of_before_says_the_same_in_the_shape_of_today() -> None:
    snapshot = read_snapshot(msgspec.json.encode(BEFORE_0003))
    assert (snapshot.kind, snapshot.template, snapshot.locale) == ("receipt", "billhook-1", "de")
    assert (snapshot.number, snapshot.total, snapshot.amount_paid, snapshot.status) == ("A-1", 1190, 1190, "paid")
    assert snapshot.seller.name == "Acme"
    assert snapshot.seller.address is not None
    assert snapshot.seller.address.country == "DE"
    assert snapshot.buyer is not None
    assert snapshot.buyer.name == "Ada"
    assert [line.description for line in snapshot.lines] == ["Plan"]


def test_what_is_no_snapshot_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_snapshot(b"{}")
