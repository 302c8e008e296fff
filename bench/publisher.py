"""A publisher that keeps the time: messages into SQL with their deliveries, a ring for them, as the product does it.

A process of its own, and the one load that does not come in over HTTP: what is measured begins at the courier.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.messages import message_of
from bench.processes import Child, Connection
from billhook.runtime.env import Env
from billhook.runtime.settings import Settings
from billhook.store.deliveries import address
from billhook.store.messages import add_messages

GROUP_SECONDS = 0.02
"""What falls due within it is one transaction, as it is for the bookkeeper, whose events come in such groups."""


@dataclass(frozen=True)
class Steady:
    """Messages number `first` and on, at `rate` a second for `seconds`, of `event_types` by their numbers."""

    merchant_id: str
    event_types: list[str]
    first: int
    rate: float
    seconds: float


class Publisher:
    """The parent's side."""

    def __init__(self, settings: Settings) -> None:
        self._child = Child(_publish, settings)

    def publish(self, load: Steady) -> dict[int, int]:
        """When each message was due to be published (`time.monotonic_ns()`), by its number."""
        self._child.tell(load)
        published: dict[int, int] = self._child.hear(120 + load.seconds)
        return published

    def close(self) -> None:
        self._child.close()


def _publish(parent: Connection, settings: Settings) -> None:
    env = Env(settings)
    try:
        while True:
            parent.send(_keep_time(env, parent.recv()))
    except EOFError:
        env.close()


def _keep_time(env: Env, load: Steady) -> dict[int, int]:
    a_group, total = round(load.rate * GROUP_SECONDS), int(load.rate * load.seconds)
    published: dict[int, int] = {}
    started = time.monotonic()
    while len(published) < total:
        time.sleep(max(0.0, started + len(published) / a_group * GROUP_SECONDS - time.monotonic()))
        # All that is due by now: what is late has been late since its own moment, and holds up nothing after it.
        groups = 1 + int((time.monotonic() - started) / GROUP_SECONDS)
        late = range(len(published), min(groups * a_group, total))
        numbers = range(load.first + late.start, load.first + late.stop)
        now = env.clock()
        new = [
            message_of(load.merchant_id, number, now, load.event_types[number % len(load.event_types)])
            for number in numbers
        ]
        with env.database.begin() as tx:
            due = address(tx, add_messages(tx, new, now), now)
        env.bell.ring("deliveries", due)
        moments = (started + at // a_group * GROUP_SECONDS for at in late)
        published |= {number: int(moment * 1e9) for number, moment in zip(numbers, moments, strict=True)}
    return published
