"""What is asked all the time, and what a database means to do about it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from billhook.store import (
    book,
    dead_letters,
    limits,
    messages,
    plain_deliveries,
    retention,
    work,
)
from billhook.store import (
    deliveries as out,
)
from billhook.store import (
    inbox as came,
)
from billhook.store import statements as made_once
from billhook.store.database import Database, Rows, Run, Tx, run_in
from billhook.store.documents import list_documents
from billhook.store.endpoints import subscribers
from billhook.store.mails import next_turn, written
from billhook.store.measures import measure
from billhook.store.publications import find_used_keys
from billhook.store.queues import BELLS
from billhook.store.replay_windows import traffic
from tests.plans.history import BIG, NOW


@contextmanager
def heard(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are made meanwhile."""
    statements: list[tuple[str, Any]] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not many and re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT)", statement):
            statements.append((statement, parameters))

    def listening(run: Run) -> Run:
        """What goes past SQLAlchemy."""

        def listen(text: str, parameters: Any, /, **options: Any) -> Rows:
            statements.append((text, parameters))
            return run(text, parameters, **options)

        return listen

    lend = database.statement

    @contextmanager
    def statement() -> Iterator[Run]:
        with lend() as run:
            yield listening(run)

    sa.event.listen(database.engine, "before_cursor_execute", hear)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(database, "statement", statement)
            patched.setattr(made_once, "run_in", lambda tx: listening(run_in(tx)))
            yield statements
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", hear)


def plan(tx: Tx, statement: str, parameters: Any) -> list[str]:
    """What the database means to do."""
    if tx.dialect.name == "sqlite":
        return [row[3] for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    return [row[0] for row in tx.exec_driver_sql(f"EXPLAIN {statement}", parameters)]


def walks(tx: Tx, statement: str, parameters: Any) -> list[str]:
    """The lines of a plan that go through all of a big table."""
    all_of_it = rf"^SCAN ({'|'.join(BIG)})\b(?!.* USING )|Seq Scan on ({'|'.join(BIG)})\b"
    return [line for line in plan(tx, statement, parameters) if re.search(all_of_it, line)]


def plan_for_all(tx: Tx, statement: str, parameters: Any) -> list[str]:
    """A plan as it is made once for whatever parameters come."""
    if tx.dialect.name == "sqlite":  # which knows none when it plans
        return plan(tx, statement, parameters)
    numbers = itertools.count(1)
    prepared = re.sub("%s", lambda _: f"${next(numbers)}", statement)
    tx.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL seq_page_cost TO DEFAULT")
    tx.exec_driver_sql(f"PREPARE asked AS {prepared}")
    nothing = ", ".join(["NULL"] * len(parameters))
    made = [row[0] for row in tx.exec_driver_sql(f"EXPLAIN EXECUTE asked({nothing})")]
    tx.exec_driver_sql("DEALLOCATE asked")
    return made


OLD = NOW - timedelta(days=3)
LATER = NOW + timedelta(seconds=1)
CLAIM: dict[str, Any] = {"max_attempts": 5, "now": LATER, "lease": timedelta(seconds=5)}

HOT: dict[str, Callable[[Tx], object]] = {
    "a look at an endpoint": lambda tx: out.held_for(tx, "ep_1"),
    "deliveries of an endpoint": lambda tx: out.list_deliveries(tx, merchant_id="mrc_1", endpoint_id="ep_1", limit=50),
    "what is under way": lambda tx: out.with_others(tx, ["ep_1", "ep_2"], ["tok_1"], NOW),
    "messages of a merchant": lambda tx: messages.list_messages(tx, merchant_id="mrc_1", limit=50),
    "events of a merchant": lambda tx: came.list_events(tx, merchant_id="mrc_1", limit=50),
    "open dead letters": lambda tx: dead_letters.list_dead(tx, merchant_id="mrc_1", limit=50),
    "open dead letters of all": lambda tx: dead_letters.list_dead(tx, limit=50),
    "a claim of events": lambda tx: work.claim(tx, came.inbox, ids=None, limit=50, **CLAIM),
    "a claim of events that were rung for": lambda tx: work.claim(tx, came.inbox, ids=["evt_1"], limit=50, **CLAIM),
    "the end of events": lambda tx: [
        work.lock_claimed(tx, came.inbox, {"evt_1": "tok_1"}),
        work.finish(tx, came.inbox, ["evt_1"], "processed", NOW),
    ],
    "who hears of it": lambda tx: subscribers(tx, ["mrc_1"]),
    "a claim of deliveries": lambda tx: work.claim(
        tx, out.deliveries, ids=None, limit=50, only=out.deliveries.c.lane == "fresh", **CLAIM
    ),
    "a claim past the backlog of a full endpoint": lambda tx: work.claim(
        tx,
        out.deliveries,
        ids=None,
        limit=5,
        only=sa.and_(out.deliveries.c.lane == "fresh", out.deliveries.c.endpoint_id.not_in(["ep_1", "ep_2"])),
        **CLAIM,
    ),
    "a sweep": lambda tx: work.FirstDue({name: (it.table, it.only) for name, it in BELLS.items()}, tx.dialect).ask(
        tx.exec_driver_sql
    ),
    "what falls due next": lambda tx: work.next_due(tx, out.deliveries),
    "the state of all queues": lambda tx: work.backlogs(
        tx, [(lane.table, lane.only) for lane in BELLS.values()], now=LATER
    ),
    "what a merchant has": lambda tx: [
        limits.count_of(tx, what, "mrc_1", NOW) for what in ("drafts", "endpoints", "keys")
    ],
    "documents of an invoice": lambda tx: list_documents(tx, "inv_1"),
    "invoices of a customer": lambda tx: book.list_objects(tx, "invoice", merchant_id="mrc_1", customer="cus_1"),
    "an event that comes again": lambda tx: came.inbox_ids(tx, "src_1", "e7"),
    "the state of an object": lambda tx: book.versions(tx, [("customer", "src_1", "", "x7")]),
    "a key that was used": lambda tx: find_used_keys(tx, [("mrc_1", "k1")]),
    "messages of an event": lambda tx: messages.messages_of_event(tx, "msg_1", limit=20),
    "attempts at a delivery": lambda tx: out.list_attempts(tx, ["dlv_1"], merchant_id="mrc_1"),
    "the newest of them": lambda tx: out.newest_attempts(tx, "dlv_1", merchant_id="mrc_1", before=7, limit=20),
    "mails of a day": lambda tx: next_turn(tx, "mrc_1", 100, NOW),
    "mails about an invoice": lambda tx: written(tx, "mrc_1", ["inv_7"]),
    "the letter of a piece of work": lambda tx: dead_letters.open_letter(tx, "inbox", "evt_7"),
    "what comes in beside a replay": lambda tx: traffic(tx, NOW),
    "clocks that were ahead": lambda tx: [
        work.put_right(tx, lane.table, lane.mistimed, NOW, lane.only) for lane in BELLS.values()
    ],
    "the ledger for Prometheus": lambda tx: measure(tx, NOW),
    "old mails": lambda tx: retention.delete_mails(tx, OLD),
    "old documents": lambda tx: retention.old_documents(tx, OLD),
    "old attempts": lambda tx: retention.delete_attempts(tx, OLD),
    "old deliveries": lambda tx: retention.delete_deliveries(tx, OLD),
    "old bodies": lambda tx: retention.prune_messages(tx, OLD, NOW),
    "old messages": lambda tx: retention.delete_messages(tx, OLD),
    "old events": lambda tx: retention.delete_events(tx, OLD),
    "old letters": lambda tx: retention.delete_letters(tx, OLD),
    "old keys": lambda tx: retention.delete_idempotency_keys(tx, OLD),
}


@dataclass(frozen=True)
class Found:
    """What a database did for one question."""

    walks: Sequence[str]
    """Lines of its plans that go through all of a big table."""
    seconds: float


def ask(database: Database, question: Callable[[Tx], object]) -> Found:
    """Ask, in a transaction that is taken back, and look at the plans of all statements it took."""
    with database.begin() as tx:
        with heard(database) as statements:
            began = time.perf_counter()
            question(tx)
            seconds = time.perf_counter() - began
        assert statements
        found = [line for statement, parameters in statements for line in walks(tx, statement, parameters)]
        tx.rollback()
    return Found(found, seconds)


def claims_of_plain_deliveries(database: Database) -> list[tuple[str, Any]]:
    """The statements of the one claim that opens its transaction itself, with their parameters."""
    with heard(database) as statements:
        wanted = plain_deliveries.Wanted(
            lane="fresh", ids=None, limit=5, passing_over=["ep_1"], passing_over_all_of=["mrc_2"]
        )
        plain_deliveries.take(database, wanted, plain_deliveries.Rooms({}, 10, {}, 10), **CLAIM)
    assert statements
    return statements


def walks_of_claims(database: Database) -> list[str]:
    claims = claims_of_plain_deliveries(database)
    with database.begin() as tx:
        return [line for statement, parameters in claims for line in walks(tx, statement, parameters)]
