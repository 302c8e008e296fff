"""What relays measure of the ledger: right figures, by small indexes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.dunning import new_case
from store.events import put
from store.history import delivery, endpoint_of, made

from billhook.errors import TryAgain, Unprocessable
from billhook.metrics import Metrics
from billhook.parts import Parts
from billhook.rules.retry import MAX_ATTEMPTS, Dead, after_failure
from billhook.store import dead_letters, measures, reconciliation, sources
from billhook.store.database import Database, Tx
from billhook.store.dead_letters import DeadLetter
from billhook.store.dunning_cases import add_case, dunning_steps
from billhook.store.endpoints import set_disabled
from billhook.store.merchants import create_merchant
from billhook.store.queue_pauses import pause
from billhook.store.reconciliation import Finding, NewRun, add_run, reconciliation_runs
from billhook_testing.clock import ManualClock
from services.relay.exporter import Exporter, pause_after

HOUR = timedelta(hours=1)


def reasons() -> list[str]:
    """As they come about."""
    worn = after_failure(TryAgain("no answer"), attempts=MAX_ATTEMPTS, now=NOW, jitter=0.0)
    refused = after_failure(Unprocessable("no such template"), attempts=1, now=NOW, jitter=0.0)
    assert isinstance(worn, Dead)
    assert isinstance(refused, Dead)
    return [worn.reason, refused.reason, "claimed 11 times and never settled: it seems to kill its worker"]


@pytest.fixture
def ledger(database: Database) -> Database:
    with database.begin() as tx:
        put_history(tx)
    put(database, 3)
    return database


def put_history(tx: Tx) -> None:
    letters = [DeadLetter("mrc_a", f"evt_{number}", reason, 11) for number, reason in enumerate(reasons())]
    dead_letters.bury(tx, "inbox", letters, NOW)
    dead_letters.bury(tx, "mails", [DeadLetter("mrc_a", "mail_1", "replayed since", 1)], NOW)
    dead_letters.resolve(tx, "mails", ["mail_1"], "replayed", "usr_1", NOW)
    assert pause(tx, "mails", "the server is down", NOW, by="usr_1")
    failing = endpoint_of(tx, "mrc_a", NOW)
    tx.execute(sa.text("UPDATE endpoints SET failing_since = created_at"))
    disabled = endpoint_of(tx, "mrc_a", NOW)
    set_disabled(tx, disabled.id, NOW, "gone")
    delivery(tx, failing, NOW, "due")
    delivery(tx, disabled, NOW, "held")
    for case in (
        new_case("mrc_a", "in_1"),
        new_case("mrc_a", "in_2", stage="recovered", closed_at=NOW - HOUR),
        new_case("mrc_a", "in_3", stage="recovered", closed_at=NOW - HOUR, currency="jpy", amount=500),
        new_case("mrc_a", "in_4", stage="exhausted", closed_at=NOW - HOUR),
        new_case("mrc_a", "in_5", stage="recovered", closed_at=NOW - 25 * HOUR),
    ):
        add_case(tx, case, NOW)
    tx.execute(sa.text("UPDATE dunning_cases SET state = 'done' WHERE closed_at IS NOT NULL"))
    for cause, ago in (("declined", 1), ("declined", 23), ("paid", 2), ("paid", 25)):
        at = NOW - ago * HOUR
        step = {"id": made("dstep", at), "merchant_id": "mrc_a", "case_id": "dun_1", "at": at, "stage": "grace"}
        tx.execute(dunning_steps.insert().values(**step, cause=cause))
    merchant = create_merchant(tx, "Acme", NOW)
    asked = sources.create_source(tx, merchant.id, "stripe", "shop", b"s", NOW - 5 * HOUR, api_key=b"k")
    sources.create_source(tx, merchant.id, "standard", "ours", b"s", NOW)
    sources.create_source(tx, merchant.id, "stripe", "new", b"s", NOW - HOUR, api_key=b"k")
    for slot, state, ended in (("a", "done", 3), ("b", "done", 2), ("c", "incomplete", 1)):
        new = NewRun(
            merchant_id=merchant.id,
            source_id=asked.id,
            since=NOW,
            until=NOW,
            lists=["events"],
            repairs=True,
            by="schedule",
            slot=slot,
        )
        run = add_run(tx, new, NOW)
        changes = {"state": state, "finished_at": NOW - ended * HOUR}
        tx.execute(sa.update(reconciliation_runs).where(reconciliation_runs.c.id == run).values(**changes))
    for number, state in enumerate(("confirmed", "reopened", "repaired", "suspected")):
        reconciliation.add_finding(tx, finding(asked.id, number, state))


def finding(source_id: str, number: int, state: str) -> Finding:
    values: dict[str, Any] = dict.fromkeys(("amount", "currency", "suspected_by", "decided_by", "decided_at"))
    return Finding(
        id=f"fnd_{number}",
        merchant_id="mrc_a",
        source_id=source_id,
        kind="invoice",
        external_id=f"in_{number}",
        finding_class="status_mismatch",
        state=state,
        differences={},
        seen={},
        local_version="",
        run_id="rec_1",
        first_seen_at=NOW,
        last_seen_at=NOW,
        **values,
    )


def test_the_figures_are_those_of_the_ledger(ledger: Database) -> None:
    with ledger.read() as tx:
        measured = measures.measure(tx, NOW + timedelta(seconds=30))
    assert measured.backlogs["inbox"].ready == 3
    assert measured.backlogs["inbox"].oldest_ready_seconds == 30.0
    assert measured.backlogs["deliveries"].ready == 1
    assert measured.backlogs["deliveries.retry"].ready == 0
    assert measured.dead_letters == {
        ("inbox", "attempts_used_up"): 1,
        ("inbox", "refused"): 1,
        ("inbox", "kills_its_worker"): 1,
    }
    assert [name for name, stopped in measured.paused.items() if stopped] == ["mails"]
    assert measured.held_deliveries == 1
    assert (measured.failing_endpoints, measured.disabled_endpoints) == (1, 1)
    assert measured.dunning_cases == {"grace": 1}
    assert measured.dunning_steps == {"declined": 2, "paid": 1}
    assert measured.dunning_ended == {"recovered": 2, "exhausted": 1}
    assert measured.recovered == {"eur": 19.0, "jpy": 500.0}
    assert measured.findings == {"status_mismatch": 2}
    assert measured.reconciliation_ages == {"shop": 2 * 3600 + 30.0, "new": 3600 + 30.0}
    assert measured.schema >= 17


def test_no_table_that_grows_is_scanned(ledger: Database) -> None:
    asked: list[tuple[str, Any]] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(ledger.engine, "before_cursor_execute", hear)
    try:
        with ledger.read() as tx:
            measures.measure(tx, NOW)
    finally:
        sa.event.remove(ledger.engine, "before_cursor_execute", hear)
    assert len(asked) > 10
    with ledger.engine.connect() as connection:
        if not ledger.sqlite:
            # The planner would scan tables as small as these; forbidden, it shows whether it has another way.
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in asked:
            explain = "EXPLAIN QUERY PLAN" if ledger.sqlite else "EXPLAIN"
            plan = [str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)]
            scans = [line for line in plan if is_scan(line)]
            assert not scans, f"{statement}\n{plan}"


def is_scan(line: str) -> bool:
    """Of a table that grows with the history. Sources are few, and read by their primary key until there are enough; a
    queue has one pause at most."""
    if any(name in line for name in ("alembic_version", "sources", "queue_pauses")):
        return False
    if "SCAN " in line:
        return not any(word in line for word in ("INDEX", "anon_", "CONSTANT"))
    return "Seq Scan" in line


def exporter(database: Database) -> tuple[Exporter, Metrics]:
    metrics = Metrics()
    return Exporter(database, metrics, ManualClock(NOW + timedelta(seconds=30)), Parts()), metrics


def test_what_cannot_be_read_is_not_exported(ledger: Database) -> None:
    reading, metrics = exporter(ledger)
    reading.read()
    exported = metrics.exported().decode()
    assert 'billhook_queue_oldest_ready_age_seconds{queue="inbox"} 30.0' in exported
    assert 'billhook_dead_letters_open{queue="inbox",reason="refused"} 1.0' in exported
    assert 'billhook_dead_letters_open{queue="mails",reason="refused"} 0.0' in exported, "so that a first one shows"
    with ledger.begin() as tx:
        tx.execute(sa.text("ALTER TABLE reconciliation_findings RENAME TO elsewhere"))
    try:
        reading.read()
        assert "billhook_" not in metrics.exported().decode()
    finally:
        with ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE elsewhere RENAME TO reconciliation_findings"))
    reading.read()
    assert 'billhook_queue_oldest_ready_age_seconds{queue="inbox"} 30.0' in metrics.exported().decode()


def test_measuring_takes_no_more_than_its_share_of_the_time() -> None:
    assert [pause_after(took) for took in (0.0, 0.08, 0.25, 4.0)] == [5.0, 5.0, 12.5, 30.0]


def test_a_series_ends_with_what_it_was_of(ledger: Database) -> None:
    reading, metrics = exporter(ledger)
    reading.read()
    assert 'billhook_dunning_recovered_amount{currency="jpy"} 500.0' in metrics.exported().decode()
    with ledger.begin() as tx:
        tx.execute(sa.text("DELETE FROM dunning_cases"))
    reading.read()
    exported = metrics.exported().decode()
    assert "jpy" not in exported
    assert 'billhook_dunning_ended_cases{stage="recovered"} 0.0' in exported
