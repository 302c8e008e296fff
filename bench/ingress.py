"""The door: signed 2 KB events over 64 keep-alive connections into one ingress process, each durable before its 2xx."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from statistics import median

from bench.events import BODY_BYTES
from bench.floors import commit_floor
from bench.generator import Generator, Load, Posted
from bench.product import DURABILITY, databases, running
from bench.results import Aim, Figure, percentile
from bench.scale import Scale

CONNECTIONS = 64
MOST_PER_SECOND = 20_000
"""Events signed beforehand for each second of a round: more than any server here takes."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    generator = Generator()
    with databases(database) as made, running(made.new(), ["ingress"]) as product:
        floor = commit_floor(made.new())
        numbers = count(1)

        def post(port: int, path: str, seconds: float) -> Posted:
            events = int(MOST_PER_SECOND * seconds)
            first = next(numbers) * 100_000
            return generator.post(Load("127.0.0.1", port, path, first, events, CONNECTIONS, seconds))

        try:
            post(floor.port, "/", 0.5)
            post(product.port, product.path, 0.5)
            floors, products = [], []
            for _ in range(scale.rounds):
                floors.append(post(floor.port, "/", scale.seconds))
                products.append(post(product.port, product.path, scale.seconds))
        finally:
            floor.close()
            generator.close()
    conditions = {
        "work": "POST of a signed Stripe event to its 200; one ingress process, a real Valkey, no consumers",
        "floor": "bare ASGI app under uvicorn: HMAC and the same grouped commit into the same table",
        "event_bytes": BODY_BYTES,
        "connections": CONNECTIONS,
        "events": sum(len(posted.latencies) for posted in products),
        "rounds": f"{scale.rounds} of {scale.seconds:g} s, floor and product by turns; medians",
        "database": DURABILITY[database],
        "generator": "on the same cores",
    }
    yield Figure(
        f"ingress.{database}.throughput",
        median(posted.per_second for posted in products),
        "events/s",
        median(posted.per_second for posted in floors),
        Aim("ratio", "at least", 0.8),
        conditions,
    )
    for share in (50, 99):
        yield Figure(
            f"ingress.{database}.p{share}",
            median(_milliseconds(posted, share) for posted in products),
            "ms",
            median(_milliseconds(posted, share) for posted in floors),
            None,
            conditions,
        )


def _milliseconds(posted: Posted, share: int) -> float:
    return percentile(posted.latencies, share / 100) / 1e6
