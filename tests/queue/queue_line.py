"""Both ends of a queue on one broker, closed together."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from billhook.metrics import Metrics
from billhook.queue.bell import Bell, Listener
from billhook.queue.broker import DoorbellBroker


class Line:
    def __init__(self, url: str, queue: str = "inbox") -> None:
        self.url = url
        self.queue = queue
        self.metrics = Metrics()
        self.broker = DoorbellBroker(url)
        self.bell = Bell(self.broker, self.metrics)
        self.listener = Listener(self.broker, queue, self.metrics)

    def open(self) -> None:
        """Listen, past the first look into SQL, until Redis answers."""
        until(lambda: self.listener.take(1, timeout=0.1) == [])

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"billhook_{name}", {"queue": self.queue, **labels}) or 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.listener.close()
        self.bell.close()
        self.broker.client.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
