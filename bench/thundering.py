"""The herd after an outage: thousands of retries fall due in one moment, and no endpoint may be run over by them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from statistics import median
from typing import Any

from bench.delivery import SERVICES, Drained, check_books, deliver
from bench.memory import memory_of
from bench.messages import BODY_BYTES
from bench.product import DURABILITY, Product, databases, installed
from bench.receiver import Receiver
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.rules.breaker import LARGEST_WINDOW
from billhook.rules.delivery import RETRY

ENDPOINTS = 20
CAPPED = 5
CAP = 4
"""What the first five of them allow to be under way (`max_in_flight`)."""

ANSWER_SECONDS = 0.02
"""How long the receiver takes. One that answers at once never has two requests at the same time."""

MOST_GROWTH = 1.1


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    receiver = Receiver(ENDPOINTS, ANSWER_SECONDS)
    calm, herds, before, after = [], [], [], []
    numbers = count(0, scale.herd)
    try:
        with databases(database) as made, installed(made.new()) as product:
            product.run(SERVICES)
            uncapped = product.add_endpoints(receiver.urls)
            some_capped = product.add_endpoints(receiver.urls[:CAPPED], max_in_flight=CAP) + uncapped[CAPPED:]
            for _ in range(scale.delivery_rounds):
                calm.append(deliver(product, receiver, uncapped, next(numbers), scale.herd))
                before.append(_memory(product))
                herds.append(deliver(product, receiver, some_capped, next(numbers), scale.herd, RETRY))
                after.append(_memory(product))
            check_books(product)
    finally:
        receiver.close()
    conditions: dict[str, Any] = {
        "work": "retries due in one moment, from the first arrival to the last row settled; one courier and a relay, a"
        " real Valkey",
        "floor": "as many first attempts by the same courier just before, without caps",
        "body_bytes": BODY_BYTES,
        "deliveries": scale.herd,
        "endpoints": f"{ENDPOINTS} that answer after {ANSWER_SECONDS * 1000:g} ms; {CAPPED} have a cap of {CAP}",
        "rounds": f"{scale.delivery_rounds}; medians",
        "database": DURABILITY[database],
        "receiver": "on the same cores",
    }
    yield Figure(
        f"thundering.{database}.throughput",
        median(drained.per_second for drained in herds),
        "deliveries/s",
        median(drained.per_second for drained in calm),
        None,
        conditions
        | {
            "until_all_had_come": f"{median(_last(drained, CAPPED, ENDPOINTS) for drained in herds):.1f} s;"
            f" where there is a cap: {median(_last(drained, 0, CAPPED) for drained in herds):.1f} s"
        },
    )
    for name, endpoints, most in (("capped", range(CAPPED), CAP), ("other", range(CAPPED, ENDPOINTS), LARGEST_WINDOW)):
        peak = max(drained.arrivals.at_once[endpoint] for drained in herds for endpoint in endpoints)
        yield Figure(
            f"thundering.{database}.{name}.at_once",
            _bounded(peak, most, f"endpoints ({name})"),
            "requests",
            None,
            Aim("value", "at most", most),
            conditions | {"work": "the most requests that one endpoint had to answer at the same time"},
        )
    yield Figure(
        f"thundering.{database}.memory",
        median(after),
        "MB",
        median(before),
        Aim("ratio", "at most", MOST_GROWTH),
        conditions | {"work": "the courier after the herd", "floor": "the courier before it"},
    )


def _last(drained: Drained, first: int, end: int) -> float:
    """When the last delivery came to these endpoints, in seconds from the first to any."""
    arrived = drained.arrivals.first
    last = max(at for number, at in arrived.items() if first <= number % ENDPOINTS < end)
    return (last - min(arrived.values())) / 1e9


def _bounded(peak: int, most: int, who: str) -> int:
    if peak > most:
        raise RuntimeError(f"{who} that may have {most} requests under way got {peak} at the same time")
    return peak


def _memory(product: Product) -> float:
    time.sleep(1)
    return memory_of(product.pids["courier"])
