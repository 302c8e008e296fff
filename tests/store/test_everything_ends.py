"""Whatever grows has an end of its time, and what is not over yet, or is kept by law, outlives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW, TABLES
from store.history import delivery, endpoint_of, made, said, sent, tried

from billhook.errors import SettingsError
from billhook.metrics import Metrics
from billhook.outlets.objects import Objects, document_key, open_objects
from billhook.parts import Parts
from billhook.rules.book.change import Change
from billhook.rules.book.checkout import CheckoutSession
from billhook.rules.book.customer import Address, Customer
from billhook.rules.book.invoice import Invoice
from billhook.rules.erasing import traces_of
from billhook.runtime.settings import read_settings
from billhook.store import book, erasure
from billhook.store.database import Database, Tx
from billhook.store.dead_letters import dead_letters
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.dunning_cases import dunning_cases, dunning_steps
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.links import hosted_links
from billhook.store.mails import mails
from billhook.store.merchants import create_merchant
from billhook.store.messages import messages
from billhook.store.operator_actions import operator_actions
from billhook.store.publications import UsedKey, add_used_keys
from billhook.store.reconciliation import NewRun, add_run, reconciliation_findings, reconciliation_runs
from billhook.store.replays import replays
from billhook_testing.clock import ManualClock
from services.relay.pruning import Keep, Pruner

OLD = NOW - timedelta(days=100, milliseconds=1)
KEEP = Keep(attempts=100, messages=100, deliveries=100, events=100, mails=100, documents=100, records=100)
MERCHANT = "mrc_a"

THE_BOOK = "the book: what a provider was last heard to say of each of its objects"
THE_LAW = "issued, and kept by law"
SET_UP = "made by people, one by one"
OF_CASE = "one a failed invoice: it is not dunned a second time, and how it ended is shown beside the invoice"
KEPT = {
    **{table.name: THE_BOOK for table in book.TABLES.values()},
    **dict.fromkeys(("own_invoices", "own_credit_notes"), THE_LAW),
    **dict.fromkeys(("merchants", "api_keys", "sources", "endpoints", "operators", "passkeys"), SET_UP),
    **dict.fromkeys(("templates", "dunning_policies", "queue_pauses"), SET_UP),
    "number_series": "one a series, and the law wants no gap",
    "provider_limits": "one an account at a provider",
    "customer_standings": "one a customer",
    "connected_accounts": "one an account",
    "file_walks": "one a merchant",
    "dunning_cases": OF_CASE,
    "payment_attempts": OF_CASE,
}
"""Tables that are not pruned, each with its reason."""

WITH_THE_NEXT = {"operator_sessions", "sign_ins", "passkey_challenges", "merchant_views"}
"""What is over goes when another one is made."""


def add(tx: Tx, table: sa.Table, prefix: str, at: datetime, /, **values: Any) -> str:
    row_id = made(prefix, at)
    tx.execute(table.insert().values(id=row_id, merchant_id=MERCHANT, **values))
    return row_id


def event(tx: Tx, at: datetime, state: str, body: bytes = b"{}") -> str:
    external_id = made("x", at)
    fixed = {"source_id": "src_1", "account": "", "type": "t", "headers": b"{}", "sha256": b"", "due_at": at}
    return add(tx, inbox, "evt", at, external_id=external_id, body=body, received_at=at, state=state, **fixed)


def mail(tx: Tx, at: datetime, state: str, to: str = "ada@acme.test", html: str | None = None) -> str:
    about = made("x", at)
    fixed = {"subject": "s", "body": "b", "attachments": [], "message_id": "m", "due_at": at, "created_at": at}
    return add(tx, mails, "mail", at, recipient=to, about=about, state=state, html=html, **fixed)


def document(tx: Tx, at: datetime, key: str | None, state: str = "ready") -> str:
    subject = made("inv", at)
    fixed = {"kind": "invoice", "template": "x", "snapshot": b"{}", "e_invoice": False, "created_at": at, "due_at": at}
    return add(tx, documents, "doc", at, subject_id=subject, object_key=key, state=state, **fixed)


def letter(tx: Tx, at: datetime, queue: str, work_id: str, resolved_at: datetime | None = None) -> str:
    fixed = {"reason": "r", "attempts": 1, "created_at": at}
    return add(tx, dead_letters, "dlq", at, queue=queue, work_id=work_id, resolved_at=resolved_at, **fixed)


def finding(tx: Tx, kind: str, external_id: str, at: datetime = NOW, state: str = "confirmed", says: str = "") -> str:
    of = {"source_id": "src_1", "kind": kind, "external_id": external_id, "finding_class": "missing_local"}
    fixed = {"differences": {"email": [says, None]}, "seen": {}, "local_version": "", "run_id": "rec_1"}
    times = {"first_seen_at": at, "last_seen_at": at}
    return add(tx, reconciliation_findings, "fnd", at, state=state, **of, **fixed, **times)


def case(tx: Tx, invoice_id: str, closed_at: datetime | None) -> str:
    of = {"source_id": "src_1", "account": "", "invoice_id": invoice_id, "invoice": "in_1", "policy_id": "pol_1"}
    figures = dict.fromkeys(("amount", "policy_attempts", "reminders", "attempt_reminders"), 0)
    times = dict.fromkeys(("opened_at", "grace_until", "ends_at", "created_at", "due_at"), OLD)
    at_stage = {"stage": "recovered", "owing": False, "try_at_once": False, "final_action": "none", "state": "done"}
    rest = {**of, **figures, **times, **at_stage, "currency": "eur", "zone": "UTC", "closed_at": closed_at}
    return add(tx, dunning_cases, "dun", OLD, **rest)


def step(tx: Tx, at: datetime, case_id: str) -> str:
    return add(tx, dunning_steps, "dstep", at, case_id=case_id, at=at, cause="c", stage="s")


def ids(database: Database, table: sa.Table) -> set[str]:
    with database.read() as tx:
        return set(tx.execute(sa.select(table.c.id)).scalars())


@contextmanager
def deleted_from(database: Database) -> Iterator[set[str]]:
    """The tables of which rows are deleted meanwhile."""
    tables: set[str] = set()

    def hear(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if found := re.match(r"DELETE FROM (\w+)", statement):
            tables.add(found[1])

    sa.event.listen(database.engine, "before_cursor_execute", hear)
    try:
        yield tables
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", hear)


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
        discarded, waits = event(tx, OLD, "dead"), event(tx, OLD, "dead")
        letter(tx, OLD, "inbox", discarded, resolved_at=NOW)
        letter(tx, OLD, "inbox", waits)
        events = {event(tx, OLD, "due"), waits, event(tx, NOW, "processed")}
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
        dead_job = add(tx, replays, "rpl", OLD, state="dead", due_at=OLD, **job)
        letter(tx, OLD, "replays", dead_job)
        jobs = {add(tx, replays, "rpl", OLD, state="due", due_at=OLD, **job), dead_job}
        link = {"invoice_id": "inv_1", "created_at": OLD}
        add(tx, hosted_links, "lnk", OLD, digest=b"1", expires_at=OLD, **link)
        links = {add(tx, hosted_links, "lnk", OLD, digest=b"2", expires_at=NOW, **link)}
        finding(tx, "invoice", "in_1", OLD, "repaired")
        findings = {finding(tx, "invoice", "in_2", OLD, "confirmed"), finding(tx, "invoice", "in_3", NOW, "accepted")}
        step(tx, OLD, case(tx, "inv_1", OLD))
        steps = {step(tx, OLD, case(tx, "inv_2", NOW)), step(tx, OLD, case(tx, "inv_3", None))}
        did = {"by": "me", "action": "x", "subject": "s", "detail": {}}
        add(tx, operator_actions, "act", OLD, at=OLD, **did)
        actions = {add(tx, operator_actions, "act", NOW, at=NOW, **did)}
        compared = {"since": OLD, "until": OLD, "lists": ["invoice"], "repairs": True, "by": "me"}
        add_run(tx, NewRun(merchant_id=MERCHANT, source_id="src_1", **compared), OLD)
        run = {"state": "done", "id": made("rec", OLD)}
        tx.execute(sa.update(reconciliation_runs).values(**run))
        tried(tx, "dlv_1", OLD)
        add_used_keys(tx, [UsedKey(MERCHANT, "one", b"", young)], OLD)
    with deleted_from(database) as emptied:
        prune(database, objects)
    assert emptied & KEPT.keys() == set()
    assert emptied | KEPT.keys() | WITH_THE_NEXT == {table.name for table in TABLES}, "what grows, and has no end?"
    assert ids(database, reconciliation_findings) == findings
    assert ids(database, dunning_steps) == steps
    assert ids(database, operator_actions) == actions
    assert ids(database, reconciliation_runs) == set()
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
    keep = Keep(messages=90, deliveries=30, events=60)
    assert (keep.deliveries_too, keep.message_rows) == (90, 90)
    assert Keep(messages=90, events=400).message_rows == 0


def test_what_is_erased_is_in_no_file_of_sqlites_any_more(database: Database) -> None:
    if not database.sqlite:
        pytest.skip("PostgreSQL vacuums by itself")
    address = "ada.hopper@acme.test"
    files = [Path(f"{database.url.database}{end}") for end in ("", "-wal")]

    def is_there() -> bool:
        return any(address.encode() in file.read_bytes() for file in files if file.exists())

    with database.begin() as tx:
        for _ in range(20):
            event(tx, NOW, "processed", f'{{"email":"{address}"}}'.encode() * 300)
            mail(tx, NOW, "sent", to=address)
    assert is_there()
    traces = traces_of([address])
    with database.overwriting():
        assert sum(erasure.delete_events(database, MERCHANT, traces)) == 20
        assert sum(erasure.delete_mails(database, MERCHANT, traces)) == 20
    assert not is_there()
    with database.begin() as tx:
        event(tx, NOW, "processed")


def test_a_person_is_erased_but_for_what_the_law_wants(database: Database) -> None:
    """Bob's id is longer by a letter, and so is his address; what is sent of Ada is spelled in every way."""
    ada, bob = "cus_ada", "cus_adam"
    mail_of = {ada: "ada@b\u00fccher.test", bob: "xada@b\u00fccher.test"}
    with database.begin() as tx:
        create_merchant(tx, "a", OLD)
        for who, mail_to in mail_of.items():
            value = Customer(external_id=who, name=who, email=mail_to, address=Address(city="Ulm"), metadata={"k": who})
            invoice = Invoice(
                external_id=f"in_{who}",
                customer=who,
                customer_name=who,
                status="paid",
                currency="eur",
                **dict.fromkeys(("subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 0),
            )
            guest = CheckoutSession(external_id=f"cs_{who}", customer_email=mail_to.upper(), customer_name=who)
            entries = [book.Entry(MERCHANT, "src_1", "", Change(one, OLD)) for one in (value, invoice, guest)]
            book.apply(tx, entries, OLD)
            mail(tx, NOW, "sent", f"{who} <{mail_to.upper()}>")
            mail(tx, NOW, "due", mail_to)
            event(tx, NOW, "processed", b'{"customer":"%s"}' % who.encode())
            finding(tx, "customer", who, says=mail_to)
        event(tx, NOW, "processed", b'{"email":"ada\\u0040b\\u00FCcher.test"}')
        event(tx, NOW, "processed", b"to=ada%40b%C3%BCcher.test")
        other = event(tx, NOW, "due")
        sealed = {"headers": b"", "sha256": b"", "received_at": NOW}
        add(tx, inbox_conflicts, "cfl", NOW, inbox_id=other, body=b'{"to":"ada@xn--bcher-kva.test"}', **sealed)
        mail(tx, NOW, "sent", "office@acme.test", html="<p>ada@b&uuml;cher.test owes</p>")
        of_invoice = finding(tx, "invoice", "in_1", says=mail_of[ada])
        finding(tx, "checkout_session", "cs_1", says=mail_of[ada])
        endpoint = endpoint_of(tx, MERCHANT, OLD)
        about_ada = said(tx, MERCHANT, NOW, body=b'{"email":"ada@b\\u00fccher.test"}', customer=bob)
        to_ada = said(tx, MERCHANT, NOW, body=b"{}", customer=ada)
        about_bob = said(tx, MERCHANT, NOW, body=b'{"email":"xada@b\\u00fccher.test"}', customer=bob)
        ended = sent(tx, endpoint, about_ada, NOW, "due")
        elsewhere = create_merchant(tx, "b", OLD).id
        same = Customer(external_id=ada, name="another's", email=mail_of[ada])
        book.apply(tx, [book.Entry(elsewhere, "src_2", "", Change(same, OLD))], OLD)
    traces = traces_of([ada, mail_of[ada]])
    assert sum(erasure.delete_events(database, MERCHANT, traces)) == 3
    assert sum(erasure.empty_messages(database, MERCHANT, traces, NOW)) == 2
    assert sum(erasure.delete_mails(database, MERCHANT, traces)) == 3
    assert sum(erasure.delete_findings(database, MERCHANT, traces)) == 2
    assert sum(erasure.blank_guests(database, MERCHANT, traces)) == 1
    with database.begin() as tx:
        assert erasure.blank(tx, MERCHANT, ada) == 1
        row = erasure.find_customer(tx, MERCHANT, ada)
        neighbour = erasure.find_customer(tx, MERCHANT, bob)
        assert row is not None
        assert neighbour is not None
        assert [row[name] for name in ("name", "email", "address", "metadata")] == [None, None, None, {}]
        assert (neighbour["name"], neighbour["metadata"]) == (bob, {"k": bob})
        assert erasure.kept(tx, MERCHANT, ada)["invoices"] == 1
        theirs = erasure.find_customer(tx, elsewhere, ada)
        assert theirs is not None
        assert theirs["name"] == "another's"
        [bill] = book.list_objects(tx, "invoice", merchant_id=MERCHANT, customer=ada)
        assert bill["customer_name"] == ada, "an invoice stays as it was issued"
        guests = {row["external_id"]: row for row in book.list_objects(tx, "checkout_session", merchant_id=MERCHANT)}
        assert guests["cs_cus_ada"]["customer_email"] is None
        assert guests["cs_cus_adam"]["customer_name"] == bob
        assert len(tx.execute(sa.select(mails.c.id)).all()) == 2
        bodies = {row.id: row.body for row in tx.execute(sa.select(messages.c.id, messages.c.body))}
        assert {bytes(bodies[one]) for one in (about_ada, to_ada)} == {b""}
        assert b"xada" in bytes(bodies[about_bob])
        assert tx.execute(sa.select(deliveries.c.state).where(deliveries.c.id == ended)).scalar() == "expired"
        assert len(tx.execute(sa.select(inbox.c.id)).all()) == 2
        assert tx.execute(sa.select(inbox_conflicts.c.id)).all() == []
        found = {row.external_id: row.id for row in tx.execute(sa.select(reconciliation_findings))}
        assert set(found) == {"cus_adam", "in_1"}
        assert found["in_1"] == of_invoice, "it is about money, and has its own end"
