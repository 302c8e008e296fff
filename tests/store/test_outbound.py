"""What leaves billhook: messages said once, documents made once, deliveries with every attempt at them."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
import sqlalchemy as sa
from store.databases import NOW

from billhook.store import endpoints, work
from billhook.store.database import Database
from billhook.store.deliveries import (
    Attempt,
    NewDelivery,
    OutboundMessage,
    add_attempts,
    add_deliveries,
    deliveries,
    list_attempts,
    list_deliveries,
    outbound_messages,
)
from billhook.store.documents import NewDocument, Rendered, add_documents, documents, list_documents, set_files
from billhook.store.messages import Message, add_messages, get_message, list_messages
from billhook.store.schema import new_id

LATER = NOW + timedelta(minutes=1)


def message(number: int, *, inbox_id: str = "evt_1", kind: str = "invoice.paid") -> Message:
    return Message(new_id("msg"), "mrc_a", kind, "invoice", "inv_1", b'{"n": "\xc3\xa9"}', inbox_id, number, NOW)


def test_an_event_speaks_once(database: Database) -> None:
    first = [message(0), message(1)]
    with database.begin() as tx:
        assert add_messages(tx, first, NOW) == first
    with database.begin() as tx:
        grown = [message(0), message(1), message(2), message(0, inbox_id="evt_2")]
        assert add_messages(tx, grown, LATER) == grown[2:]
        assert add_messages(tx, [], LATER) == []
    with database.read() as tx:
        said = list_messages(tx, merchant_id="mrc_a")
        assert [row["id"] for row in said] == [m.id for m in [grown[3], grown[2], first[1], first[0]]]
        kept = get_message(tx, first[0].id, merchant_id="mrc_a")
        assert kept is not None
        assert bytes(kept["body"]) == b'{"n": "\xc3\xa9"}'
        assert list_messages(tx, merchant_id="mrc_a", before=said[0]["id"], limit=1) == said[1:2]
        assert list_messages(tx, merchant_id="mrc_a", event_type="invoice.voided") == []


def test_an_invoice_has_one_document_of_a_kind(database: Database) -> None:
    def wanted(subject: str, kind: str, snapshot: bytes) -> NewDocument:
        return NewDocument("mrc_a", subject, kind, "billhook-2", snapshot)

    paid = wanted("inv_1", "invoice", b"first")
    with database.begin() as tx:
        asked = [paid, wanted("inv_1", "receipt", b"r"), wanted("inv_1", "invoice", b"2nd")]
        assert len(add_documents(tx, asked, NOW)) == 2
    with database.begin() as tx:
        [other] = add_documents(tx, [paid, wanted("inv_2", "invoice", b"x")], LATER)
        assert add_documents(tx, [paid], LATER) == []
        assert add_documents(tx, [], LATER) == []
        set_files(tx, [Rendered(other, "mrc_a/inv_2.pdf", "ab" * 32, 17, "typst")])
        made = list_documents(tx, "inv_1")
        assert [(row["kind"], bytes(row["snapshot"]), row["state"]) for row in made] == [
            ("invoice", b"first", "due"),
            ("receipt", b"r", "due"),
        ]
        [file] = list_documents(tx, "inv_2", merchant_id="mrc_a")
        assert (file["object_key"], file["sha256"], file["size"]) == ("mrc_a/inv_2.pdf", "ab" * 32, 17)
        assert {row["object_key"] for row in made} == {None}
        assert len(work.due_ids(tx, documents, now=LATER, limit=9)) == 3


def test_a_claimed_delivery_becomes_a_letter_to_the_endpoint_as_it_is_now(database: Database) -> None:
    sent = message(0)
    with database.begin() as tx:
        add_messages(tx, [sent], NOW)
        here = endpoints.create_endpoint(tx, "mrc_a", "https://a.test/hook", ["*"], b"sealed", NOW)
        there = endpoints.create_endpoint(tx, "mrc_a", "https://b.test/hook", ["*"], b"sealed too", NOW)
        wanted = [NewDelivery("mrc_a", sent.id, here.id), NewDelivery("mrc_a", sent.id, there.id, subject="cus_1")]
        first, second = add_deliveries(tx, wanted, NOW)
        assert add_deliveries(tx, [], NOW) == []
        endpoints.set_disabled(tx, there.id, NOW, "gone")
    with database.begin() as tx:
        claim = work.claim(tx, deliveries, ids=None, limit=9, max_attempts=9, now=NOW, lease=timedelta(minutes=1))
        known = endpoints.endpoints_of(tx, {here.id, there.id})
        rows = [{**row, "endpoint": known[row["endpoint_id"]]} for row in claim.rows]
        found = {one.delivery_id: one for one in outbound_messages(tx, rows)}
        assert outbound_messages(tx, []) == []
    assert found[first] == OutboundMessage(
        first,
        "mrc_a",
        sent.id,
        here,
        1,
        1,
        "invoice.paid",
        sent.body,
        pruned=False,
        subject=None,
        lane="fresh",
        event_id=sent.inbox_id,
    )
    assert found[second].endpoint.disabled_at == NOW
    assert found[second].subject == "cus_1"


def test_a_message_goes_to_an_endpoint_once(database: Database) -> None:
    sent = message(0)
    with database.begin() as tx:
        add_messages(tx, [sent], NOW)
        here = endpoints.create_endpoint(tx, "mrc_a", "https://a.test/hook", ["*"], b"sealed", NOW)
        add_deliveries(tx, [NewDelivery("mrc_a", sent.id, here.id)], NOW)
    with pytest.raises(sa.exc.IntegrityError), database.begin() as tx:
        add_deliveries(tx, [NewDelivery("mrc_a", sent.id, here.id)], NOW)


def test_every_attempt_is_kept_in_order(database: Database) -> None:
    attempts = [
        Attempt("mrc_a", "dlv_1", 1, NOW, 30, "5xx", 503, "the endpoint answered 503", b"busy", (("Server", "x"),)),
        Attempt("mrc_a", "dlv_1", 2, LATER, 5000, "timeout", None, "no answer in 5 s", b"", (("Server", "x"),)),
    ]
    sent = {"url": "https://a.test/hook", "request_headers": (("webhook-id", "msg_1"),)}
    attempts = [msgspec.structs.replace(attempt, **sent) for attempt in attempts]
    lists = {"response_headers": [["Server", "x"]], "request_headers": [["webhook-id", "msg_1"]]}
    with database.begin() as tx:
        add_attempts(tx, attempts)
        add_attempts(tx, [])
        kept = list_attempts(tx, ["dlv_1"], merchant_id="mrc_a")
        fields = Attempt.__struct_fields__
        assert [{field: row[field] for field in fields} for row in kept] == [
            {field: getattr(attempt, field) for field in fields} | lists for attempt in attempts
        ]
        assert list_attempts(tx, ["dlv_1"], merchant_id="mrc_b") == []
        add_attempts(tx, [msgspec.structs.replace(attempts[0], delivery_id="dlv_2", number=7)])
        both = list_attempts(tx, ["dlv_1", "dlv_2"], merchant_id="mrc_a", latest=1)
        assert [(row["delivery_id"], row["number"]) for row in both] == [("dlv_1", 2), ("dlv_2", 7)]


def test_deliveries_are_found_by_what_they_are_about(database: Database) -> None:
    sent = [message(0), message(1)]
    with database.begin() as tx:
        add_messages(tx, sent, NOW)
        here = endpoints.create_endpoint(tx, "mrc_a", "https://a.test/hook", ["*"], b"sealed", NOW)
        there = endpoints.create_endpoint(tx, "mrc_a", "https://b.test/hook", ["*"], b"sealed", NOW)
        made = add_deliveries(tx, [NewDelivery("mrc_a", m.id, e.id) for m in sent for e in (here, there)], NOW)
        work.finish(tx, deliveries, made[:1], "delivered", NOW)

        def found(**wanted: str) -> list[str]:
            return [row["id"] for row in list_deliveries(tx, merchant_id="mrc_a", **wanted)]

        assert found() == made[::-1]
        assert found(endpoint_id=there.id) == [made[3], made[1]]
        assert found(message_id=sent[0].id) == [made[1], made[0]]
        assert found(state="delivered") == [made[0]]
        assert found(before=made[1]) == [made[0]]
