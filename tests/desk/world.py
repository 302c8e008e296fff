"""The desk on a port of its own, and two merchants who each have one of everything."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import uvicorn

from billhook.actions import invoices
from billhook.actions.endpoints import register_endpoint
from billhook.actions.reconciliation import begin_run, run_of
from billhook.actions.sources import register_source
from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.invoice import Invoice, InvoiceLine
from billhook.rules.document import Seller, Snapshot
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.invoice import snapshot_of
from billhook.rules.terms import CreditLine, CreditTerms, Terms
from billhook.runtime.clock import Clock
from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import read_settings
from billhook.store import book, dead_letters, work
from billhook.store.database import Database
from billhook.store.deliveries import Attempt, NewDelivery, add_attempts, add_deliveries
from billhook.store.documents import NewDocument, Rendered, add_documents, documents, list_documents, set_files
from billhook.store.dunning_cases import Case, add_case
from billhook.store.dunning_policies import set_policy
from billhook.store.inbox import Arrival, accept, inbox
from billhook.store.links import create_link
from billhook.store.merchant_views import add_merchant_view
from billhook.store.merchants import create_key, create_merchant, get_merchant
from billhook.store.messages import Message, add_messages
from billhook.store.reconciliation import Finding, add_finding
from billhook.store.replays import create_replay
from billhook.store.schema import new_id
from billhook.store.templates import create_template
from billhook.store.vault import new_key
from billhook_testing.clock import ManualClock
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.prompt_server import PromptServer
from services.desk.app import build

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
OPERATOR = "bh_the-operators-own"
PDF = b"%PDF-1.4 a small one"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""The smallest logo."""


class Desk:
    """The desk as a caller sees it."""

    def __init__(self, env: Env, address: str) -> None:
        self.env = env
        self.address = address
        # One connection for all that follows, which is a third of a request's price; but no cookies, and no netrc.
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def cookie(self, name: str) -> str:
        """What one of its cookies is called: see `services/desk/console/cookies.py`."""
        return f"{name}_{self.address.rpartition(':')[2]}"

    def close(self) -> None:
        self._session.close()

    def ask(
        self, method: str, path: str, key: str | None = OPERATOR, headers: Mapping[str, str] = {}, **request: Any
    ) -> requests.Response:
        own = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self._session.request(method, self.address + path, headers={**headers, **own}, timeout=30, **request)

    def get(self, path: str, key: str | None = OPERATOR, **query: Any) -> requests.Response:
        return self.ask("GET", path, key, params=query)

    def post(self, path: str, body: Any = None, key: str | None = OPERATOR, **query: Any) -> requests.Response:
        return self.ask("POST", path, key, json=body, params=query)


def new_env(url: str, var: Path, clock: Clock = lambda: NOW, **chosen: Any) -> Env:
    settings = read_settings(
        **{"var": var, "database_url": url, "operator_key": OPERATOR, "encryption_keys": new_key(), **chosen}
    )
    return Env(settings, clock=clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def desk(database: Database, tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, clock)
    with serving(env) as found:
        yield found
    env.close()


def made(answer: requests.Response) -> Any:
    assert answer.status_code == 201, answer.text
    return answer.json()


def refused(answer: requests.Response, status: int, code: str, *words: str) -> None:
    assert answer.status_code == status, answer.text
    problem = answer.json()["error"]
    assert problem["code"] == code, answer.text
    for word in words:
        assert word in problem["message"]


class serving:
    """The desk's server in a thread, for as long as the block lasts."""

    def __init__(self, env: Env) -> None:
        self._env = env
        # It listens before the server runs, so that the first request waits for the server and nobody else has to.
        # The protocol is named so that asyncio turns Nagle's delay off: 40 ms a request otherwise.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)
        app = build(env, Health())
        config = uvicorn.Config(app, log_config=None, lifespan="on", loop="asyncio", proxy_headers=False)
        self._server = PromptServer(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> Desk:
        self._thread.start()
        self._desk = Desk(self._env, f"http://127.0.0.1:{self._socket.getsockname()[1]}")
        return self._desk

    def __exit__(self, *_: object) -> None:
        self._desk.close()
        self._server.end()
        self._thread.join()
        self._socket.close()


@dataclass(frozen=True)
class Belongings:
    """A merchant, a key of theirs, and the id of one of each thing they have, under the names that paths use."""

    merchant_id: str
    key: str
    ids: dict[str, str]


@dataclass(frozen=True)
class World:
    ours: Belongings
    theirs: Belongings


@pytest.fixture
def world(desk: Desk) -> World:
    return World(settle(desk.env, "Ours"), settle(desk.env, "Theirs"))


def settle(env: Env, name: str) -> Belongings:
    """A merchant with one of everything."""
    with env.database.begin() as tx:
        merchant = create_merchant(tx, name, NOW)
        key_id, key = create_key(tx, merchant.id, "program", NOW)
        spare_id, _ = create_key(tx, merchant.id, "spare", NOW)
        source, _ = register_source(
            tx, env.vault, NOW, merchant_id=merchant.id, provider="standard", name=f"{name}'s billing"
        )
        endpoint, _ = register_endpoint(env, tx, merchant.id, url="https://example.com/hook", now=NOW)
    ids = {
        "merchant_id": merchant.id,
        "key_id": spare_id,
        "own_key_id": key_id,
        "source_id": source.id,
        "endpoint_id": endpoint.id,
        "kind": "customer",
    }
    ids["event_id"] = add_event(env, merchant.id, source.id, "evt_1")
    ids["dead_letter_id"] = add_letter(env, merchant.id, source.id, "evt_2")
    ids["object_id"] = add_to_book(
        env, merchant.id, source.id, Customer(external_id="cus_1", name=f"A customer of {name}")
    )
    ids["customer_id"] = ids["object_id"]
    invoice = new_invoice()
    ids["invoice_id"] = add_to_book(env, merchant.id, source.id, invoice)
    add_ready_document(
        env, merchant.id, ids["invoice_id"], snapshot_of(invoice, kind="invoice", seller=Seller(name=name))
    )
    own = own_invoice(env, merchant.id, finalized=True)
    with env.database.begin() as tx:
        ids["template_id"] = create_template(tx, merchant.id, "plain", "{{ document.name }}", NOW).id
        note = invoices.credit(
            tx, own, CreditTerms(lines=(CreditLine(line=0, amount=100),)), now=env.clock()
        ).credit_note
        assert note is not None
        ids["credit_note_id"] = note.id
        view, _ = add_merchant_view(
            tx, merchant.id, may_change=True, embed_origins=(), expires_at=NOW + timedelta(days=1), by=key_id, now=NOW
        )
        ids["view_id"] = view.id
        ids["link_id"], _ = create_link(tx, merchant.id, ids["invoice_id"], NOW + timedelta(days=1), NOW)
    add_ready_document(env, merchant.id, note.id, msgspec.json.decode(note.snapshot, type=Snapshot))
    with env.database.begin() as tx:
        message = Message(
            new_id("msg"),
            merchant.id,
            "invoice.paid",
            "invoice",
            ids["invoice_id"],
            b'{"type":"invoice.paid"}',
            ids["event_id"],
            0,
            NOW,
        )
        add_messages(tx, [message], NOW)
        [delivery] = add_deliveries(tx, [NewDelivery(merchant.id, message.id, endpoint.id)], NOW)
        answer = Attempt(merchant.id, delivery, 1, NOW, 12, "5xx", 500, None, b"\xff oh", (("Server", "old"),))
        add_attempts(tx, [answer])
    return Belongings(merchant.id, key, {**ids, "message_id": message.id, "delivery_id": delivery})


def add_ready_document(env: Env, merchant_id: str, subject_id: str, snapshot: Snapshot) -> None:
    """A document as the invoicer leaves it, whether it was asked for already or not."""
    key = f"documents/{merchant_id}.pdf"
    digest = env.objects.put_once(key, PDF)
    new = NewDocument(merchant_id, subject_id, snapshot.kind, snapshot.template, msgspec.json.encode(snapshot))
    with env.database.begin() as tx:
        add_documents(tx, [new], NOW)
        [document] = [row["id"] for row in list_documents(tx, subject_id) if row["template"] == snapshot.template]
        set_files(tx, [Rendered(document, key, digest, len(PDF), "typst")])
        work.finish(tx, documents, [document], "ready", NOW)


TERMS: dict[str, Any] = {
    "currency": "eur",
    "buyer": {"name": "A buyer", "email": "buyer@example.com"},
    "lines": [{"description": "Seats", "quantity": "2", "unit_amount": "500", "tax": {"percent": "19"}}],
}


def own_invoice(env: Env, merchant_id: str, *, finalized: bool) -> str:
    """A draft of theirs, or an open invoice; returns its id."""
    with env.database.begin() as tx:
        merchant = get_merchant(tx, merchant_id)
        assert merchant is not None
        invoice = invoices.draft(tx, merchant, invoices.check(msgspec.convert(TERMS, Terms)), now=env.clock()).invoice
        if finalized:
            invoices.finalize(tx, invoice.id, now=env.clock())
    return invoice.id


STATES = {
    "PUT /v1/invoices/{invoice_id}": False,
    "DELETE /v1/invoices/{invoice_id}": False,
    "POST /v1/invoices/{invoice_id}/finalize": False,
    "POST /v1/invoices/{invoice_id}/pay": True,
    "POST /v1/invoices/{invoice_id}/void": True,
    "POST /v1/invoices/{invoice_id}/write-off": True,
    "POST /v1/invoices/{invoice_id}/credit-notes": True,
    "POST /v1/invoices/{invoice_id}/send": True,
}
"""Routes that do something with an own invoice: is it final when they do."""


def ids_for(env: Env, route: str, whose: Belongings) -> dict[str, str]:
    """The ids that paths name; where the route does something with an own invoice, a fresh one that it fits, and where
    it decides a finding, one that is still open."""
    if "{case_id}" in route:
        return {**whose.ids, "case_id": open_case(env, whose)}
    if "{finding_id}/" in route:
        return {**whose.ids, "finding_id": open_finding(env, whose)}
    if route not in STATES:
        return whose.ids
    return {**whose.ids, "invoice_id": own_invoice(env, whose.merchant_id, finalized=STATES[route])}


def open_case(env: Env, whose: Belongings, **fields: Any) -> str:
    """A dunning case of a fresh invoice."""
    with env.database.begin() as tx:
        version = set_policy(tx, whose.merchant_id, "merchant", "", PRESETS["polar"], NOW, by="ada")
        invoice = new_id("in")
        values: dict[str, Any] = {
            "id": new_id("case"),
            "merchant_id": whose.merchant_id,
            "source_id": whose.ids["source_id"],
            "account": "",
            "invoice_id": f"inv_{invoice}",
            "invoice": invoice,
            "customer": "cus_1",
            "currency": "eur",
            "amount": 1000,
            "policy_id": version.id,
            "zone": "UTC",
            "stage": "grace",
            "owing": True,
            "opened_at": NOW,
            "grace_until": NOW + timedelta(days=7),
            "ends_at": NOW + timedelta(days=21),
            "created_at": NOW,
        }
        case = Case(**{**values, **fields})
        add_case(tx, case, NOW)
    return case.id


def add_replay(env: Env, whose: Belongings) -> None:
    """A job of theirs, under the name that paths use."""
    with env.database.begin() as tx:
        job = create_replay(tx, whose.merchant_id, kind="replay", by=whose.ids["own_key_id"], now=NOW)
    whose.ids["replay_id"] = job.id


def add_reconciliation(env: Env, whose: Belongings, fake: FakeStripe) -> None:
    """A source of theirs that can be asked, a run over it and what that found, under the names that paths use."""
    with env.database.begin() as tx:
        source, _ = register_source(
            tx,
            env.vault,
            NOW,
            merchant_id=whose.merchant_id,
            provider="stripe",
            name="asked",
            secret="whsec_s",
            api_key=fake.api_key,
            api_base=fake.url,
        )
        run_id = begin_run(tx, run_of(source, NOW - timedelta(days=1), NOW, by=whose.ids["own_key_id"]), NOW)
    whose.ids.update(asked_source_id=source.id, run_id=run_id)
    whose.ids["finding_id"] = open_finding(env, whose)


def open_finding(env: Env, whose: Belongings) -> str:
    """A finding of their run, about an invoice of its own."""
    finding = Finding(
        id=new_id("fnd"),
        merchant_id=whose.merchant_id,
        source_id=whose.ids["asked_source_id"],
        kind="invoice",
        external_id=new_id("in"),
        finding_class="amount_mismatch",
        state="confirmed",
        differences={"total": [1, 2]},
        seen={},
        local_version="",
        amount=2,
        currency="eur",
        run_id=whose.ids["run_id"],
        suspected_by=None,
        first_seen_at=NOW,
        last_seen_at=NOW,
        decided_by=None,
        decided_at=None,
    )
    with env.database.begin() as tx:
        add_finding(tx, finding)
    return finding.id


def new_invoice(**changed: Any) -> Invoice:
    line = InvoiceLine(external_id="il_1", description="Seats", quantity="2", unit_amount="500", amount=1000)
    fields: dict[str, Any] = {
        "external_id": "in_1",
        "number": 'A "quoted"/../name-0001',
        "customer": "cus_1",
        "status": "open",
        "currency": "eur",
        "subtotal": 1000,
        "total": 1000,
        "amount_due": 1000,
        "amount_paid": 0,
        "amount_remaining": 1000,
        "finalized_at": NOW,
        "lines": (line,),
    }
    return Invoice(**{**fields, **changed})


def add_to_book(env: Env, merchant_id: str, source_id: str, value: Any, *, livemode: bool = True) -> str:
    entry = book.Entry(merchant_id, source_id, "", Change(value, NOW), livemode)
    with env.database.begin() as tx:
        book.apply(tx, [entry], NOW)
    return entry.id


def add_event(env: Env, merchant_id: str, source_id: str, external_id: str, body: bytes = b'{"a": 1}') -> str:
    arrival = Arrival(
        new_id("evt"),
        merchant_id,
        source_id,
        "",
        external_id,
        "invoice.paid",
        b'{"webhook-id":"evt"}',
        body,
        hashlib.sha256(body).digest(),
        NOW,
    )
    with env.database.begin() as tx:
        [receipt] = accept(tx, [arrival], NOW)
    return receipt.id


def add_letter(env: Env, merchant_id: str, source_id: str, external_id: str) -> str:
    """An event that failed for good; returns its dead letter's id."""
    event_id = add_event(env, merchant_id, source_id, external_id)
    with env.database.begin() as tx:
        work.give_up(tx, inbox, [(event_id, "cannot be understood")], NOW)
        dead_letters.bury(tx, "inbox", [dead_letters.DeadLetter(merchant_id, event_id, "cannot be understood", 3)], NOW)
        return str(dead_letters.list_dead(tx, merchant_id=merchant_id)[0]["id"])
