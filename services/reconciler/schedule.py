"""When runs are made: hourly over the last three hours, nightly over 35 days, weekly over everything.

Any number of reconcilers keep one schedule: a slot of a source is taken once, by whoever comes first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from billhook.actions.reconciliation import SETTLE, run_of
from billhook.parts import Part, Parts
from billhook.queue.bell import Bell
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import can_be_asked
from billhook.store.database import Database, is_store_away
from billhook.store.reconciliation import add_run, reconciliation_runs
from billhook.store.sources import Source, list_sources

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
EVERYTHING: Final = datetime(2010, 1, 1, tzinfo=UTC)
"""Before any provider that billhook knows had an object."""


class Scheduler:
    """The loop that makes what is due."""

    def __init__(self, database: Database, bell: Bell, clock: Clock, parts: Parts) -> None:
        self._parts = parts
        self._database = database
        self._bell = bell
        self._clock = clock
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = self._parts.start("schedule", self._run)

    def stop(self, timeout: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, part: Part) -> None:
        part.rest()
        while not self._stopping.wait(EVERY_SECONDS):
            part.tick()
            try:
                self.make_due()
            except Exception as error:
                if not is_store_away(error):
                    log.error("no runs made", extra={"reason": str(error)[:500]})
            part.rest()

    def make_due(self) -> list[str]:
        """Make the runs whose slot has begun; returns their ids."""
        now = self._clock()
        made = []
        with self._database.begin() as tx:
            for source in list_sources(tx):
                if source.disabled_at is None and can_be_asked(source):
                    for slot, since in slots(source, now):
                        made.append(add_run(tx, run_of(source, since, now, by="schedule", slot=slot), now))
        ids = [run_id for run_id in made if run_id is not None]
        if ids:
            self._bell.ring(reconciliation_runs.name, ids)
        return ids


def slots(source: Source, now: datetime) -> Sequence[tuple[str, datetime]]:
    """The slots that `now` is in, and since when a run of each compares. One that began before the source was made is
    not made up for, and the longer ones wait until the hour after midnight (UTC)."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    found = [(f"hour {hour:%Y-%m-%dT%H}", now - timedelta(hours=3) - SETTLE)]
    if now.hour == 1:
        found.append((f"night {hour:%Y-%m-%d}", now - timedelta(days=35)))
        if now.isoweekday() == 7:
            found.append((f"week {hour:%G-W%V}", EVERYTHING))
    return [(slot, since) for slot, since in found if source.created_at <= hour]
