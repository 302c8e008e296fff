"""What is asked all the time stays fast however much history there is: no hot statement walks through a big table.

On tables of some thousands of rows with statistics, both databases choose as they would with millions: what they would
find by walking through all of a table here they would walk through there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.history import made

from billhook.store import (
    book,
    dead_letters,
    limits,
    merchants,
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
from billhook.store.database import Database, Tx
from billhook.store.documents import list_documents
from billhook.store.endpoints import endpoints
from billhook.store.queues import BELLS

ROWS = 6_000
BIG = ("deliveries", "delivery_attempts", "messages", "inbox", "dead_letters", "idempotency_keys")
OWNERS = 30
WORKING = 40
"""Rows that are still to be done: few, beside the history."""


def rows(prefix: str, count: int = ROWS) -> Iterator[tuple[int, str, datetime, str]]:
    """(number, id, when, whose) of so many rows, one a minute, the last of them now."""
    for number in range(count):
        at = NOW - timedelta(minutes=count - number)
        yield number, made(prefix, at), at, f"mrc_{number % OWNERS}"


def state(number: int, over: str) -> str:
    return "due" if number >= ROWS - WORKING else "held" if over == "delivered" and number % 200 == 0 else over


@pytest.fixture(scope="module")
def history(migrated: Database) -> Database:
    """Whoever has billed for a while."""
    with migrated.begin() as tx:
        for table in reversed(book.metadata.sorted_tables):
            tx.execute(table.delete())
        owners = [{"id": f"mrc_{n}", "name": "m", "created_at": NOW} for n in range(OWNERS)]
        tx.execute(merchants.merchants.insert(), owners)
        own = [
            {
                "id": f"ep_{n}",
                "merchant_id": f"mrc_{n}",
                "url": "https://a.test",
                "description": "",
                "event_types": ["*"],
                "secret": b"",
                "created_at": NOW,
            }
            for n in range(OWNERS)
        ]
        tx.execute(endpoints.insert(), own)
        said: list[dict[str, Any]] = []
        sent: list[dict[str, Any]] = []
        tried: list[dict[str, Any]] = []
        keys: list[dict[str, Any]] = []
        for (n, message_id, at, whose), (_, delivery_id, _, _) in zip(rows("msg"), rows("dlv"), strict=True):
            fixed = {"merchant_id": whose, "created_at": at}
            names = {"type": "invoice.paid", "object_kind": "invoice", "object_id": "x"}
            body = {"body": b"{}" * 100, "inbox_id": message_id, "number": 0, "occurred_at": at}
            said.append({**fixed, **names, **body, "id": message_id, "pruned_at": at if n < ROWS // 2 else None})
            work_of = {"due_at": at, "state": state(n, "delivered"), "lane": "fresh", "replayed": False}
            sent.append(
                {**fixed, **work_of, "id": delivery_id, "message_id": message_id, "endpoint_id": f"ep_{n % OWNERS}"}
            )
            attempt = {"number": 1, "started_at": at, "duration_ms": 5, "outcome": "2xx", "response": b"ok" * 50}
            tried.append({**attempt, "merchant_id": whose, "delivery_id": delivery_id, "id": made("att", at)})
            keys.append({**fixed, "idempotency_key": f"k{n}", "sha256": b"", "message_id": message_id})
        tx.execute(messages.messages.insert(), said)
        tx.execute(out.deliveries.insert(), sent)
        tx.execute(out.delivery_attempts.insert(), tried)
        tx.execute(retention.idempotency_keys.insert(), keys)
        events = [
            {
                "id": row_id,
                "merchant_id": whose,
                "source_id": "src_1",
                "account": "",
                "external_id": f"e{n}",
                "type": "t",
                "headers": b"{}",
                "body": b"{}" * 200,
                "sha256": b"",
                "received_at": at,
                "state": state(n, "processed"),
                "due_at": at,
            }
            for n, row_id, at, whose in rows("evt")
        ]
        tx.execute(came.inbox.insert(), events)
        letters = [
            {
                "id": row_id,
                "merchant_id": whose,
                "queue": "inbox",
                "work_id": f"evt_{n}",
                "reason": "r",
                "attempts": 1,
                "created_at": at,
                "resolved_at": at if n % 100 else None,
            }
            for n, row_id, at, whose in rows("dlq")
        ]
        tx.execute(dead_letters.dead_letters.insert(), letters)
    with migrated.begin() as tx:
        tx.execute(sa.text("ANALYZE"))
    return migrated


@contextmanager
def heard(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are made meanwhile."""
    statements: list[tuple[str, Any]] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not many and re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT)", statement):
            statements.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", hear)
    try:
        yield statements
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", hear)


def walks(tx: Tx, statement: str, parameters: Any) -> list[str]:
    """The lines of a plan that go through all of a big table."""
    if tx.dialect.name == "sqlite":
        plan = [row[3] for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        return [line for line in plan if re.match(rf"SCAN ({'|'.join(BIG)})\b(?!.* USING )", line)]
    plan = [row[0] for row in tx.exec_driver_sql(f"EXPLAIN {statement}", parameters)]
    return [line for line in plan if re.search(rf"Seq Scan on ({'|'.join(BIG)})\b", line)]


OLD = NOW - timedelta(days=3)
LATER = NOW + timedelta(seconds=1)
CLAIM: dict[str, Any] = {"max_attempts": 5, "now": LATER, "lease": timedelta(seconds=5)}

HOT: dict[str, Callable[[Tx], object]] = {
    "a look at an endpoint": lambda tx: out.held_for(tx, "ep_1"),
    "deliveries of an endpoint": lambda tx: out.list_deliveries(tx, merchant_id="mrc_1", endpoint_id="ep_1", limit=50),
    "what is under way": lambda tx: out.under_way(tx, ["ep_1", "ep_2"], NOW),
    "messages of a merchant": lambda tx: messages.list_messages(tx, merchant_id="mrc_1", limit=50),
    "events of a merchant": lambda tx: came.list_events(tx, merchant_id="mrc_1", limit=50),
    "open dead letters": lambda tx: dead_letters.list_dead(tx, merchant_id="mrc_1", limit=50),
    "a claim of events": lambda tx: work.claim(tx, came.inbox, ids=None, limit=50, **CLAIM),
    "a claim of events that were rung for": lambda tx: work.claim(tx, came.inbox, ids=["evt_1"], limit=50, **CLAIM),
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
    "a sweep": lambda tx: work.AnyDue({name: (it.table, it.only) for name, it in BELLS.items()}).ask(tx, LATER),
    "what falls due next": lambda tx: work.next_due(tx, out.deliveries),
    "the state of a queue": lambda tx: [
        work.backlog(tx, lane.table, now=LATER, only=lane.only) for lane in BELLS.values()
    ],
    "what a merchant has": lambda tx: [
        limits.count_of(tx, what, "mrc_1", NOW) for what in ("drafts", "endpoints", "keys")
    ],
    "documents of an invoice": lambda tx: list_documents(tx, "inv_1"),
    "invoices of a customer": lambda tx: book.list_objects(tx, "invoice", merchant_id="mrc_1", customer="cus_1"),
    "old attempts": lambda tx: retention.delete_attempts(tx, OLD),
    "old deliveries": lambda tx: retention.delete_deliveries(tx, OLD),
    "old bodies": lambda tx: retention.prune_messages(tx, OLD, NOW),
    "old messages": lambda tx: retention.delete_messages(tx, OLD),
    "old events": lambda tx: retention.delete_events(tx, OLD),
    "old letters": lambda tx: retention.delete_letters(tx, OLD),
    "old keys": lambda tx: retention.delete_idempotency_keys(tx, OLD),
}


def test_no_hot_statement_walks_through_a_big_table(history: Database) -> None:
    found: dict[str, list[str]] = {}
    for what, ask in HOT.items():
        with history.begin() as tx:
            with heard(history) as statements:
                ask(tx)
            assert statements, what
            plans = [line for statement, parameters in statements for line in walks(tx, statement, parameters)]
            if plans:
                found[what] = plans
            tx.rollback()
    with heard(history) as statements:
        wanted = plain_deliveries.Wanted(lane="fresh", ids=None, limit=5, passing_over=["ep_1", "ep_2"])
        plain_deliveries.take(history, wanted, plain_deliveries.Rooms({}, 10), **CLAIM)
    assert statements
    with history.begin() as tx:
        plans = [line for statement, parameters in statements for line in walks(tx, statement, parameters)]
        assert plans == [], "a claim of plain deliveries"
    assert found == {}


def test_a_walk_is_seen(history: Database) -> None:
    with history.begin() as tx:
        assert walks(tx, "SELECT * FROM deliveries WHERE attempts = 7", {} if tx.dialect.name == "postgresql" else ())
        tx.rollback()
