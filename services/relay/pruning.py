"""Pruning: old attempts and bodies are deleted beside everything else, a bounded batch at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from billhook.metrics import Metrics
from billhook.parts import Part, Parts
from billhook.runtime.clock import Clock
from billhook.store import retention
from billhook.store.database import Database, Tx, is_store_away

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2
"""Between two batches, for the others: 5,000 rows of each table a second are deleted all the same."""

EVERY_SECONDS = 3600.0
"""When nothing is left: what is kept for days can be an hour older."""

AFTER_ERROR_SECONDS = 60.0


class Pruner:
    """The loop. Zero days keep everything."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        clock: Clock,
        parts: Parts,
        *,
        keep_attempts_days: int,
        keep_messages_days: int,
    ) -> None:
        self._parts = parts
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._keep_attempts = timedelta(days=keep_attempts_days)
        self._keep_messages = timedelta(days=keep_messages_days)
        self._after = ""
        """The last message that was looked at in this round."""
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = self._parts.start("pruner", self._run)

    def stop(self, timeout: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        wait = PAUSE_SECONDS
        part.rest()
        while not self._stopping.wait(wait):
            part.tick()
            try:
                wait = PAUSE_SECONDS if self.prune() else EVERY_SECONDS
            except Exception as error:
                if not is_store_away(error):
                    log.error("not pruned", extra={"reason": str(error)[:500]})
                wait = AFTER_ERROR_SECONDS
            part.rest()

    def prune(self) -> bool:
        """A batch of each table; returns whether there may be more."""
        now = self._clock()
        more = False
        if self._keep_attempts:
            more |= self._delete("delivery_attempts", retention.delete_attempts, now - self._keep_attempts)
        if self._keep_messages:
            more |= self._delete("idempotency_keys", retention.delete_idempotency_keys, now - self._keep_messages)
            more |= self._empty_messages(now)
        return more

    def _delete(self, table: str, delete: Callable[[Tx, datetime], int], before: datetime) -> bool:
        with self._database.begin() as tx:
            count = delete(tx, before)
        self._metrics.pruned.labels(table).inc(count)
        return count == retention.BATCH

    def _empty_messages(self, now: datetime) -> bool:
        with self._database.begin() as tx:
            pruned = retention.prune_messages(tx, now - self._keep_messages, now, after=self._after)
        self._metrics.pruned.labels("messages").inc(pruned.count)
        self._after = pruned.last or ""
        return pruned.last is not None
