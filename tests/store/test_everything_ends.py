"""Whatever grows has an end of its time, and what is not over yet, or is kept by law, outlives it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.history import delivery, endpoint_of, made, said, sent

from billhook.errors import SettingsError
from billhook.metrics import Metrics
from billhook.outlets.objects import Objects, document_key, open_objects
from billhook.parts import Parts
from billhook.rules.book import Address, Change, Customer, Invoice
from billhook.runtime.settings import read_settings
from billhook.store import book, erasure
from billhook.store.database import Database, Tx
from billhook.store.dead_letters import dead_letters
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.links import hosted_links
from billhook.store.mails import mails
from billhook.store.merchants import create_merchant
from billhook.store.messages import messages
from billhook.store.replays import replays
from billhook_testing.clock import ManualClock
from services.relay.pruning import Keep, Pruner

OLD = NOW - timedelta(days=100, milliseconds=1)
KEEP = Keep(attempts=100, messages=100, deliveries=100, events=100, mails=100, documents=100, records=100)
MERCHANT = "mrc_a"


def add(tx: Tx, table: sa.Table, prefix: str, at: datetime, **values: Any) -> str:
    row_id = made(prefix, at)
    tx.execute(table.insert().values(id=row_id, merchant_id=MERCHANT, **values))
    return row_id


def event(tx: Tx, at: datetime, state: str, body: bytes = b"{}") -> str:
    external_id = made("x", at)
    fixed = {"source_id": "src_1", "account": "", "type": "t", "headers": b"{}", "sha256": b"", "due_at": at}
    return add(tx, inbox, "evt", at, external_id=external_id, body=body, received_at=at, state=state, **fixed)


def mail(tx: Tx, at: datetime, state: str, to: str = "ada@acme.test") -> str:
    about = made("x", at)
    fixed = {"subject": "s", "body": "b", "attachments": [], "message_id": "m", "due_at": at, "created_at": at}
    return add(tx, mails, "mail", at, recipient=to, about=about, state=state, **fixed)


def document(tx: Tx, at: datetime, key: str | None, state: str = "ready") -> str:
    subject = made("inv", at)
    fixed = {"kind": "invoice", "template": "x", "snapshot": b"{}", "e_invoice": False, "created_at": at, "due_at": at}
    return add(tx, documents, "doc", at, subject_id=subject, object_key=key, state=state, **fixed)


def letter(tx: Tx, at: datetime, queue: str, work_id: str, resolved_at: datetime | None = None) -> str:
    fixed = {"reason": "r", "attempts": 1, "created_at": at}
    return add(tx, dead_letters, "dlq", at, queue=queue, work_id=work_id, resolved_at=resolved_at, **fixed)


def ids(database: Database, table: sa.Table) -> set[str]:
    with database.read() as tx:
        return set(tx.execute(sa.select(table.c.id)).scalars())


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects(tmp_path.as_uri())


def prune(database: Database, objects: Objects, keep: Keep = KEEP) -> None:
    relay = Pruner(database, lambda: objects, Metrics(), ManualClock(NOW), Parts(), keep)
    while relay.prune():
        pass


def test_what_is_over_and_old_goes_and_all_else_stays(database: Database, objects: Objects) -> None:
    files = {name: document_key(name * 64) for name in "abc"}
    for key in files.values():
        objects.put_once(key, b"%PDF")
    with database.begin() as tx:
        for state in ("processed", "ignored"):
            conflict = event(tx, OLD, state)
            add(tx, inbox_conflicts, "cfl", OLD, inbox_id=conflict, headers=b"", body=b"", sha256=b"", received_at=OLD)
        events = {event(tx, OLD, "due"), event(tx, OLD, "dead"), event(tx, NOW, "processed")}
        endpoint = endpoint_of(tx, MERCHANT, OLD)
        for state in ("delivered", "canceled", "dead"):
            delivery(tx, endpoint, OLD, state)
        waiting = said(tx, MERCHANT, OLD)
        young = said(tx, MERCHANT, NOW)
        kept = {sent(tx, endpoint, waiting, OLD, "due"), sent(tx, endpoint, young, NOW, "delivered")}
        mail(tx, OLD, "sent")
        given_up = mail(tx, OLD, "dead")
        written = {mail(tx, OLD, "due"), mail(tx, NOW, "sent"), given_up}
        document(tx, OLD, files["a"])
        document(tx, OLD, files["b"])
        drawn = {document(tx, NOW, files["b"]), document(tx, OLD, None, "due"), document(tx, NOW, files["c"])}
        dealt_with = letter(tx, OLD, "inbox", "evt_gone", resolved_at=OLD)
        letters = {letter(tx, OLD, "mails", given_up), letter(tx, OLD, "inbox", "evt_late", resolved_at=NOW)}
        job = {"kind": "replay", "since": OLD, "until": OLD, "cursor": "", "created_by": "me", "created_at": OLD}
        add(tx, replays, "rpl", OLD, state="done", due_at=OLD, **job)
        jobs = {add(tx, replays, "rpl", OLD, state="due", due_at=OLD, **job)}
        link = {"invoice_id": "inv_1", "created_at": OLD}
        add(tx, hosted_links, "lnk", OLD, digest=b"1", expires_at=OLD, **link)
        links = {add(tx, hosted_links, "lnk", OLD, digest=b"2", expires_at=NOW, **link)}
    prune(database, objects)
    assert ids(database, inbox) == events
    assert ids(database, inbox_conflicts) == set()
    assert ids(database, deliveries) == kept
    assert ids(database, messages) == {waiting, young}
    assert ids(database, mails) == written
    assert ids(database, documents) == drawn
    assert [objects.find(files[name]) is None for name in "abc"] == [True, False, False], "b is a younger one's too"
    assert letters <= ids(database, dead_letters)
    assert dealt_with not in ids(database, dead_letters)
    assert (ids(database, replays), ids(database, hosted_links)) == (jobs, links)


def test_by_default_documents_are_kept_and_nothing_else_for_ever() -> None:
    keep = Keep.of(read_settings())
    assert keep.documents == 0
    assert all(days for table, days, _ in keep.jobs), [table for table, days, _ in keep.jobs if not days]
    with pytest.raises(SettingsError, match="BILLHOOK_KEEP_EVENTS_DAYS"):
        read_settings(keep_events_days=30)


def test_a_body_is_never_kept_longer_than_what_was_made_of_it() -> None:
    days = {table: days for table, days, _ in Keep(messages=90, deliveries=30, events=60).jobs}
    assert (days["deliveries"], days["message_rows"]) == (90, 90)
    assert {table: days for table, days, _ in Keep(messages=90, events=400).jobs}["message_rows"] == 0


def test_a_person_is_erased_but_for_what_the_law_wants(database: Database) -> None:
    ada, bob = "cus_ada", "cus_bob"
    with database.begin() as tx:
        create_merchant(tx, "a", OLD)
        for who, mail_to in ((ada, "ada@acme.test"), (bob, "bob@acme.test")):
            value = Customer(external_id=who, name=who, email=mail_to, address=Address(city="Ulm"), metadata={"k": who})
            invoice = Invoice(
                external_id=f"in_{who}",
                customer=who,
                customer_name=who,
                status="paid",
                currency="eur",
                **dict.fromkeys(("subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 0),
            )
            book.apply(tx, [book.Entry(MERCHANT, "src_1", "", Change(one, OLD)) for one in (value, invoice)], OLD)
            mail(tx, NOW, "sent", f"{who} <{mail_to.upper()}>")
            mail(tx, NOW, "due", mail_to)
            event(tx, NOW, "processed", b'{"customer":"%s"}' % who.encode())
        endpoint = endpoint_of(tx, MERCHANT, OLD)
        about_ada = said(tx, MERCHANT, NOW, body=b'{"email":"ada@acme.test"}', customer=ada)
        about_bob = said(tx, MERCHANT, NOW, body=b'{"email":"bob@acme.test"}', customer=bob)
        ended = sent(tx, endpoint, about_ada, NOW, "due")
        elsewhere = create_merchant(tx, "b", OLD).id
        same = Customer(external_id=ada, name="another's", email="ada@acme.test")
        book.apply(tx, [book.Entry(elsewhere, "src_2", "", Change(same, OLD))], OLD)
    needles = [ada.encode(), b"ada@acme.test"]
    assert sum(erasure.delete_events(database, MERCHANT, needles)) == 1
    assert sum(erasure.empty_messages(database, MERCHANT, needles, NOW)) == 1
    with database.begin() as tx:
        assert erasure.delete_mails(tx, MERCHANT, "ada@acme.test") == 2
        assert erasure.blank(tx, MERCHANT, ada) == 1
        row = erasure.find_customer(tx, MERCHANT, ada)
        other = erasure.find_customer(tx, MERCHANT, bob)
        assert row is not None
        assert other is not None
        assert [row[name] for name in ("name", "email", "address", "metadata")] == [None, None, None, {}]
        assert (other["name"], other["metadata"]) == (bob, {"k": bob})
        assert erasure.kept(tx, MERCHANT, ada)["invoices"] == 1
        theirs = erasure.find_customer(tx, elsewhere, ada)
        assert theirs is not None
        assert theirs["name"] == "another's"
        [bill] = book.list_objects(tx, "invoice", merchant_id=MERCHANT, customer=ada)
        assert bill["customer_name"] == ada, "an invoice stays as it was issued"
        assert len(tx.execute(sa.select(mails.c.id)).all()) == 2
        bodies = {row.id: row.body for row in tx.execute(sa.select(messages.c.id, messages.c.body))}
        assert bytes(bodies[about_ada]) == b""
        assert b"bob" in bytes(bodies[about_bob])
        assert tx.execute(sa.select(deliveries.c.state).where(deliveries.c.id == ended)).scalar() == "expired"
        assert len(tx.execute(sa.select(inbox.c.id)).all()) == 1
