"""The console's pages over a ledger with a history, as a browser asks for them, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

from bench.product import DURABILITY, Product, databases, installed
from bench.results import Aim, Figure, percentile
from bench.scale import Scale
from billhook.store.book import list_objects
from billhook.store.database import Database
from billhook.store.dead_letters import list_dead
from billhook.store.deliveries import list_deliveries
from billhook.store.inbox import list_events
from billhook.store.operators import begin_session
from billhook.store.sources import sources
from tests.plans.history import fill

MOST_MS = 50.0
TIMES = 30
"""How often each page is asked for."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    with databases(database) as made:
        url = made.new()
        with installed(url) as product:
            _fill(url, scale.history, product)
            now = product.env.clock()
            with product.env.database.begin() as tx:
                token = begin_session(tx, "bench", "admin", now)
            product.run(["desk"])
            took = {page: _times(product, token, page) for page in _pages(product)}
    conditions = {
        "database": DURABILITY[database],
        "rows": f"{scale.history} events, deliveries, attempts, messages, invoices, dead letters",
        "clock": "from the question to the last byte, on one connection",
        "times": TIMES,
        "each": {page: round(percentile(times, 0.95), 1) for page, times in took.items()},
    }
    every = [each for times in took.values() for each in times]
    slowest = max(percentile(times, 0.95) for times in took.values())
    yield Figure(f"console.{database}.p50", percentile(every, 0.5), "ms", None, None, conditions)
    aim = Aim("value", "at most", MOST_MS)
    yield Figure(f"console.{database}.p95", percentile(every, 0.95), "ms", None, aim, conditions)
    yield Figure(f"console.{database}.slowest_page_p95", slowest, "ms", None, aim, conditions)


def _fill(url: str, rows: int, product: Product) -> None:
    with closing(Database(url, answer_seconds=None)) as patient:
        now = product.env.clock()
        with patient.begin() as tx:
            fill(tx, rows, now)
            made = {"id": "src_1", "merchant_id": "mrc_1", "provider": "stripe", "name": "Bench", "secret": b""}
            tx.execute(sources.insert().values(**made, created_at=now))
        with patient.begin() as tx:
            tx.exec_driver_sql("ANALYZE")


def _pages(product: Product) -> list[str]:
    """Each list, found by what people look for, and one of each thing."""
    with product.env.database.read() as tx:
        event = list_events(tx, limit=1)[0]
        delivery = list_deliveries(tx, merchant_id=None, limit=1)[0]
        letter = list_dead(tx, limit=1)[0]
        invoice = list_objects(tx, "invoice", merchant_id=None, limit=1)[0]
    return [
        "/",
        "/overview/live",
        "/events",
        f"/events?type={event['type']}&state=processed",
        "/events?state=dead",
        f"/events/{event['id']}",
        "/deliveries",
        "/deliveries?state=held",
        f"/deliveries/{delivery['id']}",
        "/dead-letters",
        f"/dead-letters/{letter['id']}",
        "/invoices",
        "/invoices?status=open",
        f"/invoices/{invoice['id']}",
        "/endpoints",
        "/merchants",
        "/dunning",
        "/findings",
        "/queues",
        "/audit",
    ]


def _times(product: Product, token: str, page: str) -> list[float]:
    times, cookie = [], f"billhook_session_{product.settings.desk_port}={token}"
    with closing(HTTPConnection(product.host, product.settings.desk_port, timeout=60)) as connection:
        for turn in range(TIMES + 1):
            began = time.perf_counter()
            connection.request("GET", page, headers={"Cookie": cookie})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{page} answered {answer.status}")
            if turn:  # the first one compiles the page
                times.append((time.perf_counter() - began) * 1000)
    return times
