"""What alerts warn of, brought about for real, and mended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from consumers.lifecycle import BEGAN, event, invoice
from monitoring.installation import Installation, until
from store.dunning import new_attempt, new_case
from store.test_measures import finding

from billhook.rules.dunning_policy import PRESETS
from billhook.rules.signing import new_secret
from billhook.runtime.clock import system_clock
from billhook.store import queues
from billhook.store.dead_letters import list_dead
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.dunning_cases import add_case
from billhook.store.dunning_policies import set_policy
from billhook.store.endpoints import create_endpoint, set_disabled
from billhook.store.payment_attempts import add_attempt
from billhook.store.queue_pauses import pause, resume
from billhook.store.reconciliation import reconciliation_findings
from billhook.store.sources import create_source, sources
from billhook_testing.fake_stripe import FakeStripe

LONG = timedelta(hours=4)


def break_what_waits_for_a_person(installation: Installation) -> list[str]:
    """Returns the endpoints that are for the drill alone: one that fails is soon asked too seldom for a rate."""
    installation.endpoint.status = 500
    env = installation.env
    with env.database.begin() as tx:
        sealed = env.vault.seal(new_secret("v1"))
        where = (installation.merchant_id, installation.endpoint.url, ["order.shipped"], sealed, env.clock())
        others = [create_endpoint(tx, *where).id for _ in range(8)]
        tx.execute(sa.update(sources).where(sources.c.name == "asked").values(created_at=env.clock() - LONG))
    installation.say(8, ago=LONG)
    installation.say(40)
    assert installation.post(event(90, "invoice.paid", {"id": "in_9", "object": "invoice"}, 1)) == 200
    with installation.env.database.begin() as tx:
        for number, found_class in enumerate(("status_mismatch", "missing_event")):
            row = vars(finding(installation.source_id, number, "confirmed")) | {"finding_class": found_class}
            tx.execute(reconciliation_findings.insert().values(**row))
        assert pause(tx, "replays", "a drill", installation.env.clock(), by="usr_1")
    return others


def mend_what_waits_for_a_person(installation: Installation, others: list[str]) -> None:
    now = installation.env.clock()
    installation.endpoint.status = 204
    with installation.env.database.begin() as tx:
        for letter in list_dead(tx):
            assert queues.discard(tx, letter["queue"], [letter["work_id"]], by="usr_1", now=now) == 1
        tx.execute(sa.update(reconciliation_findings).values(state="accepted"))
        tx.execute(sa.update(sources).values(created_at=now))
        assert resume(tx, "replays")
        for endpoint_id in others:
            set_disabled(tx, endpoint_id, now, "the drill is over")
    installation.say(1)


def draw_late(installation: Installation) -> None:
    """Documents that nobody was let draw for hours."""
    env = installation.env
    with env.database.begin() as tx:
        assert pause(tx, "documents", "a drill", env.clock(), by="usr_1")
    assert installation.post(event(91, "invoice.paid", invoice("in_7", "paid", paid=1190, attempts=1), BEGAN)) == 200
    until(lambda: installation.count("documents", "due") > 0)
    with env.database.begin() as tx:
        tx.execute(sa.update(documents).where(documents.c.state == "due").values(due_at=env.clock() - LONG))
        assert resume(tx, "documents")


def collect_late_without_an_answer(installation: Installation, provider: FakeStripe) -> None:
    """A payment that was to be tried hours ago, at a provider that takes it and does not say so."""
    v1, env = provider.client().v1, installation.env
    customer = v1.customers.create({"name": "Ada"})
    method = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 1900})
    draft = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    v1.invoices.finalize_invoice(str(draft.id))
    provider.faults.api("timeout_after", probability=1.0, path="/v1/invoices/", method="POST")
    now = env.clock()
    key, secret, merchant_id = env.vault.seal(provider.api_key), env.vault.seal("whsec_1"), installation.merchant_id
    with env.database.begin() as tx:
        policy = set_policy(tx, merchant_id, "merchant", "", PRESETS["polar"], now, by="usr_1").id
        asked = {"api_key": key, "api_base": provider.url}
        source = create_source(tx, merchant_id, "stripe", "collecting", secret, now, **asked).id
        case = new_case(merchant_id, str(draft.id), source_id=source, policy_id=policy, currency="usd", opened_at=now)
        far = now + timedelta(days=365)
        add_case(tx, replace(case, grace_until=far, ends_at=far), now - LONG)
        add_attempt(tx, new_attempt(case, created_at=now - LONG))


def run_an_older_version_by_a_fast_clock(installation: Installation, directory: Path) -> None:
    """The reconciler: as an installation beside ours would, that says another version of itself."""
    about = directory / "billhook-0.0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: billhook\nVersion: 0.0.1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        installation.processes["reconciler"].start_anew(lambda: system_clock() + timedelta(seconds=7))


@contextmanager
def somebody_locks_what_the_desk_reads(installation: Installation) -> Iterator[None]:
    """More visitors than it has connections wait for that."""
    stopping = threading.Event()

    def visit() -> None:
        while not stopping.is_set():
            installation.ask("desk", "/m/nobody")

    with ThreadPoolExecutor(20) as visitors, installation.env.database.begin() as tx:
        tx.execute(sa.text("LOCK TABLE merchant_views"))
        for _ in range(20):
            visitors.submit(visit)
        try:
            yield
        finally:
            stopping.set()


def leave_work_in_hand(installation: Installation) -> None:
    """As a courier does that is killed, some hours ago."""
    installation.say(3, ago=LONG)
    with installation.env.database.begin() as tx:
        late = sa.select(deliveries.c.id).where(deliveries.c.state == "due").limit(1).scalar_subquery()
        tx.execute(sa.update(deliveries).where(deliveries.c.id == late).values(token="tok_1", attempts=1))
