"""Documents go out by mail: at once, or when they are ready."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from actions.office import TERMS, Office

from billhook.actions import invoices
from billhook.actions.document_mails import Heads, Sending, heads, mails_for
from billhook.rules.document import Seller
from billhook.rules.terms import CreditTerms, Party
from billhook.store import work
from billhook.store.database import Database
from billhook.store.documents import Rendered, documents, set_files
from billhook.store.links import find_link
from billhook.store.mails import add_mails

PUBLIC = "https://bills.test"


@pytest.fixture
def office(database: Database) -> Office:
    return Office.open(database)


def make_ready(office: Office, known: Heads = MappingProxyType({})) -> list[str]:
    """What the invoicer does when it settles; returns the ids of the mails."""
    due = [row["id"] for row in office.rows("documents") if row["state"] == "due"]
    with office.env.database.begin() as tx:
        set_files(tx, [Rendered(document, f"{document}.pdf", "ab" * 32, 7, "typst") for document in due])
        work.finish(tx, documents, due, "ready", office.clock())
        return add_mails(tx, mails_for(tx, due, public=PUBLIC, now=office.clock(), known=known), office.clock())


def send(office: Office, subject_id: str, kind: str | None = None, to: Any = None, *, anyone: bool = True) -> Sending:
    sending: Sending = office.do(invoices.send, subject_id, kind, to, public=PUBLIC, anyone=anyone)
    return sending


def addressed(office: Office) -> list[str]:
    return sorted(row["recipient"] for row in office.rows("mails"))


def test_what_is_ready_goes_out_at_once_with_its_file(office: Office) -> None:
    invoice = office.issued(msgspec.structs.replace(TERMS, pay_url="https://pay.test/7"))
    assert make_ready(office) == []  # nobody asked for a mail yet
    sending = send(office, invoice.id, "invoice")
    [mail] = office.rows("mails")
    assert (sending.waiting, sending.rings, sending.to) == (False, {"mails": [mail["id"]]}, ["ada@example.com"])
    [document] = office.rows("documents")
    assert mail["attachments"] == [
        {
            "name": "Invoice-INV-0001.pdf",
            "media_type": "application/pdf",
            "key": document["object_key"],
            "sha256": "ab" * 32,
        }
    ]
    assert mail["subject"] == "Invoice INV-0001 – Acme"
    assert "https://pay.test/7" in mail["body"]
    assert "130.90" in mail["body"]


def test_the_mail_of_a_test_says_so(office: Office) -> None:
    invoice = office.issued()
    (issued,) = office.shown(invoice.id).values()
    test = msgspec.json.encode(msgspec.structs.replace(issued, livemode=False))
    with office.env.database.begin() as tx:
        tx.execute(sa.update(documents).values(snapshot=test))
    make_ready(office)
    send(office, invoice.id)
    [mail] = office.rows("mails")
    assert mail["subject"] == "TEST Invoice INV-0001 – Acme"
    assert [attachment["name"] for attachment in mail["attachments"]] == ["TEST-Invoice-INV-0001.pdf"]
    assert mail["body"].startswith("Made in test mode.")
    assert mail["html"].index("Made in test mode.") < mail["html"].index("<h1")


def test_a_mail_is_the_sellers_has_a_page_and_leads_to_the_invoice(office: Office) -> None:
    office.sell(Seller(name="Harbor & <Sons>\r\nBcc: x@y.test", email="books@harbor.example"))
    note = office.do(invoices.credit, office.paid(msgspec.structs.replace(TERMS, locale="ar")).id, CreditTerms())
    make_ready(office)
    send(office, note.invoice.id, "invoice")
    send(office, note.credit_note.id, "credit_note")
    for mail in office.rows("mails"):
        assert (mail["sender_name"], mail["reply_to"]) == ("Harbor & <Sons> Bcc: x@y.test", "books@harbor.example")
        assert "Harbor &amp; &lt;Sons&gt;" in mail["html"]
        assert 'dir="rtl"' in mail["html"]
        [link] = set(re.findall(r"https://bills\.test/i/([\w-]+)", mail["html"]))
        assert link in mail["body"]
        with office.env.database.read() as tx:
            found = find_link(tx, link, office.clock())
        assert found is not None
        assert found.invoice_id == note.invoice.id
    assert len(office.rows("hosted_links")) == 2


def test_a_merchant_writes_to_others_than_the_buyer_only_where_it_may(office: Office) -> None:
    invoice = office.issued()
    others = ["ada@example.com", "cfo@example.com"]
    assert (
        office.refused(invoices.send, invoice.id, "invoice", others, public=PUBLIC, anyone=False) == "recipient_other"
    )
    assert send(office, invoice.id, "invoice", ["ada@example.com"], anyone=False).to == ["ada@example.com"]
    assert send(office, invoice.id, "invoice", anyone=False).to == ["ada@example.com"]


def test_the_mail_of_an_invoice_that_was_paid_since_asks_for_nothing(office: Office) -> None:
    invoice = office.issued(msgspec.structs.replace(TERMS, pay_url="https://pay.test/7"))
    make_ready(office)
    office.do(invoices.pay, invoice.id)
    send(office, invoice.id, "invoice")
    [mail] = office.rows("mails")
    assert "https://pay.test/7" not in mail["body"]
    assert "130.90 paid on" in mail["body"]


def test_what_goes_out_by_default_is_what_the_state_calls_for(office: Office) -> None:
    paid, void = office.issued(), office.issued()
    office.do(invoices.pay, paid.id)
    office.do(invoices.void, void.id)
    sent = [send(office, subject, None).document_id for subject in (paid.id, void.id, office.issued().id)]
    kinds = {row["id"]: row["kind"] for row in office.rows("documents")}
    assert [kinds[document] for document in sent] == ["receipt", "void", "invoice"]


def test_an_attachment_keeps_the_letters_of_its_language(office: Office) -> None:
    invoice = office.issued(msgspec.structs.replace(TERMS, locale="ja"))
    make_ready(office)
    send(office, invoice.id, "invoice")
    [mail] = office.rows("mails")
    assert mail["attachments"][0]["name"].endswith("書-INV-0001.pdf")


def test_who_asks_twice_sends_once_and_later_again(office: Office) -> None:
    invoice = office.issued()
    make_ready(office)
    assert len(send(office, invoice.id, "invoice").rings["mails"]) == 1
    assert send(office, invoice.id, "invoice").rings == {"mails": []}
    assert len(office.rows("hosted_links")) == 1
    office.clock.move(minutes=1)
    assert len(send(office, invoice.id, "invoice").rings["mails"]) == 1


def test_what_is_not_ready_goes_out_when_it_is(office: Office) -> None:
    office.settle(email_documents=True)
    invoice = office.issued()
    sending = send(office, invoice.id, "invoice", ["cfo@example.com", "cfo@example.com"])
    assert (sending.waiting, sending.rings, addressed(office)) == (True, {}, [])
    assert len(make_ready(office)) == 2
    assert addressed(office) == ["ada@example.com", "cfo@example.com"]
    with office.env.database.begin() as tx:
        due = [row["id"] for row in office.rows("documents")]
        assert mails_for(tx, due, public=PUBLIC, now=office.clock()) == []


def test_what_documents_show_may_be_read_before(office: Office) -> None:
    """Once: what is known is not read again while others wait."""
    invoice = office.issued()
    with office.env.database.read() as tx:
        known = heads(tx, invoice.id)
    ((document_id, shown),) = known.items()
    assert shown.lines == ()
    known = {document_id: msgspec.structs.replace(shown, number="as it was read")}
    office.do(invoices.send, invoice.id, "invoice", None, public=PUBLIC, anyone=True, known=known)
    make_ready(office, known)
    office.clock.move(minutes=1)
    office.do(invoices.send, invoice.id, "invoice", None, public=PUBLIC, anyone=True, known=known)
    assert {row["subject"] for row in office.rows("mails")} == {"Invoice as it was read – Acme"}
    assert len(office.rows("mails")) == 2


def test_a_credit_note_is_sent_like_an_invoice(office: Office) -> None:
    note = office.do(invoices.credit, office.paid().id, CreditTerms()).credit_note
    make_ready(office)
    send(office, note.id, "credit_note")
    assert [row["subject"] for row in office.rows("mails")] == ["Credit note CN-0001 – Acme"]


def test_the_words_are_the_documents_and_no_name_becomes_a_header(office: Office) -> None:
    buyer = Party(name="Eve\r\nBcc: all@example.com", email="eve@example.com")
    invoice = office.issued(msgspec.structs.replace(TERMS, locale="de", buyer=buyer))
    make_ready(office)
    send(office, invoice.id, "invoice")
    [mail] = office.rows("mails")
    assert mail["subject"] == "Rechnung INV-0001 – Acme"
    assert "130,90" in mail["body"]


@pytest.mark.parametrize(
    ("kind", "to", "code"),
    [
        ("receipt", None, "document_unknown"),
        ("invoice", [], "recipient_missing"),
        ("invoice", ["nobody"], "recipient_invalid"),
        ("invoice", ["a@b.test\r\nBcc: c@d.test"], "recipient_invalid"),
    ],
)
def test_what_cannot_be_sent_is_refused(office: Office, kind: str, to: Any, code: str) -> None:
    invoice = office.issued()
    assert office.refused(invoices.send, invoice.id, kind, to, public=PUBLIC, anyone=True) == code


def test_a_buyer_without_an_address_and_a_document_that_failed_are_refused(office: Office) -> None:
    nameless = office.issued(msgspec.structs.replace(TERMS, buyer=Party(name="Ada")))
    assert office.refused(invoices.send, nameless.id, "invoice", public=PUBLIC, anyone=True) == "recipient_missing"
    with office.env.database.begin() as tx:
        work.give_up(tx, documents, [(office.rows("documents")[0]["id"], "no such font")], office.clock())
    refused = office.refused(invoices.send, nameless.id, "invoice", ["a@b.test"], public=PUBLIC, anyone=True)
    assert refused == "document_failed"
