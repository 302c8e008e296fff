"""A customer's standing, as a product asks for it on every request of its own: answers a second, and their latency."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from typing import Any

from bench.floors import answer_floor
from bench.generator import Generator, Load
from bench.owing import open_case
from bench.product import DURABILITY, Product, databases, installed
from bench.results import Aim, Figure, percentile
from bench.scale import Scale
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.dunning_policy import PRESETS
from billhook.store.book import TABLES
from billhook.store.bulk import insert_many
from billhook.store.database import Database
from billhook.store.dunning_cases import Case, dunning_cases
from billhook.store.dunning_policies import set_policy
from billhook.store.merchants import create_key
from billhook.store.work import DUE

RATE = 500.0
OWING_EVERY = 100
"""Of so many customers one owes."""
CONNECTIONS = 32
_ANSWER = b'{"customer_id":"cus_%032d","state":"active","since":null,"until":null,"reason":null,"invoices":[]}' % 0
AT_ONCE = 2_000
"""Customers that are written in one statement."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    generator = Generator()
    try:
        with databases(database) as made, installed(made.new()) as product:
            _fill(product, scale.customers)
            with product.env.database.begin() as tx:
                _, key = create_key(tx, product.merchant_id, "bench", product.env.clock())
            _settle(product)
            product.run(["desk"])
            _wait_for_all(product, key)
            source_id = product.path.split("/")[3]
            requests = partial(questions, key, source_id, scale.customers)
            port, seconds = product.settings.desk_port, scale.seconds * 2
            generator.post(Load(product.host, port, "", 0, 1000, CONNECTIONS, 60, None, requests))
            most = int(4000 * seconds)
            fastest = generator.post(Load(product.host, port, "", 0, most, CONNECTIONS, seconds, None, requests))
            with closing(answer_floor(_ANSWER)) as floor:
                bare = generator.post(Load(product.host, floor.port, "", 0, most, CONNECTIONS, seconds, None, requests))
            steady = generator.post(
                Load(product.host, port, "", 0, int(RATE * seconds), CONNECTIONS, 60, RATE, requests)
            )
        conditions = _conditions(database, scale.customers)
        yield Figure(
            f"standing.{database}.answers",
            fastest.per_second,
            "answers/s",
            bare.per_second,
            Aim("value", "at least", 2000),
            conditions
            | {"rate": "as fast as the answers come", "floor": "the same answer by a bare route, of no database"},
        )
        yield Figure(
            f"standing.{database}.p95",
            percentile(list(steady.latencies), 0.95) / 1e6,
            "ms",
            None,
            Aim("value", "at most", 10),
            conditions | {"rate": f"{RATE:g} questions/s, sent by the clock"},
        )
    finally:
        generator.close()


def questions(key: str, source_id: str, customers: int, host: str, path: str, first: int, count: int) -> list[bytes]:
    """Of customers at random, by the provider's id as a product has it."""
    dice = random.Random(first)
    return [
        (
            f"GET /v1/customers/cus_{dice.randrange(customers):08}/standing?source_id={source_id} HTTP/1.1\r\n"
            f"Host: {host}\r\nAuthorization: Bearer {key}\r\n\r\n"
        ).encode()
        for _ in range(count)
    ]


def _settle(product: Product) -> None:
    """As the database does by itself within minutes: what it has still to see to must not be measured."""
    if not product.env.database.sqlite:
        slow = Database(product.settings.database_url, answer_seconds=None)
        with slow.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")
        slow.close()


def _wait_for_all(product: Product, key: str) -> None:
    """Until the desk has imported its API, seconds after it answers of standings: that takes all of a core."""
    with closing(HTTPConnection(product.host, product.settings.desk_port, timeout=60)) as connection:
        connection.request("GET", "/v1/dunning/presets", headers={"Authorization": f"Bearer {key}"})
        connection.getresponse().read()


def _fill(product: Product, customers: int) -> None:
    now, source_id = product.env.clock(), product.path.split("/")[3]
    with product.env.database.begin() as tx:
        version = set_policy(tx, product.merchant_id, "merchant", "", PRESETS["polar"], now, by="bench")
    for first in range(0, customers, AT_ONCE):
        with product.env.database.begin() as tx:
            numbers = range(first, min(first + AT_ONCE, customers))
            insert_many(tx, TABLES["customer"], [_row(product, source_id, number, now) for number in numbers])
            owing = [_owing(product, source_id, version.id, number, now) for number in numbers[::OWING_EVERY]]
            insert_many(tx, dunning_cases, [{**vars(case), "due_at": now, "state": DUE} for case in owing])


def _row(product: Product, source_id: str, number: int, now: datetime) -> dict[str, Any]:
    value = Customer(external_id=f"cus_{number:08}", name=f"Customer {number}", created=now)
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return {
        **fields,
        "id": book_id(source_id, "", value),
        "merchant_id": product.merchant_id,
        "source_id": source_id,
        "account": "",
        "livemode": True,
        "version_at": now,
        "version_rank": 0,
        "version_digest": "",
        "updated_at": now,
    }


def _owing(product: Product, source: str, policy: str, number: int, now: datetime) -> Case:
    customer = Customer(external_id=f"cus_{number:08}")
    return open_case(
        product.merchant_id,
        source,
        policy,
        f"in_{number:08}",
        customer.external_id,
        now,
        grace_until=now + timedelta(days=7),
        ends_at=now + timedelta(days=21),
        customer_id=book_id(source, "", customer),
    )


def _conditions(database: str, customers: int) -> dict[str, Any]:
    return {
        "work": "GET /v1/customers/{id}/standing with the provider's id, of customers at random; one desk",
        "customers": customers,
        "owing": f"one of {OWING_EVERY}",
        "connections": CONNECTIONS,
        "database": DURABILITY[database],
        "generator": "on the same cores",
    }
