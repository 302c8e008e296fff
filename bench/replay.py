"""Replays of what came in: events processed again a second; and what fresh events notice of a replay beside them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import sqlalchemy as sa

from bench.events import BODY_BYTES, event_body
from bench.pipeline import CONNECTIONS, PATIENCE_SECONDS, Bench, Passage
from bench.product import DURABILITY, Product, databases, installed
from bench.results import Aim, Figure, percentile
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.actions.inbox_replay import begin_replay
from billhook.store import inbox
from billhook.store.inbox import Arrival
from billhook.store.replays import event_replay, get_replay
from billhook.store.schema import new_id
from billhook.store.work import DUE

SERVICES = ("ingress", "bookkeeper", "courier", "relay")
RATE = 100.0
FRESH = 50_000_000
"""The number of the first fresh event: those that are replayed have lower ones."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    bench = Bench()
    try:
        with databases(database) as made, installed(made.new()) as product:
            _fill(product, scale.replayed)
            product.run(SERVICES)
            wait_until(lambda: _left(product) == 0, 3600, "the events to be processed for the first time")
            started = time.monotonic()
            job_id = _begin(product)
            wait_until(lambda: _ended(product, job_id), 3600, "the replay to end")
            seconds = time.monotonic() - started
            yield Figure(
                f"replay.{database}.throughput",
                scale.replayed / seconds,
                "events/s",
                None,
                None,
                _conditions(database, scale) | {"clock": "from the start of the job to the last event processed"},
            )
            product.add_endpoints([bench.receiver.url])
            events = int(scale.steady_seconds * RATE)
            bench.pass_through(product.port, product.path, 200)
            without = bench.pass_through(product.port, product.path, events, RATE)
            _begin(product)
            beside = bench.pass_through(product.port, product.path, events, RATE)
            yield from _fresh(database, scale, without, beside)
    finally:
        bench.close()


def _fresh(database: str, scale: Scale, without: Passage, beside: Passage) -> Iterator[Figure]:
    for passage in (without, beside):
        if passage.lost:
            raise RuntimeError(f"{passage.lost} events did not arrive within {PATIENCE_SECONDS:g} s")
    yield Figure(
        f"replay.{database}.fresh_p95",
        percentile(beside.latencies, 0.95),
        "ms",
        percentile(without.latencies, 0.95),
        Aim("ratio", "at most", 1.3),
        _conditions(database, scale)
        | {
            "clock": "of a fresh event, from the moment it was due to be sent to the last byte at the receiver",
            "floor": "the same without a replay, just before",
            "rate": f"{RATE:g} events/s",
            "connections": CONNECTIONS,
        },
    )


def _fill(product: Product, count: int) -> None:
    """Into the inbox, as the ingress does."""
    source_id = product.path.split("/")[3]
    now = product.env.clock()
    for first in range(1, count + 1, 500):
        arrivals = []
        for number in range(FRESH + first, FRESH + min(first + 500, count + 1)):
            body = event_body(number)
            arrivals.append(
                Arrival(
                    new_id("evt"),
                    product.merchant_id,
                    source_id,
                    "",
                    f"evt_1Bench{number:08}",
                    "customer.subscription.updated",
                    b"{}",
                    body,
                    hashlib.sha256(body).digest(),
                    now,
                )
            )
        with product.env.database.begin() as tx:
            inbox.accept(tx, arrivals, now)


def _begin(product: Product) -> str:
    now = product.env.clock()
    with product.env.database.begin() as tx:
        job = event_replay(product.merchant_id, by="bench", now=now)
        rings = begin_replay(tx, job)
    product.env.bell.ring_all(rings)
    return job.id


def _ended(product: Product, job_id: str) -> bool:
    time.sleep(0.1)
    with product.env.database.read() as tx:
        job = get_replay(tx, job_id)
    assert job is not None
    return job.state != DUE and _left(product) == 0


def _left(product: Product) -> int:
    query = sa.select(sa.func.count()).select_from(inbox.inbox).where(inbox.inbox.c.state == DUE)
    with product.env.database.read() as tx:
        return int(tx.execute(query).scalar_one())


def _conditions(database: str, scale: Scale) -> dict[str, object]:
    return {
        "work": "events that were processed are processed again by a job; one of each: " + ", ".join(SERVICES),
        "events": scale.replayed,
        "event_bytes": BODY_BYTES,
        "database": DURABILITY[database],
        "generator": "on the same cores, as is the receiver",
    }
