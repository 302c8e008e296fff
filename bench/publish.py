"""A merchant's own event: from its POST at the desk to the moment the receiver has the signed webhook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from bench.effort import Effort, Relay, commands, efforts
from bench.generator import Generator, Load
from bench.messages import BODY_BYTES, EVENT_TYPE, body_of, data_of
from bench.pipeline import CONNECTIONS, FLOOR_SHARE, PATIENCE_SECONDS, Bench, Passage
from bench.product import DURABILITY, HOST, Product, databases, installed
from bench.receiver import Receiver
from bench.results import Aim, Figure, percentile
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.rules.signing import new_secret, signed_headers
from billhook.store.merchants import create_key

SERVICES = ("desk", "courier", "relay")
RATES = (50, 200, 1_000)
COUNTED_RATE = 200
"""At which it is counted what a message costs."""
MOST_EVENTS = 2_000
"""At one rate: where the desk is slower than that, they stand in line for long enough."""

MOST_MS, MOST_SWITCHES, MOST_TRIPS, MOST_COMMANDS = 1.5, 15, 6, 3
"""What a message may cost all processes together: of processor time, and in numbers."""
REST_SECONDS = 10.0
FAN = 100
"""To how many endpoints each message goes where it goes to many."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    bench = Bench()
    try:
        with databases(database) as made, installed(made.new()) as product:
            product.add_endpoints([bench.receiver.url])
            product.run(SERVICES)
            _through_the_desk(bench, product, 100, 100)
            _wait_for_routes(product)
            for rate in RATES:
                events = min(int(rate * scale.publish_seconds), MOST_EVENTS)
                floor = _straight(bench, int(events * FLOOR_SHARE), rate)
                before = efforts(product.pids)
                passage = _through_the_desk(bench, product, events, rate)
                after = efforts(product.pids)
                yield from _figures(database, rate, passage, floor)
                spent = {name: after[name].since(before[name]) for name in after}
                yield from _efforts(database, rate, spent, events)
            rest = efforts(product.pids)
            time.sleep(REST_SECONDS)
            after = efforts(product.pids)
            yield _idle(database, sum(after[name].since(rest[name]).seconds for name in after))
        with databases(database) as made:
            yield from _round_trips(bench, made.new(), database, int(COUNTED_RATE * scale.publish_seconds))
            yield _fan_out(bench.generator, made.new(), database, scale.fanned_out)
    finally:
        bench.close()


def _wait_for_routes(product: Product) -> None:
    """The desk publishes before it has imported the rest of its routes, which takes seconds of processor: they are no
    message's."""
    connection = HTTPConnection(HOST, product.settings.desk_port, timeout=60)
    connection.request("GET", "/openapi.json")
    connection.getresponse().read()
    connection.close()


def _efforts(database: str, rate: int, spent: Mapping[str, Effort], events: int) -> Iterator[Figure]:
    conditions = _conditions(database, rate, events) | {
        "clock": "the kernel's, of the processes named, until the last message had arrived",
        "each": {
            name: {
                "ms": round(one.seconds / events * 1000, 3),
                "waited": round(one.waited / events, 2),
                "pushed": round(one.pushed / events, 2),
            }
            for name, one in spent.items()
        },
    }
    milliseconds = sum(one.seconds for one in spent.values()) / events * 1000
    switches = sum(one.waited + one.pushed for one in spent.values()) / events
    name = f"publish.{database}.{rate}"
    most_ms = Aim("value", "at most", MOST_MS) if rate <= COUNTED_RATE else None
    yield Figure(f"{name}.processor", milliseconds, "ms a message", None, most_ms, conditions)
    most_switches = Aim("value", "at most", MOST_SWITCHES) if rate == COUNTED_RATE else None
    yield Figure(f"{name}.switches", switches, "a message", None, most_switches, conditions)


def _idle(database: str, seconds: float) -> Figure:
    conditions = {"work": "nothing: " + ", ".join(SERVICES), "seconds": REST_SECONDS, "database": DURABILITY[database]}
    share = seconds / REST_SECONDS * 100
    return Figure(f"publish.{database}.idle", share, "% of a core", None, Aim("value", "at most", 1), conditions)


def _round_trips(bench: Bench, url: str, database: str, events: int) -> Iterator[Figure]:
    relay = Relay(url)
    try:
        with installed(relay.url) as product:
            product.add_endpoints([bench.receiver.url])
            product.run(SERVICES)
            _through_the_desk(bench, product, 100, 100)
            queue = product.settings.queue_url.get_secret_value()
            trips, asked = relay.trips(), commands(queue)
            _through_the_desk(bench, product, events, COUNTED_RATE)
            trips, asked = relay.trips() - trips, commands(queue) - asked
    finally:
        relay.close()
    conditions = _conditions(database, COUNTED_RATE, events)
    for what, count, most in (("sql", trips, MOST_TRIPS), ("redis", asked, MOST_COMMANDS)):
        aim = Aim("value", "at most", most)
        yield Figure(f"publish.{database}.{COUNTED_RATE}.{what}", count / events, "a message", None, aim, conditions)


def _fan_out(generator: Generator, url: str, database: str, messages: int) -> Figure:
    """Each message to many endpoints."""
    receiver = Receiver(FAN)
    try:
        with installed(url) as product:
            product.add_endpoints(receiver.urls)
            product.run(SERVICES)
            _wait_for_routes(product)
            with product.env.database.begin() as tx:
                _, key = create_key(tx, product.merchant_id, "bench", product.env.clock())
            load = partial(Load, HOST, product.settings.desk_port, "/v1/messages", requests=partial(publications, key))
            for first, count in ((1, 10), (11, messages)):  # the first ones make the connections
                posted = generator.post(load(first, count, connections=CONNECTIONS))
                wait_until(lambda: receiver.requests() >= count * FAN, PATIENCE_SECONDS, "all deliveries")  # noqa: B023
                ended = time.monotonic_ns()
                receiver.take()
    finally:
        receiver.close()
    conditions = {
        "work": f"POST of {messages} events at the desk, as fast as it takes them, to the receiver having the last of"
        f" {messages * FAN} signed webhooks; one of each: " + ", ".join(SERVICES),
        "body_bytes": BODY_BYTES,
        "endpoints": FAN,
        "database": DURABILITY[database],
        "generator": "on the same cores, as is the receiver",
    }
    per_second = messages * FAN / ((ended - posted.started) / 1e9)
    return Figure(f"publish.{database}.fan_out", per_second, "deliveries/s", None, None, conditions)


def _through_the_desk(bench: Bench, product: Product, events: int, rate: float) -> Passage:
    with product.env.database.begin() as tx:
        _, key = create_key(tx, product.merchant_id, "bench", product.env.clock())
    passage = bench.pass_through(
        product.settings.desk_port, "/v1/messages", events, rate, requests=partial(publications, key)
    )
    if passage.lost:
        raise RuntimeError(f"{passage.lost} of {events} messages did not arrive within {PATIENCE_SECONDS:g} s")
    return passage


def _straight(bench: Bench, events: int, rate: float) -> Passage:
    url = urlsplit(bench.receiver.url)
    assert url.port is not None
    return bench.pass_through(url.port, url.path, events, rate, requests=partial(webhooks, new_secret("v1")))


def publications(key: str, host: str, path: str, first: int, count: int) -> list[bytes]:
    """What a merchant posts at the desk."""
    requests = []
    for number in range(first, first + count):
        body = f'{{"event_type": "{EVENT_TYPE}", "data": {data_of(number)}}}'.encode()
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"order-{number}"}
        requests.append(_request(host, path, headers, body))
    return requests


def webhooks(secret: str, host: str, path: str, first: int, count: int) -> list[bytes]:
    """What the courier posts at the receiver."""
    now = datetime.now(UTC)
    requests = []
    for number in range(first, first + count):
        body = body_of(number, now)
        requests.append(_request(host, path, signed_headers([secret], f"msg_{number}", now, body), body))
    return requests


def _request(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    given = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def _conditions(database: str, rate: int, events: int) -> dict[str, Any]:
    return {
        "work": "POST of an event at the desk to the receiver having its signed webhook; one of each: "
        + ", ".join(SERVICES),
        "body_bytes": BODY_BYTES,
        "connections": CONNECTIONS,
        "endpoints": 1,
        "events": events,
        "rate": f"{rate} events/s, sent by the clock",
        "database": DURABILITY[database],
        "generator": "on the same cores, as is the receiver",
    }


def _figures(database: str, rate: int, passage: Passage, floor: Passage) -> Iterator[Figure]:
    conditions = _conditions(database, rate, len(passage.latencies)) | {
        "floor": "the same generator posts the signed webhooks straight to the receiver",
        "clock": "from the moment an event was due to be sent to the last byte at the receiver",
        "received_twice": passage.doubled,
    }
    # Where less is taken than is offered, the line grows, and how long one waits in it says only how long it was.
    yield Figure(
        f"publish.{database}.{rate}.taken",
        passage.accepted_per_second,
        "events/s",
        floor.accepted_per_second,
        None,
        conditions | {"clock": "from the first POST to the last answer of the desk"},
    )
    for share in (50, 95, 99):
        yield Figure(
            f"publish.{database}.{rate}.p{share}",
            percentile(passage.latencies, share / 100),
            "ms",
            percentile(floor.latencies, share / 100),
            None,
            conditions,
        )
