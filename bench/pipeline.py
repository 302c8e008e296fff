"""The whole path: from the POST of an event to the moment the receiver has the signed webhook that follows from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from bench.events import BODY_BYTES, signed_requests
from bench.floors import forward_floor
from bench.generator import Generator, Load, Requests
from bench.product import DURABILITY, WHOLE, databases, running
from bench.receiver import Receiver
from bench.results import Aim, Figure, percentile
from bench.scale import Scale

CONNECTIONS = 64
PATIENCE_SECONDS = 120.0
STEADY_RATE = 200.0
FLOOR_SHARE = 1 / 3
"""Of the product's events, how many a floor's round has: it has two rounds, one before and one after."""


class Bench:
    """A generator, a receiver, and numbers for events."""

    def __init__(self) -> None:
        self.generator = Generator()
        self.receiver = Receiver()
        self._next = 1

    def close(self) -> None:
        self.generator.close()
        self.receiver.close()

    def pass_through(
        self, port: int, path: str, events: int, rate: float | None = None, requests: Requests = signed_requests
    ) -> Passage:
        """Post events, wait until the receiver has them all (or patience ends), and say how it went."""
        first, self._next = self._next, self._next + events
        posted = self.generator.post(Load("127.0.0.1", port, path, first, events, CONNECTIONS, 120, rate, requests))
        self.receiver.wait_for(events, PATIENCE_SECONDS)
        time.sleep(0.2)  # for duplicates, if there are any
        arrivals = self.receiver.take()
        return Passage(posted.sent, posted.per_second, arrivals.first, arrivals.requests)


class Passage:
    """When events were sent and when they arrived, by their number."""

    def __init__(self, sent: dict[int, int], accepted_per_second: float, arrived: dict[int, int], requests: int):
        self.accepted_per_second = accepted_per_second
        self.lost = len(sent.keys() - arrived.keys())
        self.doubled = requests - len(arrived)
        self.per_second = len(arrived) / ((max(arrived.values()) - min(sent.values())) / 1e9)
        self.latencies = [(at - sent[number]) / 1e6 for number, at in arrived.items()]


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    bench = Bench()
    try:
        with databases(database) as made, running(made.new(), WHOLE, bench.receiver.url) as product:
            floor = forward_floor(bench.receiver.url)
            try:
                yield from _throughput(bench, product.port, product.path, floor.port, database, scale)
                yield from _latency(bench, product.port, product.path, floor.port, database, scale)
            finally:
                floor.close()
    finally:
        bench.close()


def _throughput(bench: Bench, port: int, path: str, floor_port: int, database: str, scale: Scale) -> Iterator[Figure]:
    part = int(scale.burst * FLOOR_SHARE)
    bench.pass_through(floor_port, "/", 500)
    bench.pass_through(port, path, 500)
    before = bench.pass_through(floor_port, "/", part)
    passage = bench.pass_through(port, path, scale.burst)
    after = bench.pass_through(floor_port, "/", part)
    conditions = _conditions(database) | {
        "events": scale.burst,
        "rounds": "the floor before and after, its mean",
        "posting": f"as fast as the door answers: {round(passage.accepted_per_second)} events/s",
        "received_twice": passage.doubled,
    }
    yield Figure(
        f"pipeline.{database}.throughput",
        passage.per_second,
        "events/s",
        (before.per_second + after.per_second) / 2,
        Aim("value", "at least", 1000),
        conditions,
    )
    yield Figure(f"pipeline.{database}.lost", passage.lost, "events", None, Aim("value", "at most", 0), conditions)


def _latency(bench: Bench, port: int, path: str, floor_port: int, database: str, scale: Scale) -> Iterator[Figure]:
    events = int(scale.steady_seconds * STEADY_RATE)
    before = bench.pass_through(floor_port, "/", int(events * FLOOR_SHARE), STEADY_RATE)
    passage = bench.pass_through(port, path, events, STEADY_RATE)
    if passage.lost:
        raise RuntimeError(f"{passage.lost} of {events} events did not arrive within {PATIENCE_SECONDS:g} s")
    conditions = _conditions(database) | {
        "events": events,
        "rate": f"{STEADY_RATE:g} events/s for {scale.steady_seconds:g} s, sent by the clock",
        "clock": "from the moment an event was due to be sent to the last byte at the receiver",
    }
    for share in (50, 95, 99):
        yield Figure(
            f"pipeline.{database}.p{share}",
            percentile(passage.latencies, share / 100),
            "ms",
            percentile(before.latencies, share / 100),
            Aim("value", "at most", 60) if share == 95 else None,
            conditions,
        )


def _conditions(database: str) -> dict[str, Any]:
    return {
        "work": "POST of a signed Stripe event to the receiver having its signed webhook; " + ", ".join(WHOLE),
        "floor": "bare ASGI app under the same server: HMAC, sign anew, post on with the same client; no storage",
        "event_bytes": BODY_BYTES,
        "connections": CONNECTIONS,
        "endpoints": 1,
        "database": DURABILITY[database],
        "generator": "on the same cores, as is the receiver",
    }
