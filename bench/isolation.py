"""Whether one's trouble is the others': what they wait for a message while an endpoint hangs, drips or resets, and
while a hundred endpoints of another merchant hang."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count
from statistics import median
from typing import Any

import psutil
import sqlalchemy as sa

from bench.delivery import PATIENCE_SECONDS, SERVICES, has_due
from bench.messages import BODY_BYTES, heap_up
from bench.product import DURABILITY, Product, databases, installed
from bench.publisher import Publisher, Steady
from bench.receiver import Manner, Receiver
from bench.results import Aim, Figure, percentile
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.rules.delivery import FRESH, LANES
from billhook.store.deliveries import deliveries
from billhook.store.endpoints import update_endpoint
from billhook.store.merchants import create_merchant
from billhook.store.queues import lane_name
from billhook.store.work import DUE

ENDPOINTS = 20
SICK = 0
"""Which of them misbehaves."""

CROWD = 100
"""Endpoints of another merchant, all of which hang when its turn is. They share a port, which is nobody else's."""
HEAP = 20
"""Messages due for each of them: more than time out in a round."""
FAR = 50_000_000
"""The number of the first of those."""


class Trouble(Enum):
    """What goes wrong, for the record."""

    NONE = "nothing"
    HANGING = f"one endpoint {Manner.HANGS.value}"
    DRIPPING = f"one endpoint {Manner.DRIPS.value}"
    RESETTING = f"one endpoint {Manner.RESETS.value}"
    CROWD = f"each of {CROWD} endpoints of another merchant {Manner.HANGS.value}"


MANNERS = {Trouble.HANGING: Manner.HANGS, Trouble.DRIPPING: Manner.DRIPS, Trouble.RESETTING: Manner.RESETS}
RATE = 200.0
TIMEOUT_SECONDS = 3.0
"""So short that a round sees it all: as many requests as may be under way hang, time out, and the breaker opens."""

WARM_SHARE = 0.1
"""Of a round, after how much messages count: until then connections are made."""


@dataclass(frozen=True)
class Spell:
    """A steady load during one trouble."""

    p50: float
    """Of the others, in milliseconds from publishing to receipt."""
    p99: float
    courier_cores: float
    """What the courier used of a processor meanwhile."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    receiver = Receiver(ENDPOINTS + 1)
    spells: dict[Trouble, list[Spell]] = defaultdict(list)
    try:
        with databases(database) as made, installed(made.new()) as product:
            publisher = Publisher(product.settings)
            numbers = count(0, int(RATE * scale.isolation_seconds))
            try:
                product.run(SERVICES)
                receiver.behave(ENDPOINTS, Manner.HANGS)
                _spell(product, publisher, receiver, Trouble.NONE, next(numbers), 1.0)
                for turn in range(scale.isolation_rounds):
                    troubles = deque(Trouble)
                    troubles.rotate(turn)
                    for trouble in troubles:
                        seconds, first = scale.isolation_seconds, next(numbers)
                        spells[trouble].append(_spell(product, publisher, receiver, trouble, first, seconds))
            finally:
                publisher.close()
    finally:
        receiver.close()
    conditions: dict[str, Any] = {
        "work": "a message published in SQL and rung for, to its receipt by an endpoint that is well; one courier and a"
        " relay, a real Valkey",
        "floor": "the same while all endpoints are well",
        "body_bytes": BODY_BYTES,
        "endpoints": f"{ENDPOINTS}, and those in trouble, with a timeout of {TIMEOUT_SECONDS:g} s",
        "rate": f"{RATE:g} messages/s in all for {scale.isolation_seconds:g} s, published by the clock",
        "rounds": f"{scale.isolation_rounds}, all troubles by turns; medians",
        "database": DURABILITY[database],
        "publisher": "on the same cores, as is the receiver",
    }
    well = spells.pop(Trouble.NONE)
    for trouble, ill in spells.items():
        yield Figure(
            f"isolation.{database}.{trouble.name.lower()}",
            median(spell.p99 for spell in ill),
            "ms (p99)",
            median(spell.p99 for spell in well),
            Aim("ratio", "at most", 1.1 if trouble is Trouble.CROWD else 1.2),
            conditions
            | {
                "trouble": trouble.value,
                "p50": f"{median(s.p50 for s in ill):.1f} ms; all well: {median(s.p50 for s in well):.1f} ms",
                "courier_cores": f"{median(s.courier_cores for s in ill):.2f};"
                f" all well: {median(s.courier_cores for s in well):.2f}",
            },
        )


def _spell(
    product: Product, publisher: Publisher, receiver: Receiver, trouble: Trouble, first: int, seconds: float
) -> Spell:
    # Endpoints of its own: the courier remembers nothing of them.
    event_types = [f"order.shipped_{number}" for number in range(ENDPOINTS)]
    ids = [
        product.add_endpoints([url], [event_type], timeout_seconds=TIMEOUT_SECONDS)[0]
        for url, event_type in zip(receiver.urls[:ENDPOINTS], event_types, strict=True)
    ]
    receiver.behave(SICK, MANNERS.get(trouble, Manner.WELL))
    crowd = _gather(product, receiver.urls[ENDPOINTS]) if trouble is Trouble.CROWD else []
    used = _cores(product)
    published = publisher.publish(Steady(product.merchant_id, event_types, first, RATE, seconds))
    used = (_cores(product) - used) / seconds
    wait_until(
        lambda: not has_due(product, excluding=[ids[SICK], *crowd]),
        PATIENCE_SECONDS,
        "the last messages to those that are well",
    )
    arrived = receiver.take().first
    receiver.behave(SICK, Manner.WELL)
    _forget(product, [*ids, *crowd])
    others = [number for number in published if number % ENDPOINTS != SICK]
    missing = [number for number in others if number not in arrived]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(others)} messages did not come while {trouble.value}")
    counted = others[int(len(others) * WARM_SHARE) :]
    waits = [(arrived[number] - published[number]) / 1e6 for number in counted]
    return Spell(percentile(waits, 0.5), percentile(waits, 0.99), used)


def _gather(product: Product, url: str) -> list[str]:
    """A merchant of its own, with messages due for each of its endpoints."""
    with product.env.database.begin() as tx:
        merchant_id = create_merchant(tx, "Crowd", product.env.clock()).id
    ids = product.add_endpoints([url] * CROWD, ["crowd.only"], merchant_id=merchant_id, timeout_seconds=TIMEOUT_SECONDS)
    heap_up(product, ids, FAR, CROWD * HEAP, lane=FRESH, merchant_id=merchant_id)
    return ids


def _cores(product: Product) -> float:
    """Seconds of a processor that the courier has used so far."""
    times = psutil.Process(product.pids["courier"]).cpu_times()
    return times.user + times.system


def _forget(product: Product, endpoint_ids: list[str]) -> None:
    """Delete the endpoints, and let the courier drop what it still has for them."""
    with product.env.database.begin() as tx:
        for endpoint_id in endpoint_ids:
            update_endpoint(tx, endpoint_id, deleted_at=product.env.clock())

    def is_over() -> bool:
        # What is locked is in the courier's hands. Waiting for one of its rows with another in ours could be a circle.
        waiting = sa.select(deliveries.c.id).where(deliveries.c.state == DUE, deliveries.c.token.is_(None))
        with product.env.database.begin() as tx:
            ids = tx.execute(waiting.with_for_update(skip_locked=True)).scalars().all()
            tx.execute(sa.update(deliveries).where(deliveries.c.id.in_(ids)).values(due_at=product.env.clock()))
        for lane in LANES:
            product.env.bell.look(lane_name(lane))
        return not has_due(product)

    wait_until(is_over, PATIENCE_SECONDS, "the courier to drop what was for deleted endpoints")
