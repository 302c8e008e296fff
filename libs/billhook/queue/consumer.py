"""The consumer: a thread that takes what is rung for, and has it done in batches (`steps.py`)."""

from __future__ import annotations

import logging
import threading
from typing import Generic

from billhook.metrics import Metrics
from billhook.parts import Part, Parts
from billhook.queue.bell import Listener
from billhook.queue.handler import E, J
from billhook.queue.steps import Steps
from billhook.store.database import is_outage

log = logging.getLogger(__name__)

IDLE_LOOK_SECONDS = 5.0
"""How long at most until another look, where nothing is due for now. What is due earlier after all is rung for, at the
latest by the relay, a second later."""


class BatchConsumer(Generic[J, E]):
    """A thread that takes batches from a listener and does them."""

    def __init__(
        self,
        steps: Steps[J, E],
        listener: Listener,
        metrics: Metrics,
        parts: Parts,
        *,
        look_seconds: float | None = None,
    ) -> None:
        """`look_seconds`: how often to look into SQL without a ring, for work that defers itself by moments again and
        again: nothing rings for that, and the sweep would find it up to a second later."""
        self._look_seconds = look_seconds
        self._steps = steps
        self._listener = listener
        self._metrics = metrics
        self._parts = parts
        self._stopping = threading.Event()
        self._capacity = metrics.job_capacity.labels(steps.queue)

    def start(self) -> None:
        self._capacity.inc(self._steps.handler.batch)
        self._thread = self._parts.start(f"consumer of {self._steps.queue}", self._run)

    def stop(self, timeout: float) -> bool:
        """Finish the batch in hand and stop; False if it did not end in time (its lease will run out)."""
        self._stopping.set()
        self._capacity.dec(self._steps.handler.batch)
        self._listener.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        patience = self._look_seconds or IDLE_LOOK_SECONDS
        while not self._stopping.is_set():
            part.rest()
            ids = self._listener.take(self._steps.handler.batch, timeout=patience)
            part.tick()
            if ids == [] and self._look_seconds is None:
                continue
            try:
                if ids == [] and (wait := self._steps.until_due(0.0, IDLE_LOOK_SECONDS)) > 0:
                    patience = wait
                    continue
                done = self._steps.run(ids or None)
                if self._look_seconds is not None and not done:
                    patience = self._steps.until_due(self._look_seconds, IDLE_LOOK_SECONDS)
                else:
                    patience = self._look_seconds or IDLE_LOOK_SECONDS
            except Exception as error:
                self._metrics.store_errors.labels(self._steps.queue).inc()
                if not is_outage(error):
                    log.error("no transaction", extra={"queue": self._steps.queue}, exc_info=error)
                self._stopping.wait(1.0)
                self._listener.look()
                continue
            if not ids and done >= self._steps.handler.batch:
                self._listener.look()
