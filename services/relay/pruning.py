"""Pruning: what is past its time is deleted beside everything else, a bounded batch at a time."""

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
from billhook.store.database import Database, Tx, is_store_away

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2
"""Between two batches, for the others: 5,000 rows of each table a second are deleted all the same."""

EVERY_SECONDS = 3600.0
"""When nothing is left: what is kept for days can be an hour older."""

AFTER_ERROR_SECONDS = 60.0


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
    def jobs(self) -> Iterator[tuple[str, int, Callable[[Tx, datetime], int]]]:
        """What is deleted as rows, in an order in which nothing is left behind that others refer to."""
        yield "delivery_attempts", self.attempts, retention.delete_attempts
        yield "idempotency_keys", self.messages, retention.delete_idempotency_keys
        # Without its body a delivery can be shown; the other way round a body would be sent to nobody's knowledge.
        kept = max(self.deliveries, self.messages) if self.deliveries and self.messages else 0
        yield "deliveries", kept, retention.delete_deliveries
        # A row of a message keeps its event from being announced twice, so it stays as long as the event does.
        yield "message_rows", max(kept, self.events) if kept and self.events else 0, retention.delete_messages
        yield "inbox", self.events, retention.delete_events
        yield "mails", self.mails, retention.delete_mails
        yield "dead_letters", self.records, retention.delete_letters
        yield "jobs", self.records, retention.delete_jobs
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
        more = self._empty_messages(now) if self._keep.messages else False
        for table, days, delete in self._keep.jobs:
            if days:
                more |= self._delete(table, delete, now - timedelta(days=days))
        if self._keep.documents:
            more |= self._delete_documents(now - timedelta(days=self._keep.documents))
        return more

    def _delete_documents(self, before: datetime) -> bool:
        """The files first: a row without its file is found again, a file without its row would be there for ever."""
        with self._database.begin() as tx:
            old = retention.old_documents(tx, before)
        for _, key in old:
            if key is not None:
                self._objects().delete(key)
        with self._database.begin() as tx:
            count = retention.delete_documents(tx, [document_id for document_id, _ in old])
        self._metrics.pruned.labels("documents").inc(count)
        return count == retention.BATCH

    def _delete(self, table: str, delete: Callable[[Tx, datetime], int], before: datetime) -> bool:
        with self._database.begin() as tx:
            count = delete(tx, before)
        self._metrics.pruned.labels(table).inc(count)
        return count == retention.BATCH

    def _empty_messages(self, now: datetime) -> bool:
        with self._database.begin() as tx:
            pruned = retention.prune_messages(tx, now - timedelta(days=self._keep.messages), now, after=self._after)
        self._metrics.pruned.labels("messages").inc(pruned.count)
        self._after = pruned.last or ""
        return pruned.last is not None
