"""The sweep. Any number of relays may run: ringing twice does no harm."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from billhook.metrics import Metrics
from billhook.parts import Part, Parts
from billhook.queue.bell import Bell
from billhook.queue.broker import DoorbellBroker
from billhook.runtime.clock import Clock
from billhook.store import work
from billhook.store.database import Database, is_store_away
from billhook.store.queues import BELLS

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.5

GRACE = timedelta(seconds=0.5)
"""Work is rung for by the process that makes it due; only after this long the relay rings for it too."""

LIMIT = 2_000
"""Ids a sweep rings for in one queue: what a consumer does in about a second. Where as many are due, it rings without
naming them: consumers then read SQL, in order, and leave alone what they have no room for."""

PUT_RIGHT_EVERY_SECONDS = 5.0


class Sweeper:
    """The loop."""

    def __init__(
        self,
        database: Database,
        broker: DoorbellBroker,
        bell: Bell,
        metrics: Metrics,
        clock: Clock,
        parts: Parts,
    ) -> None:
        self._database = database
        self._broker = broker
        self._bell = bell
        self._metrics = metrics
        self._clock = clock
        self._parts = parts
        self._any_due = work.AnyDue({queue: (lane.table, lane.only) for queue, lane in BELLS.items()})
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = self._parts.start("sweep", self._run)

    def stop(self, timeout: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        put_right_at = float("-inf")
        while not self._stopping.wait(EVERY_SECONDS):
            part.tick()
            try:
                self.sweep()
                self._database.checkpoint()
                if time.monotonic() - put_right_at >= PUT_RIGHT_EVERY_SECONDS:
                    self.put_right()
                    put_right_at = time.monotonic()
            except Exception as error:
                if not is_store_away(error):
                    log.error("sweep failed", extra={"reason": str(error)})
                continue
            self._metrics.swept_at.set_to_current_time()

    def sweep(self) -> dict[str, int]:
        """Ring for what is due; returns how much that is in each queue, up to `LIMIT`."""
        now = self._clock() - GRACE
        with self._database.read() as tx:
            due = self._any_due.ask(tx, now)
        rung = dict.fromkeys(BELLS.keys() - due, 0)
        for queue, lane in BELLS.items():
            if queue not in due or self._has_rings(queue):
                continue  # its consumers have not fetched the last rings yet
            with self._database.read() as tx:
                ids = work.due_ids(tx, lane.table, now=now, limit=LIMIT, only=lane.only)
            if len(ids) == LIMIT:
                self._bell.look(queue)
            elif ids:
                self._bell.ring(queue, ids)
            if ids:
                self._metrics.rerung.labels(queue).inc(len(ids))
            rung[queue] = len(ids)
        return rung

    def _has_rings(self, queue: str) -> bool:
        try:
            return self._broker.waiting(queue) > 0
        except Exception:
            return True  # the queue is away: consumers read SQL themselves until it is back

    def put_right(self) -> None:
        """Find what waits because a clock was ahead when it was put off."""
        now = self._clock()
        with self._database.begin(durable=False) as tx:
            counts = {
                queue: work.put_right(tx, lane.table, lane.mistimed, now, lane.only) for queue, lane in BELLS.items()
            }
        if found := {queue: count for queue, count in counts.items() if count}:
            log.warning("a clock was ahead, and put work off too far: put right", extra={"count": found})
