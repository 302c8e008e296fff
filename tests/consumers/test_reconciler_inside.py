"""What billhook's own rows do not agree on is found once, under its name, and made to agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from actions.office import TERMS
from consumers.lifecycle import life
from consumers.reconciling import steps_of
from consumers.world import World, run_until_quiet

from billhook.actions import invoices
from billhook.actions import reconciliation as verbs
from billhook.outlets.objects import DirectoryObjects
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import Invoice, InvoicePayment
from billhook.rules.book.objects import book_id
from billhook.rules.book.payment import Charge, Payment
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.payment_attempts import ATTEMPT_OF_INVOICE
from billhook.store import book, file_walks, reconciliation, sources, work
from billhook.store.book import TABLES
from billhook.store.database import Database
from billhook.store.deliveries import deliveries
from billhook.store.documents import Rendered, documents, set_files
from billhook.store.dunning_cases import dunning_cases
from billhook.store.dunning_policies import set_policy
from billhook.store.inbox import inbox
from billhook.store.merchants import get_merchant
from billhook.store.own_invoices import OWN, own_invoices
from billhook.store.reconciliation import SCHEDULE, Finding, Run
from billhook.store.schema import instant_of, new_id
from billhook.store.series import number_series
from billhook.store.work import DUE
from services.reconciler import inside

FOUND_INSIDE = ("missing_document", "corrupt_document", "double_retry_owner", "duplicate_remote", "orphan_payment")
"""The classes of findings that no provider's list shows, each planted below."""


@dataclass
class House:
    """A merchant of whom billhook has made much by itself, and nobody to ask."""

    world: World
    objects: DirectoryObjects
    root: Path
    invoices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.endpoint = self.world.endpoint("https://a.test/hook")
        self.world.clock.move(minutes=1)
        with self.world.database.begin() as tx:
            self.policy = set_policy(
                tx, self.world.merchant_id, "merchant", "", PRESETS["polar"], self.world.clock(), by="ada"
            )
        for told in life():
            self.world.arrive(self.world.stripe_source, told)
        self.world.post()
        with self.world.database.begin() as tx:  # as Stripe says it of each
            tx.execute(sa.update(TABLES["invoice"]).values(created=self.world.clock()))
        self.world.clock.at = instant_of(new_id("evt")) + timedelta(minutes=1)
        for _ in range(3):
            self.invoices.append(self.issue())
        self.world.clock.move(hours=2)
        self.draw()

    def issue(self) -> str:
        with self.world.database.begin() as tx:
            merchant = get_merchant(tx, self.world.merchant_id)
            assert merchant is not None
            draft = invoices.draft(tx, merchant, invoices.check(TERMS), now=self.world.clock()).invoice
            invoices.finalize(tx, draft.id, now=self.world.clock())
        return draft.id

    def draw(self) -> None:
        """As the invoicer would."""
        with self.world.database.begin() as tx:
            for row in tx.execute(sa.select(documents.c.id).where(documents.c.state == DUE)).scalars().all():
                content = f"%PDF of {row}".encode()
                key = f"documents/{hashlib.sha256(content).hexdigest()}.pdf"
                digest = self.objects.put_once(key, content)
                set_files(tx, [Rendered(row, key, digest, len(content), "typst")])
                work.finish(tx, documents, [row], "ready", self.world.clock())

    def reconcile(self, source_id: str, *, by: str = "test", since: datetime | None = None, **options: Any) -> Run:
        world, now = self.world, self.world.clock()
        since = since or datetime(2010, 1, 1, tzinfo=now.tzinfo)
        with world.database.begin() as tx:
            whose = world.merchant_id if source_id == OWN else sources.get_source(tx, source_id)
            assert whose is not None
            run_id = verbs.begin_run(tx, verbs.run_of(whose, since, now, by=by, **options), now)
        steps = steps_of(world, self.objects)
        for _ in range(50):
            run_until_quiet(steps)
            world.post()
            self.draw()
            with world.database.read() as tx:
                run = reconciliation.get_run(tx, run_id)
            assert run is not None
            if run.state != DUE:
                return run
            world.clock.move(seconds=max(0, (run.due_at - world.clock()).total_seconds()))
        raise AssertionError(run)

    def both(self) -> int:
        """How much two runs confirm."""
        runs = [self.reconcile(source_id) for source_id in (self.world.stripe_source, OWN)]
        assert all(run.notes == [] for run in runs), runs
        return sum(run.confirmed for run in runs)

    def findings(self, *states: str) -> list[Finding]:
        with self.world.database.read() as tx:
            wanted = states or ("suspected", "confirmed", "reopened", "repaired", "accepted")
            return reconciliation.list_findings(tx, states=wanted, limit=1000)

    def found(self, *states: str) -> list[tuple[str, str]]:
        return sorted((one.finding_class, one.kind) for one in self.findings(*states))

    def repair(self, finding: Finding) -> None:
        world = self.world
        verbs.repair_finding(world.database, world.apis, world.clock, finding, by="ada", objects=lambda: self.objects)

    def put(self, *values: Any) -> None:
        """Into the book, as a provider's events would."""
        entries = [
            book.Entry(self.world.merchant_id, self.world.stripe_source, "", Change(value, self.world.clock()))
            for value in values
        ]
        with self.world.database.begin() as tx:
            book.apply(tx, entries, self.world.clock())

    def spoil(self, table: sa.Table, *where: Any, **values: Any) -> None:
        """Edit rows as nobody should; without values, delete them."""
        with self.world.database.begin() as tx:
            edit = sa.update(table).values(**values) if values else sa.delete(table)
            assert tx.execute(edit.where(*where)).rowcount == 1


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    return House(World.begin(database), DirectoryObjects(tmp_path), tmp_path)


def open_invoice(name: str, at: datetime, **fields: Any) -> Invoice:
    amounts = dict.fromkeys(("subtotal", "total", "amount_due", "amount_remaining"), 500)
    return Invoice(
        external_id=name,
        created=at,
        number=name,
        customer="cus_1",
        status="open",
        currency="eur",
        amount_paid=0,
        attempt_count=1,
        **{**amounts, **fields},
    )


def test_every_fault_is_found_once_under_its_name_and_made_to_agree(house: House) -> None:
    assert (house.both(), house.found()) == (0, [])
    world, at = house.world, house.world.clock()
    stripe = world.stripe_source
    paid, other, third = house.invoices
    fourth, d = house.issue(), documents.c
    house.draw()
    with world.database.begin() as tx:
        merchant = get_merchant(tx, world.merchant_id)
        assert merchant is not None
        draft = invoices.draft(tx, merchant, invoices.check(TERMS), now=at).invoice.id

    # The inbox: one event was given up, another came with other bytes.
    with world.database.begin() as tx:
        [lost] = tx.execute(sa.select(inbox.c.id).where(inbox.c.external_id == "evt_1")).scalars()
    house.spoil(inbox, inbox.c.id == lost, state="dead")
    world.arrive(stripe, b'{"id": "evt_2", "type": "ping", "other": true}', external_id="evt_2")
    # Documents: one was never asked for, one has no file, one a file that is not what was stored.
    mirrored = book_id(stripe, "", open_invoice("in_1", at))
    house.spoil(documents, d.subject_id == mirrored, d.kind == "receipt")
    keys = {row[0]: house.root / row[1] for row in world.rows("documents", "subject_id", "object_key")}
    keys[other].unlink()
    keys[third].write_bytes(b"%PDF something else")
    house.spoil(documents, d.subject_id == fourth)
    # Dunning: a payment failed, and nobody looks after it.
    house.put(open_invoice("in_failed", at))
    # Payments: money came for an own invoice that does not know; an invoice was paid twice.
    metadata = {ATTEMPT_OF_INVOICE: paid}
    amounts = {"currency": "eur", "amount": 13090, "amount_received": 13090}
    house.put(Payment(external_id="pi_own", created=at, status="succeeded", metadata=metadata, **amounts))
    applied = {"invoice": "in_1", "currency": "eur", "status": "paid", "amount_paid": 1190}
    house.put(
        InvoicePayment(external_id="ip_1", created=at, payment="pi_1", **applied),
        InvoicePayment(external_id="ip_2", created=at + timedelta(seconds=1), payment="pi_2", **applied),
    )
    # Own invoices: the book has another total; a number was counted back.
    invoice = TABLES["invoice"]
    house.spoil(invoice, invoice.c.id == other, total=1)
    house.spoil(invoice, invoice.c.id == draft)
    house.spoil(number_series, number_series.c.merchant_id == world.merchant_id, last=2)
    # Messages: one has no delivery to an endpoint that wants it; another was delivered, and nobody knows how.
    with world.database.read() as tx:
        first, second = tx.execute(sa.select(deliveries.c.id).order_by(deliveries.c.id).limit(2)).scalars()
    house.spoil(deliveries, deliveries.c.id == first)
    house.spoil(deliveries, deliveries.c.id == second, state="delivered")

    by_itself = [
        # The invoice of the payment that failed has none either: the book was never told of it by an event.
        *[("missing_document", "document")] * 3,
        ("missing_document", "file"),
        ("missing_local", "delivery"),
        ("missing_local", "dunning_case"),
    ]
    by_a_person = [
        ("amount_mismatch", "own_invoice"),
        ("conflict", "inbox_conflict"),
        ("corrupt_document", "file"),
        ("duplicate_remote", "collected_payment"),
        ("missing_local", "own_invoice"),
        ("orphan_payment", "collected_payment"),
        ("status_mismatch", "delivery_attempts"),
        ("status_mismatch", "number_series"),
        ("unprocessed_event", "event"),
    ]
    world.clock.move(hours=1)
    confirmed = house.both()
    assert house.found("repaired") == by_itself
    assert house.found("confirmed") == by_a_person
    assert confirmed == len(by_itself) + len(by_a_person)
    assert (house.both(), len(house.findings())) == (0, len(by_itself) + len(by_a_person))

    for finding in house.findings("confirmed"):
        if finding.finding_class == "conflict":  # nobody can be asked
            with world.database.begin() as tx:
                verbs.accept_finding(tx, finding, by="ada", now=world.clock())
        elif finding.finding_class == "duplicate_remote":  # the money is given back at the provider
            back = {"currency": "eur", "amount": 1190, "amount_captured": 1190, "amount_refunded": 1190}
            house.put(Charge(external_id="ch_2", created=at, status="succeeded", payment="pi_2", **back))
        else:
            house.repair(finding)
    world.post()
    house.draw()
    for _ in range(2):
        # The delivery is on its way again: its case is closed when it has arrived.
        assert (house.both(), house.findings("confirmed", "reopened", "suspected")) == (0, [])
    assert [row for row in world.rows("own_invoices", "id", "state") if row[0] == paid] == [(paid, "paid")]
    assert world.rows("number_series", "last") == [(4,)]
    assert [row[1] for row in world.rows("invoices", "id", "status") if row[0] == draft] == ["draft"]
    assert {row[0] for row in world.rows("documents", "state")} == {"ready"}
    assert len(list(house.root.rglob("*.damaged-*"))) == 1
    assert [row[0] for row in world.rows("dunning_cases", "invoice")].count("in_failed") == 1
    assert world.state_of("inbox", lost)[0] == "processed"


def test_a_case_follows_its_invoice_and_has_one_owner_of_its_retries(house: House) -> None:
    world = house.world
    later = world.clock() + timedelta(days=3)
    house.put(open_invoice("in_a", world.clock()), open_invoice("in_b", world.clock()))
    world.clock.move(hours=1)
    assert house.both() == 4  # both cases are opened, and both documents are made
    i, stripe = TABLES["invoice"].c, world.stripe_source
    house.spoil(TABLES["invoice"], i.external_id == "in_a", status="paid", amount_remaining=0, amount_paid=500)
    house.spoil(TABLES["invoice"], i.external_id == "in_b", next_payment_attempt=later, amount_remaining=400)
    world.clock.move(hours=1)
    assert house.both() == 3  # the receipt is missing too
    in_a, in_b = (book_id(stripe, "", open_invoice(name, later)) for name in ("in_a", "in_b"))
    found = [one for one in house.findings() if one.kind == "dunning_case"]
    known = {one.external_id: (one.finding_class, one.state) for one in found}
    assert known == {in_a: ("status_mismatch", "repaired"), in_b: ("double_retry_owner", "confirmed")}
    stages = sa.select(dunning_cases.c.invoice, dunning_cases.c.stage).where(dunning_cases.c.source_id == stripe)
    with world.database.read() as tx:
        stage_of = {row[0]: row[1] for row in tx.execute(stages)}
    assert (stage_of["in_a"], stage_of["in_b"]) == ("recovered", "grace")
    # Somebody switches the account's own retries off, and Stripe says so.
    house.spoil(TABLES["invoice"], i.external_id == "in_b", next_payment_attempt=None)
    world.clock.move(hours=1)
    assert house.both() <= 1  # what is left of it, the amount, is another difference
    house.both()
    assert {one.state for one in house.findings()} == {"repaired"}


def test_a_number_that_is_nowhere_is_found_and_what_is_beyond_it_too(house: House) -> None:
    gone = house.invoices[1]
    house.spoil(own_invoices, own_invoices.c.id == gone)
    house.world.clock.move(hours=1)
    assert house.reconcile(OWN).confirmed == 1
    [finding] = house.findings()
    assert (finding.finding_class, finding.kind, finding.differences) == (
        "missing_local",
        "number",
        {"number": [None, 2]},
    )
    with house.world.database.begin() as tx:
        verbs.accept_finding(tx, finding, by="ada", now=house.world.clock())
    assert house.reconcile(OWN).confirmed == 0


def test_a_night_reads_a_share_of_the_files_and_goes_on_where_the_last_one_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_walks, "NIGHTS", 3)
    stored = {row[0] for row in house.world.rows("documents", "object_key")}
    read: list[str] = []
    get = house.objects.get

    def counted(key: str, sha256: str) -> bytes:
        read.append(key)
        return get(key, sha256)

    monkeypatch.setattr(house.objects, "get", counted)
    share = -(-len(stored) // 2)
    for night in range(3):
        house.world.clock.move(days=1)
        run = house.reconcile(OWN, by=SCHEDULE, lists=["files"], slot=f"night {night}")
        assert (run.state, run.notes) == ("done", [])
        assert run.compared <= share
    assert set(read) == stored
    assert len(read) <= 3 * share
    assert house.reconcile(OWN, lists=["files"]).compared == len(stored)


def test_a_storage_that_shows_nothing_is_one_fault_and_not_as_many_as_there_are_files(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "MOST_GONE", 3)
    for path in house.root.rglob("*.pdf"):
        path.unlink()
    run = house.reconcile(OWN, lists=["files"])
    assert (run.state, run.confirmed, house.found()) == ("incomplete", 0, [])
    assert "is it the right one, and mounted?" in run.notes[0]


def test_merchants_hear_of_hourly_runs_only_when_these_found_something(house: House) -> None:
    def heard() -> int:
        return [row[0] for row in house.world.rows("messages", "type")].count("reconciliation.run_completed")

    def hourly(hour: int) -> Run:
        since = house.world.clock() - timedelta(hours=3)
        return house.reconcile(OWN, by=SCHEDULE, since=since, lists=["own_invoices"], slot=f"hour {hour}")

    assert (hourly(1).confirmed, heard()) == (0, 0)
    house.reconcile(OWN, lists=["own_invoices"])
    assert heard() == 1  # somebody asked for this one
    house.reconcile(OWN, by=SCHEDULE, lists=["own_invoices"], slot="night 1")
    assert heard() == 2
    invoice = TABLES["invoice"]
    house.spoil(invoice, invoice.c.id == house.invoices[0], total=1)
    assert (hourly(2).confirmed, heard()) == (1, 3)
