"""A dispatcher with a client that answers when the test says so, and bells that the test rings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from consumers.world import Silence, World

from billhook.outlets.webhooks.exchange import Request
from billhook.outlets.webhooks.response import Response
from billhook.parts import Parts
from billhook.queue.bell import Listener
from billhook.queue.steps import Steps
from billhook.rules.delivery import LANES
from services.courier.delivery import Delivery
from services.courier.dispatcher import Dispatcher

OK = Response("2xx", 200)


def until(happened: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


class HandBell:
    """A listener that looks into SQL whenever it is rung."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._rung.set()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._rung.set()

    def look(self) -> None:
        self._rung.set()

    def take(self, limit: int, timeout: float, *, rung_first: bool = False) -> list[str] | None:
        if not self._rung.wait(min(timeout, 0.05)) or self._closed:
            return []
        self._rung.clear()
        return None


@dataclass
class Client:
    """Notes what it is to send, and answers when the test says so."""

    sent: list[tuple[Request, Callable[[Response], None]]] = field(default_factory=list)
    closed: bool = False

    def send(self, request: Request, done: Callable[[Response], None]) -> None:
        self.sent.append((request, done))

    def close(self) -> None:
        self.closed = True

    @property
    def urls(self) -> list[str]:
        return [request.url for request, _ in self.sent]


class Office:
    def __init__(self, world: World, **handler: Any) -> None:
        self.world, self.client, self.parts = world, Client(), Parts()
        self.delivery = Delivery(world.vault)
        for name, value in handler.items():
            setattr(self.delivery, name, value)
        self.bells = {name: HandBell() for name in LANES}
        self.steps = Steps(self.delivery, world.database, Silence(), world.metrics, world.clock)
        self.dispatcher = Dispatcher(
            self.steps,
            world.database,
            lambda lane: cast(Listener, self.bells[lane]),
            lambda connections: self.client,
            world.metrics,
            world.clock,
            self.parts,
            world.tracing,
        )

    def look(self) -> None:
        for bell in self.bells.values():
            bell.look()

    def answer(self, *responses: Response) -> None:
        """To what was sent and not answered, in order; `OK` to the rest."""
        waiting, self.client.sent = self.client.sent, []
        given = [*responses, *[OK] * len(waiting)]
        for (_, done), response in zip(waiting, given, strict=False):
            done(response)

    def states(self) -> Sequence[str]:
        return [state for (state,) in self.world.rows("deliveries", "state")]


@contextmanager
def dispatching(world: World, **handler: Any) -> Iterator[Office]:
    office = Office(world, **handler)
    office.dispatcher.start()
    try:
        yield office
    finally:
        office.dispatcher.stop(0 if office.client.sent else 30)
