"""When runs are made: hourly over the last three hours, nightly over 35 days, weekly over everything; and after an
outage, or a burst of conflicts.

Any number of reconcilers keep one schedule: a slot of a source is taken once, by whoever comes first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from billhook.actions.reconciliation import SETTLE, lists_of, run_of
from billhook.parts import Part, Parts
from billhook.queue.bell import Bell
from billhook.runtime.clock import Clock
from billhook.store.consistency.checks import FILES
from billhook.store.database import Database, Tx, is_outage
from billhook.store.inbox import conflict_counts
from billhook.store.merchants import list_merchants
from billhook.store.reconciliation import DONE, SCHEDULE, add_run, ended_runs, reconciliation_runs
from billhook.store.sources import Source, list_sources

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
EVERYTHING: Final = datetime(2010, 1, 1, tzinfo=UTC)
"""Before any provider that billhook knows had an object."""
NIGHT: Final = "night"
"""The slot in which files are read, a share of them (`store/file_walks.py`)."""
RUNS_OF_A_WEEK: Final = 200
MOST_MERCHANTS: Final = 1_000_000
BURST: Final = 10
BURST_WITHIN: Final = timedelta(minutes=10)
BURST_LOOKS_BACK: Final = timedelta(days=1)


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
                if not is_outage(error):
                    log.error("no runs made", extra={"reason": str(error)[:500]})
            part.rest()

    def make_due(self) -> list[str]:
        """Make the runs whose slot has begun; returns their ids."""
        now = self._clock()
        made = []
        with self._database.begin() as tx:
            sources = [source for source in list_sources(tx) if source.disabled_at is None]
            for source in sources:
                due = [*slots(source.created_at, now), *_after_an_outage(tx, source.id)]
                made += [self._make(tx, source, slot, since, now) for slot, since in due]
            for source, slot in _bursts(tx, sources, now):
                made.append(add_run(tx, run_of(source, now - BURST_LOOKS_BACK, now, by="burst", slot=slot), now))
            for merchant in list_merchants(tx, limit=MOST_MERCHANTS):
                for slot, since in slots(merchant.created_at, now):
                    made.append(self._make(tx, merchant.id, slot, since, now))
        ids = [run_id for run_id in made if run_id is not None]
        if ids:
            self._bell.ring(reconciliation_runs.name, ids)
        return ids

    def _make(self, tx: Tx, whose: Source | str, slot: str, since: datetime, now: datetime) -> str | None:
        nightly = slot.startswith(NIGHT)
        lists = [name for name in lists_of(whose) if nightly or name != FILES]
        return add_run(tx, run_of(whose, since, now, by=SCHEDULE, lists=lists, slot=slot), now)


def slots(created_at: datetime, now: datetime) -> Sequence[tuple[str, datetime]]:
    """The slots that `now` is in, and since when a run of each compares. One that began before there was anything to
    compare is not made up for, and the longer ones wait until the hour after midnight (UTC)."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    found = [(f"hour {hour:%Y-%m-%dT%H}", now - timedelta(hours=3) - SETTLE)]
    if now.hour == 1:
        found.append((f"{NIGHT} {hour:%Y-%m-%d}", now - timedelta(days=35)))
        if now.isoweekday() == 7:
            found.append((f"week {hour:%G-W%V}", EVERYTHING))
    return [(slot, since) for slot, since in found if created_at <= hour]


def _after_an_outage(tx: Tx, source_id: str) -> list[tuple[str, datetime]]:
    """What lies between the last scheduled run that compared everything and the one before it, if they leave anything
    out: billhook was down, or the provider was, and both are back."""
    ended = ended_runs(tx, source_id, SCHEDULE, limit=RUNS_OF_A_WEEK)
    if not ended or ended[0].state != DONE:
        return []
    before = next((run for run in ended[1:] if run.state == DONE), None)
    if before is None or before.until >= ended[0].since:
        return []
    return [(f"after {before.id}", before.until - SETTLE)]


def _bursts(tx: Tx, sources: Sequence[Source], now: datetime) -> list[tuple[Source, str]]:
    """Sources of which known events came with other bytes again and again: what they said first may not be true."""
    counts = conflict_counts(tx, now - BURST_WITHIN)
    slot = f"burst {now:%Y-%m-%dT%H}"
    return [(source, slot) for source in sources if counts.get(source.id, 0) >= BURST]
