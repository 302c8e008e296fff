"""The exporter: what the ledger holds, for Prometheus. Relays read it beside everything else, so that neither a scrape
nor a consumer waits for it.

What cannot be read is not exported: an age that stands still through an outage would say that all is well. Every relay
exports the same, so rules take the `max`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Iterable, Mapping

from prometheus_client import Gauge

from billhook.metrics import Metrics
from billhook.parts import Part, Parts
from billhook.rules.dunning import CAUSES, STAGES, ended
from billhook.rules.reconcile import FINDING_CLASSES
from billhook.rules.retry import REASON_CLASSES, REFUSED
from billhook.runtime.clock import Clock
from billhook.store.database import Database, is_store_away
from billhook.store.measures import Measured, measure
from billhook.store.queues import BELLS, QUEUES

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0

LONGEST_PAUSE_SECONDS = 30.0
MOST_SHARE = 0.02
"""Of the time. Where a hundred thousand are due, one measurement takes a quarter of a second."""

AT_REST = 6
"""Where nothing was written and nothing waits, only one of so many measurements is made: what it finds grows older, and
is the same else."""


def pause_after(took: float) -> float:
    """How long to wait with the next one."""
    return min(max(EVERY_SECONDS, took / MOST_SHARE), LONGEST_PAUSE_SECONDS)


class Exporter:
    """The loop."""

    def __init__(self, database: Database, metrics: Metrics, clock: Clock, parts: Parts) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._parts = parts
        self._seen: Hashable | None = None
        """The last write before a measurement that found nothing to do, now or later."""
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = self._parts.start("exporter", self._run)

    def stop(self, timeout: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        turns = 0
        while True:
            part.tick()
            turns += 1
            began = time.monotonic()
            if turns >= AT_REST or not self.is_at_rest():
                self.read()
                turns = 0
            part.rest()
            if self._stopping.wait(pause_after(time.monotonic() - began)):
                return

    def is_at_rest(self) -> bool:
        """Whether another measurement would find what the last one did, which was nothing to do."""
        return self._seen is not None and self._seen == self._last_write()

    def _last_write(self) -> Hashable | None:
        try:
            return self._database.last_write()
        except Exception as error:
            if not is_store_away(error):
                raise
            return None  # the measurement that follows finds out, too

    def read(self) -> None:
        """Export the ledger as it is now, or nothing of it."""
        seen, self._seen = self._last_write(), None
        try:
            with self._database.read() as tx:
                measured = measure(tx, self._clock())
        except Exception as error:
            self._metrics.forget_ledger()
            if not is_store_away(error):
                log.error("the ledger was not measured", extra={"reason": str(error)[:500]})
            return
        self._export(measured)
        if not any(backlog.ready or backlog.scheduled or backlog.running for backlog in measured.backlogs.values()):
            self._seen = seen

    def _export(self, measured: Measured) -> None:
        metrics = self._metrics
        for queue, backlog in measured.backlogs.items():
            metrics.ready.labels(queue).set(backlog.ready)
            metrics.running.labels(queue).set(backlog.running)
            metrics.scheduled.labels(queue).set(backlog.scheduled)
            metrics.expired.labels(queue).set(backlog.expired_leases)
            metrics.oldest.labels(queue).set(backlog.oldest_ready_seconds)
            metrics.latency_target.labels(queue).set(BELLS[queue].target_seconds)
            metrics.queue_paused.labels(queue).set(measured.paused[queue])
        letters = {(queue, reason): 0 for queue in QUEUES for reason in (*REASON_CLASSES, REFUSED)}
        for labels, count in (letters | measured.dead_letters).items():
            metrics.dead_letters.labels(*labels).set(count)
        metrics.held_deliveries.set(measured.held_deliveries)
        metrics.failing_endpoints.set(measured.failing_endpoints)
        metrics.disabled_endpoints.set(measured.disabled_endpoints)
        running = [stage for stage in STAGES if not ended(stage)]
        _set(metrics.dunning_cases, measured.dunning_cases, running)
        _set(metrics.dunning_steps, {cause: measured.dunning_steps.get(cause, 0) for cause in CAUSES})
        _set(metrics.dunning_ended, measured.dunning_ended, [stage for stage in STAGES if ended(stage)])
        _set(metrics.recovered, measured.recovered)
        _set(metrics.findings, measured.findings, FINDING_CLASSES)
        _set(metrics.reconciliation_age, measured.reconciliation_ages)
        metrics.schema.set(measured.schema)


def _set(gauge: Gauge, values: Mapping[str, float], always: Iterable[str] = ()) -> None:
    """One series for each value; those in `always` are 0 where there is none, and others that have gone go."""
    shown = {**dict.fromkeys(always, 0.0), **values}
    for sample in [sample for family in gauge.collect() for sample in family.samples]:
        (label,) = sample.labels.values()
        if label not in shown:
            gauge.remove(label)
    for label, value in shown.items():
        gauge.labels(label).set(value)
