"""No merchant sees a row of another one, however alike their ids are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.dunning import new_case
from store.events import arrival
from store.own import new_invoice, own_credit_note, own_invoice

import billhook.store
from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.dunning_policy import PRESETS
from billhook.store import (
    book,
    dead_letters,
    deliveries,
    documents,
    dunning_cases,
    dunning_policies,
    dunning_report,
    endpoints,
    erasure,
    exports,
    failed_invoices,
    figures,
    file_walks,
    inbox,
    limits,
    links,
    mails,
    merchants,
    messages,
    operator_actions,
    own_credit_notes,
    own_invoices,
    publications,
    queues,
    reconciliation,
    replays,
    series,
    sources,
    standings,
    templates,
    work,
)
from billhook.store.database import Database, Tx
from billhook.store.schema import new_id


@dataclass(frozen=True)
class Shop:
    """A merchant with one row of everything, and the ids of those rows."""

    merchant: str
    source: str
    event: str
    customer: str
    invoice: str
    message: str
    endpoint: str
    delivery: str
    key: str
    letter: str
    replay: str
    own_invoice: str
    own_credit_note: str
    template: str
    case: str
    run: str
    finding: str


def open_shop(tx: Tx) -> Shop:
    """Each shop's provider uses the same ids as every other's."""
    merchant = merchants.create_merchant(tx, "shop", NOW).id
    key, _ = merchants.create_key(tx, merchant, "key", NOW)
    source = sources.create_source(tx, merchant, "stripe", "source", b"s", NOW).id
    [event] = inbox.accept(tx, [arrival("evt_same", merchant=merchant, source=source)], NOW)
    inbox.accept(tx, [arrival("evt_same", b"other", merchant=merchant, source=source)], NOW)
    dead_letters.bury(tx, "inbox", [dead_letters.DeadLetter(merchant, event.id, "broken", 1)], NOW)
    [letter] = dead_letters.list_dead(tx, merchant_id=merchant)
    customer = Customer(external_id="cus_same")
    entries = [customer, msgspec.structs.replace(new_invoice("in_same"), customer="cus_same", created=NOW)]
    book.apply(tx, [book.Entry(merchant, source, "", Change(entry, NOW)) for entry in entries], NOW)
    invoice = f"inv_of_{source}"
    documents.add_documents(tx, [documents.NewDocument(merchant, invoice, "invoice", "billhook-2", b"")], NOW)
    message = messages.Message(new_id("msg"), merchant, "x", "customer", "cus", b"", event.id, 0, NOW)
    failed = messages.Message.own(
        merchant, "invoice.payment_failed", "invoice", book_id(source, "", entries[1]), b"", NOW
    )
    messages.add_messages(tx, [message, failed], NOW)
    publications.add_used_keys(tx, [publications.UsedKey(merchant, "key", b"", message.id)], NOW)
    mails.add_mails(tx, [mails.NewMail(merchant, "same", "a@b.test", "s", "t")], NOW)
    endpoint = endpoints.create_endpoint(tx, merchant, "https://same.test", ["*"], b"s", NOW).id
    [delivery] = deliveries.add_deliveries(tx, [deliveries.NewDelivery(merchant, message.id, endpoint)], NOW)
    deliveries.add_attempts(tx, [deliveries.Attempt(merchant, delivery, 1, NOW, 1, "2xx", 200, None, b"")])
    replay = replays.create_replay(tx, merchant, kind="replay", by="key", now=NOW).id
    customer_id = book_id(source, "", customer)
    letter_id = str(letter["id"])
    series.count_on_from(tx, merchant, "SAME-", 1)
    own = own_invoice(merchant, number="SAME-1", series="SAME-", sequence=1)
    own_invoices.add_own_invoice(tx, own)
    note = own_credit_note(own, number="SAME-1", series="SAME-", sequence=1)
    own_credit_notes.add_own_credit_note(tx, note)
    links.create_link(tx, merchant, invoice, NOW + timedelta(days=1), NOW)
    template = templates.create_template(tx, merchant, "same", "<p>", NOW).id
    dunning_policies.set_policy(tx, merchant, "merchant", "", PRESETS["polar"], NOW, by="key")
    case = new_case(merchant, source_id=source, customer_id=customer_id, subscription="sub_same")
    dunning_cases.add_case(tx, case, NOW)
    dunning_cases.add_steps(tx, [dunning_cases.NewStep(case, "declined")], NOW)
    standings.set_standings(tx, merchant, {"cus_1": "grace"}, NOW)
    new_run = reconciliation.NewRun(
        merchant_id=merchant, source_id=source, since=NOW, until=NOW, lists=["events"], repairs=True, by="key"
    )
    run = reconciliation.add_run(tx, new_run, NOW)
    assert run is not None
    finding = finding_of(merchant, source, run)
    reconciliation.add_finding(tx, finding)
    return Shop(
        merchant,
        source,
        event.id,
        customer_id,
        invoice,
        message.id,
        endpoint,
        delivery,
        key,
        letter_id,
        replay,
        own.id,
        note.id,
        template,
        case.id,
        run,
        finding.id,
    )


def finding_of(merchant: str, source: str, run: str) -> reconciliation.Finding:
    return reconciliation.Finding(
        id=new_id("fnd"),
        merchant_id=merchant,
        source_id=source,
        kind="customer",
        external_id="cus_same",
        finding_class="missing_local",
        state="confirmed",
        differences={},
        seen={},
        local_version="",
        amount=None,
        currency=None,
        run_id=run,
        suspected_by=None,
        first_seen_at=NOW,
        last_seen_at=NOW,
        decided_by=None,
        decided_at=None,
    )


def stop_endpoint(tx: Tx, shop: Shop) -> Tx:
    """A delivery is dead, and its endpoint is disabled."""
    endpoints.set_disabled(tx, shop.endpoint, NOW, "by hand")
    work.give_up(tx, deliveries.deliveries, [(shop.delivery, "gave up")], NOW)
    letter = dead_letters.DeadLetter(shop.merchant, shop.delivery, "gave up", 10)
    dead_letters.bury(tx, "deliveries", [letter], NOW)
    return tx


def withdrawn(tx: Tx, merchant: str) -> list[sa.RowMapping]:
    """The mails, of all merchants, that are gone when the merchant's about what every shop has one about are."""
    before = mails.list_mails(tx, merchant_id=None)
    mails.withdraw_mails(tx, merchant, ["same"])
    left = {mail["id"] for mail in mails.list_mails(tx, merchant_id=None)}
    return [mail for mail in before if mail["id"] not in left]


def noted(tx: Tx, merchant: str) -> list[sa.RowMapping]:
    operator_actions.note_action(tx, "looked at", "x", by="test", now=NOW, merchant_id=merchant)
    return operator_actions.list_actions(tx, limit=1)


Question = Callable[[Tx, Shop, str], Any]
"""What `merchant` gets when asking for what the shop has."""

QUESTIONS: dict[str, Question] = {
    "book.get": lambda tx, shop, merchant: book.get(tx, "customer", shop.customer, merchant_id=merchant),
    "book.list_objects": lambda tx, shop, merchant: book.list_objects(tx, "customer", merchant_id=merchant),
    "dead_letters.get_dead": lambda tx, shop, merchant: dead_letters.get_dead(tx, shop.letter, merchant_id=merchant),
    "dead_letters.list_dead": lambda tx, shop, merchant: dead_letters.list_dead(tx, merchant_id=merchant),
    "deliveries.get_delivery": lambda tx, shop, merchant: deliveries.get_delivery(
        tx, shop.delivery, merchant_id=merchant
    ),
    "deliveries.list_attempts": lambda tx, shop, merchant: deliveries.list_attempts(
        tx, [shop.delivery], merchant_id=merchant
    ),
    "deliveries.newest_attempts": lambda tx, shop, merchant: deliveries.newest_attempts(
        tx, shop.delivery, merchant_id=merchant, limit=10
    ),
    "deliveries.list_deliveries": lambda tx, shop, merchant: deliveries.list_deliveries(tx, merchant_id=merchant),
    "documents.list_documents": lambda tx, shop, merchant: documents.list_documents(
        tx, shop.invoice, merchant_id=merchant
    ),
    "documents.latest_document": lambda tx, shop, merchant: documents.latest_document(
        tx, shop.invoice, "invoice", merchant_id=merchant
    ),
    "file_walks.count_documents": lambda tx, shop, merchant: one(file_walks.count_documents(tx, merchant), merchant),
    "file_walks.next_documents": lambda tx, shop, merchant: [
        dict(row) for row in documents.documents_by_id(tx, file_walks.next_documents(tx, merchant, 10))
    ],
    "dunning_cases.debts_of": lambda tx, shop, merchant: [
        dunning_cases.get_case(tx, debt.case) for debt in dunning_cases.debts_of(tx, merchant, ["cus_1"])["cus_1"]
    ],
    "dunning_cases.debts": lambda tx, shop, merchant: [
        dunning_cases.get_case(tx, debt.case) for debt in dunning_cases.debts(tx, merchant, "cus_1")
    ],
    "dunning_cases.get_case": lambda tx, shop, merchant: dunning_cases.get_case(tx, shop.case, merchant_id=merchant),
    "dunning_cases.list_cases": lambda tx, shop, merchant: dunning_cases.list_cases(tx, merchant_id=merchant),
    "dunning_cases.cases_concerned": lambda tx, shop, merchant: list(
        dunning_cases.cases_concerned(
            tx, [merchant], invoices=[], customers=["cus_1"], subscriptions=["sub_same"]
        ).values()
    ),
    "dunning_cases.steps_of": lambda tx, shop, merchant: [
        dunning_cases.get_case(tx, shop.case) for _ in dunning_cases.steps_of(tx, shop.case, merchant_id=merchant)
    ],
    "dunning_policies.current_policies": lambda tx, shop, merchant: [
        version for found in dunning_policies.current_policies(tx, [merchant]).values() for version in found
    ],
    "endpoints.get_endpoint": lambda tx, shop, merchant: endpoints.get_endpoint(
        tx, shop.endpoint, merchant_id=merchant
    ),
    "endpoints.list_endpoints": lambda tx, shop, merchant: endpoints.list_endpoints(tx, merchant),
    "endpoints.subscribed_endpoints": lambda tx, shop, merchant: [
        endpoints.get_endpoint(tx, one.id)
        for _, found in endpoints.subscribed_endpoints(tx, [merchant]).values()
        for one in found
    ],
    "endpoints.subscribers": lambda tx, shop, merchant: [
        endpoints.get_endpoint(tx, one.id) for found in endpoints.subscribers(tx, [merchant]).values() for one in found
    ],
    "endpoints.endpoints_of_merchants": lambda tx, shop, merchant: endpoints.endpoints_of_merchants(tx, [merchant]),
    "dunning_report.dunning_report": lambda tx, shop, merchant: [
        dunning_cases.get_case(tx, shop.case)
        for count in dunning_report.dunning_report(
            tx, merchant_id=merchant, since=NOW, until=NOW, now=NOW
        ).open_cases.values()
        if merchant == shop.merchant and count == 1
    ],
    "exports.exported_ids": lambda tx, shop, merchant: exports.exported_rows(
        tx, "invoice", None, exports.exported_ids(tx, "invoice", merchant)
    ),
    "exports.exported_rows": lambda tx, shop, merchant: exports.exported_rows(
        tx, "invoice", merchant, exports.exported_ids(tx, "invoice", shop.merchant)
    ),
    "failed_invoices.failed_invoices": lambda tx, shop, merchant: failed_invoices.failed_invoices(tx, merchant),
    "inbox.get_event": lambda tx, shop, merchant: inbox.get_event(tx, shop.event, merchant_id=merchant),
    "inbox.list_conflicts": lambda tx, shop, merchant: inbox.list_conflicts(tx, merchant_id=merchant),
    "inbox.list_events": lambda tx, shop, merchant: inbox.list_events(tx, merchant_id=merchant),
    "links.list_links": lambda tx, shop, merchant: links.list_links(tx, shop.invoice, merchant_id=merchant),
    "mails.list_mails": lambda tx, shop, merchant: mails.list_mails(tx, merchant_id=merchant),
    "mails.withdraw_mails": lambda tx, shop, merchant: withdrawn(tx, merchant),
    "messages.get_message": lambda tx, shop, merchant: messages.get_message(tx, shop.message, merchant_id=merchant),
    "messages.list_messages": lambda tx, shop, merchant: messages.list_messages(tx, merchant_id=merchant),
    "own_credit_notes.get_own_credit_note": lambda tx, shop, merchant: own_credit_notes.get_own_credit_note(
        tx, shop.own_credit_note, merchant_id=merchant
    ),
    "own_credit_notes.list_own_credit_notes": lambda tx, shop, merchant: own_credit_notes.list_own_credit_notes(
        tx, shop.own_invoice, merchant_id=merchant
    ),
    "own_invoices.get_own_invoice": lambda tx, shop, merchant: own_invoices.get_own_invoice(
        tx, shop.own_invoice, merchant_id=merchant
    ),
    "own_invoices.list_own_invoices": lambda tx, shop, merchant: own_invoices.list_own_invoices(
        tx, merchant_id=merchant
    ),
    "queues.replayable": lambda tx, shop, merchant: queues.replayable(tx, merchant_id=merchant, limit=9),
    "queues.stopped": lambda tx, shop, merchant: [
        endpoints.get_endpoint(tx, one.endpoint_id)
        for one in queues.stopped(stop_endpoint(tx, shop), merchant_id=merchant)
    ],
    "reconciliation.get_finding": lambda tx, shop, merchant: reconciliation.get_finding(
        tx, shop.finding, merchant_id=merchant
    ),
    "reconciliation.open_findings": lambda tx, shop, merchant: reconciliation.open_findings(
        tx, merchant, shop.source, [finding_of(merchant, shop.source, shop.run).kind]
    ),
    "replays.event_replay": lambda tx, shop, merchant: replays.event_replay(merchant, by="test", now=NOW),
    "reconciliation.get_run": lambda tx, shop, merchant: reconciliation.get_run(tx, shop.run, merchant_id=merchant),
    "reconciliation.list_findings": lambda tx, shop, merchant: reconciliation.list_findings(tx, merchant_id=merchant),
    "reconciliation.list_runs": lambda tx, shop, merchant: reconciliation.list_runs(tx, merchant_id=merchant),
    "replays.get_replay": lambda tx, shop, merchant: replays.get_replay(tx, shop.replay, merchant_id=merchant),
    "replays.list_replays": lambda tx, shop, merchant: replays.list_replays(tx, merchant_id=merchant),
    "sources.get_source": lambda tx, shop, merchant: sources.get_source(tx, shop.source, merchant_id=merchant),
    "sources.list_sources": lambda tx, shop, merchant: sources.list_sources(tx, merchant),
    "standings.told_standings": lambda tx, shop, merchant: (
        {"merchant_id": merchant} if standings.told_standings(tx, merchant, ["cus_1"]) == {"cus_1": "grace"} else None
    ),
    "templates.get_template": lambda tx, shop, merchant: templates.get_template(
        tx, shop.template, merchant_id=merchant
    ),
    "templates.list_templates": lambda tx, shop, merchant: templates.list_templates(tx, merchant),
    "erasure.find_customer": lambda tx, shop, merchant: erasure.find_customer(tx, merchant, "cus_same"),
    "erasure.kept": lambda tx, shop, merchant: one(erasure.kept(tx, merchant, "cus_same")["invoices"], merchant),
    "limits.count_of": lambda tx, shop, merchant: one(limits.count_of(tx, "endpoints", merchant, NOW), merchant),
    "mails.written": lambda tx, shop, merchant: one(len(mails.written(tx, merchant, ["same"])), merchant),
    "mails.next_turn": lambda tx, shop, merchant: one(after_sending(tx, shop, merchant), merchant),
    "dunning_cases.newest_cases": lambda tx, shop, merchant: dunning_cases.newest_cases(
        tx, merchant_id=merchant, stage=None, before=None, limit=9
    ),
    "operator_actions.note_action": lambda tx, shop, merchant: noted(tx, merchant),
    "mails.list_mails_since": lambda tx, shop, merchant: mails.list_mails_since(tx, merchant, NOW, limit=9),
    "figures.open_letters": lambda tx, shop, merchant: one(
        sum(figures.open_letters(tx, merchant_id=merchant).values()), merchant
    ),
    "book.newest_invoices": lambda tx, shop, merchant: (
        book.newest_invoices(tx, merchant_id=merchant, status=None, number=None, before=None, limit=9).rows
    ),
    "messages.messages_about": lambda tx, shop, merchant: messages.messages_about(
        tx, "cus", merchant_id=merchant, limit=9
    ),
    "merchants.get_merchant": lambda tx, shop, merchant: merchants.get_merchant(tx, merchant),
    "merchants.list_keys": lambda tx, shop, merchant: merchants.list_keys(tx, merchant),
    "series.last_number": lambda tx, shop, merchant: one(series.last_number(tx, merchant, "SAME-"), merchant),
    "merchants.merchants_of": lambda tx, shop, merchant: list(merchants.merchants_of(tx, [merchant]).values()),
}
WRITERS = (
    "create_",
    "add_",
    "revoke_",
    "retire_",
    "set_",
    "next_number",
    "count_on",
    "blank",
    "delete_",
    "empty_",
    "lock_",
)


def one(count: int, merchant: str) -> list[dict[str, str]]:
    """What a count says of whose rows it counts: each shop has one."""
    return [{"merchant_id": merchant if count == 1 else f"{count} shops"}]


def after_sending(tx: Tx, shop: Shop, merchant: str) -> int:
    """How many mails of its own a merchant waits for, once the shop has sent its one."""
    sent = sa.update(mails.mails).where(mails.mails.c.merchant_id == shop.merchant)
    tx.execute(sent.values(state="sent", sender_name="shop", finished_at=NOW))
    return sum(mails.next_turn(tx, merchant, number, NOW) is not None for number in (1, 2))


def functions_about_a_merchant() -> set[str]:
    found = set()
    for module in pkgutil.walk_packages(billhook.store.__path__, "billhook.store."):
        if module.name.startswith("billhook.store.migrations"):
            continue
        loaded = importlib.import_module(module.name)
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            if function.__module__ != loaded.__name__ or name.startswith(("_", *WRITERS)):
                continue
            if {"merchant_id", "merchant_ids"} & set(inspect.signature(function).parameters):
                found.add(f"{module.name.removeprefix('billhook.store.')}.{name}")
    return found


def owners(answer: Any) -> set[str]:
    """The merchants whose rows are in an answer."""
    if answer is None:
        return set()
    rows: Sequence[Any] = answer if isinstance(answer, list) else [answer]
    fields: list[Mapping[str, Any]] = [asdict(row) if is_dataclass(row) else row for row in rows]  # type: ignore[arg-type]
    return {str(row["merchant_id" if "merchant_id" in row else "id"]) for row in fields}


def test_every_function_that_takes_a_merchant_is_asked_here() -> None:
    assert functions_about_a_merchant() == set(QUESTIONS), "add a question for the new function to this file"


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_merchant_gets_its_own_and_nothing_else(database: Database, name: str) -> None:
    with database.begin() as tx:
        mine, theirs = open_shop(tx), open_shop(tx)
    with database.begin() as tx:  # some lock what they find
        assert owners(QUESTIONS[name](tx, mine, mine.merchant)) == {mine.merchant}
        assert owners(QUESTIONS[name](tx, theirs, mine.merchant)) <= {mine.merchant}
