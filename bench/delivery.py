"""One courier: how fast it delivers what is due to endpoints that answer at once, and writes down that it did."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any

import sqlalchemy as sa

from bench.bare_poster import BarePoster, Round
from bench.messages import BODY_BYTES, heap_up
from bench.product import DURABILITY, Product, databases, installed
from bench.receiver import Arrivals, Receiver
from bench.results import Aim, Figure
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.rules.breaker import LARGEST_WINDOW
from billhook.rules.delivery import DELIVERED, FRESH
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.work import DUE
from services.courier.limits import IN_FLIGHT

SERVICES = ("courier", "relay")
PATIENCE_SECONDS = 180.0
WARM_UP = 500
SPREADS = (1, 100)
"""To how many endpoints the messages go: to one, whose window bounds what is under way, and to many, each with
connections of its own."""


@dataclass(frozen=True)
class Drained:
    """How a heap of due deliveries was worked off."""

    seconds: float
    arrivals: Arrivals

    @property
    def per_second(self) -> float:
        return len(self.arrivals.first) / self.seconds

    @property
    def connections_per_1000(self) -> float:
        return self.arrivals.connections / self.arrivals.requests * 1000


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    poster, receiver = BarePoster(), Receiver(max(SPREADS))
    numbers = count(0, scale.deliveries)
    try:
        with databases(database) as made, installed(made.new()) as product:
            product.run(SERVICES)
            deliver(product, receiver, product.add_endpoints(receiver.urls), next(numbers), WARM_UP)
            for spread in SPREADS:
                yield from _compare(product, receiver, poster, spread, numbers, database, scale)
            if database == "postgresql":
                yield _two_couriers(product, receiver, numbers, database, scale)
            check_books(product)
    finally:
        poster.close()
        receiver.close()


def _compare(
    product: Product,
    receiver: Receiver,
    poster: BarePoster,
    spread: int,
    numbers: Iterator[int],
    database: str,
    scale: Scale,
) -> Iterator[Figure]:
    urls = receiver.urls[:spread]
    ids = product.add_endpoints(urls)
    at_once = min(IN_FLIGHT, spread * LARGEST_WINDOW)
    floors, products = [], []
    for _ in range(scale.delivery_rounds):
        floors.append(_post_barely(poster, receiver, Round(urls, next(numbers), scale.deliveries, at_once)))
        products.append(deliver(product, receiver, ids, next(numbers), scale.deliveries))
    conditions: dict[str, Any] = {
        "work": "deliveries due in SQL, from the first arrival to the last row settled, every attempt recorded;"
        " one courier and a relay, a real Valkey",
        "floor": "a bare loop that signs and posts the same bytes with the same libcurl, and writes nothing",
        "body_bytes": BODY_BYTES,
        "endpoints": spread,
        "at_once": at_once,
        "deliveries": scale.deliveries,
        "rounds": f"{scale.delivery_rounds}, floor and product by turns; medians",
        "database": DURABILITY[database],
        "receiver": "on the same cores, answers at once",
    }
    yield Figure(
        f"delivery.{database}.{spread}.throughput",
        median(drained.per_second for drained in products),
        "deliveries/s",
        median(drained.per_second for drained in floors),
        Aim("ratio", "at least", 0.5) if database == "postgresql" else None,
        conditions,
    )
    yield Figure(
        f"delivery.{database}.{spread}.connections",
        median(drained.connections_per_1000 for drained in products),
        "per 1,000",
        median(drained.connections_per_1000 for drained in floors),
        None,
        conditions,
    )


def _two_couriers(product: Product, receiver: Receiver, numbers: Iterator[int], database: str, scale: Scale) -> Figure:
    ids = product.add_endpoints(receiver.urls)
    one, two = [], []
    for _ in range(scale.delivery_rounds):
        one.append(deliver(product, receiver, ids, next(numbers), scale.deliveries).per_second)
        with product.another("courier"):
            two.append(deliver(product, receiver, ids, next(numbers), scale.deliveries).per_second)
    conditions: dict[str, Any] = {
        "work": "as above, by two couriers",
        "floor": "by one, just before",
        "endpoints": len(ids),
        "deliveries": scale.deliveries,
        "rounds": f"{scale.delivery_rounds}; medians",
        "database": DURABILITY[database],
        "receiver": "on the same cores, answers at once",
    }
    aim = Aim("ratio", "at least", 1.0)
    return Figure(f"delivery.{database}.two_couriers", median(two), "deliveries/s", median(one), aim, conditions)


def _post_barely(poster: BarePoster, receiver: Receiver, work: Round) -> Drained:
    ended = poster.post(work)
    arrivals = receiver.take()
    if len(arrivals.first) != work.count:
        raise RuntimeError(f"{len(arrivals.first)} of the floor's {work.count} messages arrived")
    return Drained((ended - min(arrivals.first.values())) / 1e9, arrivals)


def deliver(
    product: Product, receiver: Receiver, endpoint_ids: list[str], first: int, number: int, lane: str = FRESH
) -> Drained:
    """Heap up so many deliveries, let the courier see them all at once, and wait until it has done them.

    Raises `RuntimeError` unless each came once and is settled.
    """
    heap_up(product, endpoint_ids, first, number, lane=lane)
    if not receiver.wait_for(number, PATIENCE_SECONDS):
        raise RuntimeError(f"{receiver.count()} of {number} deliveries arrived within {PATIENCE_SECONDS:g} s")
    wait_until(lambda: not has_due(product), PATIENCE_SECONDS, "the last deliveries to be settled")
    ended = time.monotonic_ns()
    arrivals = receiver.take()
    if arrivals.requests != number:
        raise RuntimeError(f"{number} deliveries were sent {arrivals.requests} times")
    return Drained((ended - min(arrivals.first.values())) / 1e9, arrivals)


def check_books(product: Product) -> None:
    """Raises `RuntimeError` unless the database says of all deliveries that they arrived, with one attempt each."""
    with product.env.database.read() as tx:
        counted = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
        states: dict[str, int] = dict(tx.execute(counted).tuples().all())
        attempts = tx.execute(sa.select(sa.func.count()).select_from(delivery_attempts)).scalar_one()
    if states != {DELIVERED: attempts}:
        raise RuntimeError(f"the database has deliveries {states} and {attempts} attempts")


def has_due(product: Product, *, excluding: Collection[str] = ()) -> bool:
    """Whether there is any delivery to do, now or later, but for those of some endpoints."""
    query = sa.select(deliveries.c.id).where(deliveries.c.state == DUE, deliveries.c.endpoint_id.not_in(excluding))
    with product.env.database.read() as tx:
        return tx.execute(query.limit(1)).first() is not None
