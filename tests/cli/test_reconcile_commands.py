"""`billhook reconcile …`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cli.shell import Shell

from billhook.metrics import Metrics
from billhook.outlets.objects import DirectoryObjects
from billhook.queue.steps import Steps
from billhook.runtime.clock import system_clock
from billhook.runtime.provider_apis import ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store.held_objects import held_objects
from billhook.store.sources import sources
from billhook_testing.fake_stripe import FakeClock, FakeStripe
from services.bookkeeper.posting import Posting
from services.reconciler.running import Reconciling


class Silence:
    def ring_all(self, rings: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe(clock=FakeClock.standing(system_clock() - timedelta(hours=1))) as fake:
        yield fake


def source_of(shell: Shell, fake: FakeStripe) -> str:
    shell("merchants", "add", "Acme")
    options = ("--secret", "whsec_x", "--api-key", fake.api_key, "--api-base", fake.url)
    [source] = shell.json("sources", "add", "stripe", *options)
    with shell.database.begin() as tx:  # what was before is history
        tx.execute(sa.update(sources).values(created_at=system_clock() - timedelta(days=1)))
    return str(source["id"])


def work(shell: Shell) -> None:
    """What the reconciler and the bookkeeper would do."""
    metrics, settle = Metrics(), timedelta(0)
    storage = DirectoryObjects(Path(shell.database.url.database or "").parent / "objects")
    apis = ProviderApis(shell.vault, Turns(shell.database, system_clock, 1e6))
    reconciling = Reconciling(shell.database, apis, lambda: storage, metrics, system_clock, settle=settle)
    posting = Posting(shell.database, apis, system_clock)
    for _ in range(60):
        busy = Steps(reconciling, shell.database, Silence(), metrics, system_clock).run(None)
        busy += Steps(posting, shell.database, Silence(), metrics, system_clock).run(None)
        if not busy:
            return


def test_a_run_finds_what_never_came_and_the_report_says_so(shell: Shell, fake: FakeStripe) -> None:
    source_id = source_of(shell, fake)
    fake.client().v1.customers.create({"email": "lost@example.com"})
    started = shell("reconcile", "run", source_id, "--since", "7d", "--no-follow")
    run_id = started.split()[0]
    work(shell)

    assert "is done: 1 confirmed, 1 repaired." in shell("reconcile", "follow", run_id)
    report = shell("reconcile", "report")
    assert run_id in report
    assert "open: nothing" in report
    assert shell("reconcile", "findings") == "Nothing is open.\n"
    [finding] = shell.json("reconcile", "findings", "--state", "repaired")
    assert (finding["finding_class"], finding["differences"]) == ("missing_event", {"type": [None, "customer.created"]})


def test_a_finding_is_repaired_or_accepted_by_hand(shell: Shell, fake: FakeStripe) -> None:
    source_id = source_of(shell, fake)
    [customer] = [fake.client().v1.customers.create({"email": "lost@example.com"}).id]
    shell("reconcile", "run", source_id, "--since", "7d", "--no-follow", "--observe", "--list", "customer")
    work(shell)
    [finding] = shell.json("reconcile", "findings")
    assert (finding["finding_class"], finding["external_id"]) == ("missing_local", customer)
    assert "1 missing_local" in shell("reconcile", "report")

    shell("reconcile", "repair", finding["id"])
    work(shell)
    with shell.database.read() as tx:
        assert customer in held_objects(tx, source_id, "customer", [customer])
    assert "is repaired: there is nothing to decide" in shell.fails("reconcile", "accept", finding["id"])


def test_what_cannot_be_done_is_said_in_a_sentence(shell: Shell, fake: FakeStripe) -> None:
    source_id = source_of(shell, fake)
    assert "no source" in shell.fails("reconcile", "run", "src_none")
    assert "customer" in shell.fails("reconcile", "run", source_id, "--list", "galaxy")
    assert "no run" in shell.fails("reconcile", "follow", "rec_none")
    assert "no finding" in shell.fails("reconcile", "accept", "fnd_none")
    assert "no finding" in shell.fails("reconcile", "repair", "fnd_none")
    assert json.loads(json.dumps(shell.json("reconcile", "findings"))) == []


def test_history_is_imported_and_what_billhook_made_is_compared_by_command(shell: Shell, fake: FakeStripe) -> None:
    source_of(shell, fake)
    fake.client().v1.customers.create({"email": "old@example.com"})
    run_id = shell("import", "stripe", "--since", "7d", "--no-follow").split()[0]
    work(shell)
    assert "is done: " in shell("reconcile", "follow", run_id)
    [run] = shell.json("reconcile", "report")
    assert (run["mode"], run["repaired"], run["confirmed"], run["state"]) == ("import", 1, 0, "done")
    assert "paddle" in shell.fails("import", "paddle")
    [own] = shell.json("reconcile", "run", "own", "--since", "7d")
    assert (own["source_id"], own["at"]) == ("own", "documents")
    assert shell("reconcile", "findings", "--csv").startswith("id,merchant_id,source_id,kind,")
