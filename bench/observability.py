"""What being seen costs: metrics and log lines of the pipeline's work, and measuring a ledger with a history.

The work is the bookkeeper's, in this process, with metrics and a line in the log for each event, and then with neither;
the rounds take turns, and processor time is what is compared, so that neighbours on the machine matter little.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa

from bench.events import bodies
from bench.product import databases
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.logs import JsonLines
from billhook.metrics import Metrics
from billhook.parts import Parts
from billhook.queue.steps import Steps
from billhook.runtime.clock import system_clock
from billhook.runtime.provider_apis import ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store.database import Database
from billhook.store.inbox import Arrival, accept
from billhook.store.merchants import create_merchant
from billhook.store.schema import new_id
from billhook.store.sources import create_source
from billhook.store.vault import Vault, new_key
from services.bookkeeper.posting import Posting
from services.relay.exporter import Exporter

MOST_COST = 1.05
MOST_MS = 20.0
BATCH = 200
LEAST_ROUNDS = 4
"""The least of each kind is what is compared: one round alone says little."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    with databases(database) as made:
        yield _cost(Database(made.new()), scale, database)
        yield from _scrapes(Database(made.new()), scale, database)


class _Nothing:
    """Stands for metrics, for any of them, and for any of their children."""

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *_: object) -> _Nothing:
        return self


class _Silence:
    def ring_all(self, rings: Mapping[str, Sequence[str]]) -> None:
        pass


def _cost(database: Database, scale: Scale, name: str) -> Figure:
    vault = Vault([new_key()])
    with database.begin() as tx:
        merchant = create_merchant(tx, "Bench", system_clock()).id
        source = create_source(tx, merchant, "stripe", "bench", vault.seal("s"), system_clock()).id
    seen: list[float] = []
    unseen: list[float] = []
    events, first = scale.burst // 8, 0
    for turn in range(2 * max(LEAST_ROUNDS, scale.rounds) + 1):
        _put(database, merchant, source, first, events)
        first += events
        watched = turn % 2 == 0
        metrics = Metrics() if watched else cast(Metrics, _Nothing())
        posting = Posting(database, ProviderApis(vault, Turns(database, system_clock, 1e9)), system_clock)
        with _logging() if watched else _no_logging():
            steps = Steps(posting, database, _Silence(), metrics, system_clock)
            began = time.process_time()
            while steps.run(None):
                pass
            took = time.process_time() - began
        if turn:  # the first one warms up
            (seen if watched else unseen).append(took / events * 1e6)
    database.close()
    conditions = {"database": name, "events": events, "rounds": len(seen)}
    aim = Aim("ratio", "at most", MOST_COST)
    return Figure(f"observability.{name}.cost", min(seen), "µs of processor an event", min(unseen), aim, conditions)


@contextmanager
def _logging() -> Iterator[None]:
    """A line for each event, written as the product writes it, to nowhere."""
    logger = logging.getLogger("billhook")
    with open(os.devnull, "w") as nowhere:
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(JsonLines("bookkeeper"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        yield
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


@contextmanager
def _no_logging() -> Iterator[None]:
    yield


def _put(database: Database, merchant: str, source: str, first: int, count: int) -> None:
    now = system_clock()
    found = bodies(first, count)
    for start in range(0, count, BATCH):
        arrivals = [
            Arrival(
                new_id("evt"),
                merchant,
                source,
                "",
                f"evt_{first + start + place}",
                "customer.subscription.updated",
                b"{}",
                body,
                hashlib.sha256(body).digest(),
                now,
            )
            for place, body in enumerate(found[start : start + BATCH])
        ]
        with database.begin() as tx:
            accept(tx, arrivals, now)


def _scrapes(database: Database, scale: Scale, name: str) -> Iterator[Figure]:
    """The relay's figures of a ledger with a history, a tenth of which is still due."""
    rows = scale.history
    _fill(database, rows)
    metrics = Metrics()
    exporter = Exporter(database, metrics, system_clock, Parts())
    exporter.read()
    conditions = {"database": name, "rows": rows}
    aim = Aim("value", "at most", MOST_MS)
    scrape = _median_ms(metrics.exported)
    read = _median_ms(exporter.read)
    database.close()
    yield Figure(f"observability.{name}.scrape", scrape, "ms", None, aim, conditions)
    yield Figure(f"observability.{name}.ledger", read, "ms, every five seconds", None, None, conditions)


def _median_ms(do: Callable[[], Any]) -> float:
    took = []
    for _ in range(11):
        began = time.perf_counter()
        do()
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)[5]


def _fill(database: Database, rows: int) -> None:
    """Events and deliveries of the past, by statements that make many at once."""
    due = datetime.now(UTC) + timedelta(hours=1)
    numbers = f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {rows})"
    if not database.sqlite:
        numbers = f"WITH n(x) AS (SELECT generate_series(1, {rows}))"
    at = int(due.timestamp() * 1e6) if database.sqlite else due
    number, state = "CAST(x AS text)", "CASE WHEN x % 10 = 0 THEN 'due' ELSE 'processed' END"
    columns = (
        "id, merchant_id, source_id, account, external_id, type, headers, body, sha256, received_at, due_at, state"
    )
    empty = "x''" if database.sqlite else "''::bytea"
    # SQLite wants WITH behind the INSERT; so does PostgreSQL take it.
    statement = (
        f"INSERT INTO inbox ({columns}) {numbers} SELECT 'evt_' || {number}, 'mrc_1', 'src_1', '', {number}, 'x.y',"
        f" {empty}, {empty}, {empty}, :at, :at, {state} FROM n"
    )
    with Database(database.url.render_as_string(hide_password=False), answer_seconds=None).begin() as tx:
        tx.execute(sa.text(statement), {"at": at})
        letters = (
            f"INSERT INTO dead_letters (id, merchant_id, queue, work_id, reason, attempts, created_at, resolved_at)"
            f" {numbers} SELECT 'dlq_' || {number}, 'mrc_1', 'inbox', {number}, 'gave up after 11 attempts', 11, :at,"
            f" CASE WHEN x % 100 = 0 THEN NULL ELSE :at END FROM n"
        )
        tx.execute(sa.text(letters), {"at": at})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
