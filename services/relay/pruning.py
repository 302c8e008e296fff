"""Pruning: what is past its time is deleted beside everything else, a bounded batch at a time.

Each table is walked from its oldest row on. A round goes on where the last one ended, so that it costs what has grown
old since; what could not go when the walk came by is looked at again a day later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from billhook.metrics import Metrics
from billhook.outlets.objects import Objects
from billhook.parts import Part, Parts
from billhook.runtime.clock import Clock
from billhook.runtime.settings import Settings
from billhook.store import retention
from billhook.store.database import Database, Tx, is_outage
from billhook.store.retention import Walked

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2
"""Between two batches, for the others: 5,000 rows of each table a second are deleted all the same."""

EVERY_SECONDS = 3600.0
"""When nothing is left: what is kept for days can be an hour older."""

AFTER_ERROR_SECONDS = 60.0

FROM_THE_BEGINNING_EVERY = timedelta(days=1)


Delete = Callable[[Tx, datetime, str], Walked]


@dataclass(frozen=True)
class Keep:
    """For how many days each is kept; 0 is for ever."""

    attempts: int = 0
    messages: int = 0
    deliveries: int = 0
    events: int = 0
    mails: int = 0
    documents: int = 0
    records: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Keep:
        return cls(**{field.name: getattr(settings, f"keep_{field.name}_days") for field in fields(cls)})

    @property
    def deliveries_too(self) -> int:
        # Without its body a delivery can be shown; the other way round a body would be sent to nobody's knowledge.
        return max(self.deliveries, self.messages) if self.deliveries and self.messages else 0

    @property
    def message_rows(self) -> int:
        # A row of a message keeps its event from being announced twice, so it stays as long as the event does.
        return max(self.deliveries_too, self.events) if self.deliveries_too and self.events else 0

    @property
    def jobs(self) -> Iterator[tuple[str, int, Delete]]:
        """What is deleted as rows, whatever becomes of the others."""
        yield "delivery_attempts", self.attempts, retention.delete_attempts
        yield "deliveries", self.deliveries_too, retention.delete_deliveries
        yield "inbox", self.events, retention.delete_events
        yield "mails", self.mails, retention.delete_mails
        yield "dead_letters", self.records, retention.delete_letters
        yield "replays", self.records, retention.delete_replays
        yield "reconciliation_runs", self.records, retention.delete_runs
        yield "findings", self.records, retention.delete_findings
        yield "dunning_steps", self.records, retention.delete_steps
        yield "operator_actions", self.records, retention.delete_actions
        yield "hosted_links", self.records, retention.delete_links


class Pruner:
    """The loop."""

    def __init__(
        self,
        database: Database,
        objects: Callable[[], Objects],
        metrics: Metrics,
        clock: Clock,
        parts: Parts,
        keep: Keep,
    ) -> None:
        self._parts = parts
        self._database = database
        self._objects = objects
        self._metrics = metrics
        self._clock = clock
        self._keep = keep
        self._places: dict[str, str] = {}
        """Behind which row the walk through each table goes on."""
        self._began: datetime | None = None
        """When the walks last began at the beginning."""
        self._in_round = False
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
                if not is_outage(error):
                    log.error("not pruned", extra={"reason": str(error)[:500]})
                wait = AFTER_ERROR_SECONDS
            part.rest()

    def prune(self) -> bool:
        """A batch of each table; returns whether there may be more."""
        now = self._clock()
        if not self._in_round and (self._began is None or now - self._began >= FROM_THE_BEGINNING_EVERY):
            self._places, self._began = {}, now
        self._in_round = self._batches(now)
        return self._in_round

    def _batches(self, now: datetime) -> bool:
        more = False
        if days := self._keep.messages:
            before = now - timedelta(days=days)
            more |= self._step("messages", lambda tx, place: retention.prune_messages(tx, before, now, after=place))
            more |= self._forget_keys(before)
        for table, days, delete in self._keep.jobs:
            if days:
                more |= self._delete(table, delete, now - timedelta(days=days))
        # What names messages goes before them, or the walk would come by too early.
        if self._keep.message_rows and not more:
            before = now - timedelta(days=self._keep.message_rows)
            more |= self._delete("message_rows", retention.delete_messages, before)
        if self._keep.documents:
            more |= self._delete_documents(now - timedelta(days=self._keep.documents))
        return more

    def _delete(self, table: str, delete: Delete, before: datetime) -> bool:
        return self._step(table, lambda tx, place: delete(tx, before, place))

    def _step(self, table: str, step: Callable[[Tx, str], Walked]) -> bool:
        with self._database.begin() as tx:
            walked = step(tx, self._places.get(table, ""))
        return self._walked(table, walked)

    def _walked(self, table: str, walked: Walked) -> bool:
        self._metrics.pruned.labels(table).inc(walked.count)
        self._places[table] = walked.last
        return walked.more

    def _forget_keys(self, before: datetime) -> bool:
        with self._database.begin() as tx:
            count = retention.delete_idempotency_keys(tx, before)
        self._metrics.pruned.labels("idempotency_keys").inc(count)
        return count == retention.BATCH

    def _delete_documents(self, before: datetime) -> bool:
        """The files first: a row without its file is found again, a file without its row would be there for ever."""
        with self._database.begin() as tx:
            old, walked = retention.old_documents(tx, before, self._places.get("documents", ""))
        for _, key in old:
            if key is not None:
                self._objects().delete(key)
        with self._database.begin() as tx:
            retention.delete_documents(tx, [document_id for document_id, _ in old])
        return self._walked("documents", walked)
