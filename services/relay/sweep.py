"""The sweep. Any number of relays may run: ringing twice does no harm."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

from billhook.metrics import Metrics
from billhook.parts import Part, Parts
from billhook.queue.bell import Bell
from billhook.queue.broker import DoorbellBroker
from billhook.runtime.clock import Clock
from billhook.store import work
from billhook.store.database import Database, is_outage
from billhook.store.queues import BELLS

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.5

GRACE = timedelta(seconds=0.5)
"""Work is rung for by the process that makes it due; only after this long the relay rings for it too."""

LIMIT = 256
"""Ids a sweep rings for in one queue: two batches of a consumer. Where as many are due, it rings without naming them:
consumers then read SQL, in order, and leave alone what they have no room for. Named one by one, what waits for room
would be asked about twice a second, in front of what has just been rung for."""

PUT_RIGHT_EVERY_SECONDS = 5.0

STEP_SECONDS = 1.0
"""A clock that was moved by more was set. By less, it is adjusted all the time."""

UNASKED_SECONDS = 15.0
"""Where nothing was written since the last sweep and nothing has fallen due, another would find the same. After so long
it is made all the same."""


@dataclass(frozen=True)
class Stamp:
    """What changes when somebody writes, or sets the clock."""

    written: Hashable
    clock_ahead: float
    """Of the time since this machine's start, in seconds."""


def _same(one: Stamp | None, other: Stamp | None) -> bool:
    if one is None or other is None:
        return False
    return one.written == other.written and abs(one.clock_ahead - other.clock_ahead) < STEP_SECONDS


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
        self._first_due = work.FirstDue(
            {queue: (lane.table, lane.only) for queue, lane in BELLS.items()}, database.engine.dialect
        )
        self._seen: Stamp | None = None
        """How things stood at the last sweep, which found nothing due."""
        self._first: datetime | None = None
        """When the first falls due of what it found."""
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = self._parts.start("sweep", self._run)

    def stop(self, timeout: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        put_right_at = swept_at = float("-inf")
        put_right_as: Stamp | None = None
        while not self._stopping.wait(EVERY_SECONDS):
            part.tick()
            try:
                now, stamp = time.monotonic(), self.stamp()
                if now - swept_at >= UNASKED_SECONDS or not self.would_find_nothing(stamp):
                    self.sweep(stamp)
                    self._database.checkpoint()
                    swept_at = now
                if now - put_right_at >= PUT_RIGHT_EVERY_SECONDS and not _same(stamp, put_right_as):
                    self.put_right()
                    put_right_at, put_right_as = now, stamp
            except Exception as error:
                if not is_outage(error):
                    log.error("sweep failed", extra={"reason": str(error)})
                continue
            self._metrics.swept_at.set_to_current_time()

    def sweep(self, stamp: Stamp | None = None) -> dict[str, int]:
        """Ring for what is due; returns how much that is in each queue, up to `LIMIT`. `stamp`: how things stood
        before it began, where that is to be remembered."""
        now = self._clock() - GRACE
        with self._database.question() as run:
            first = self._first_due.ask(run)
        due = {queue for queue, at in first.items() if at <= now}
        self._seen, self._first = None if due else stamp, min(first.values(), default=None)
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

    def would_find_nothing(self, stamp: Stamp | None) -> bool:
        """Whether another sweep would find what the last one did, which was nothing."""
        if not _same(self._seen, stamp):
            return False
        return self._first is None or self._first > self._clock() - GRACE

    def stamp(self) -> Stamp | None:
        written = self._database.last_write()
        return None if written is None else Stamp(written, self._clock().timestamp() - time.monotonic())

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
