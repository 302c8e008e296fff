"""What the ingress commits together: one transaction of all arrivals that wait."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from billhook.errors import BodyRefused
from billhook.metrics import Metrics
from billhook.queue.bell import Bell
from billhook.runtime.clock import Clock
from billhook.runtime.group_commit import GroupCommit
from billhook.runtime.service import Health
from billhook.store.database import Database, is_store_away, is_unwritable
from billhook.store.inbox import Arrival, Receipt, accept, insert_new
from services.ingress.room import Room

if TYPE_CHECKING:
    from billhook.tracing import Tracing

log = logging.getLogger(__name__)

BATCH: Final = 256


def inbox_line(
    database: Database, bell: Bell, metrics: Metrics, clock: Clock, health: Health, tracing: Tracing | None = None
) -> GroupCommit[Arrival, Receipt]:
    """Where arrivals wait. `submit` returns when one is durable; it raises `BodyRefused` for what no database could
    take, and whatever the database raised when it was away: then nothing of it is stored."""
    store = InboxCommit(database, bell, metrics, clock, health, tracing)
    return GroupCommit("commit", store, largest=BATCH, size=lambda arrival: len(arrival.body))


class InboxCommit:
    """Stores what has gathered, and rings for it."""

    def __init__(
        self,
        database: Database,
        bell: Bell,
        metrics: Metrics,
        clock: Clock,
        health: Health,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._bell = bell
        self._metrics = metrics
        self._clock = clock
        self._room = Room(health, self)
        self._tracing = tracing

    def __call__(self, arrivals: Sequence[Arrival]) -> list[Receipt | Exception]:
        self._metrics.commit_rows.observe(len(arrivals))
        try:
            receipts = self._accept(arrivals) if self._tracing is None else self._traced(self._tracing, arrivals)
        except Exception as error:
            if is_unwritable(error):
                self._room.lacking(arrivals, error)
                raise
            if is_store_away(error):
                raise
            if len(arrivals) == 1:
                log.error("event not stored: the database refused it", exc_info=error)
                return [BodyRefused("not_storable", "The event holds something that no database column can hold.")]
            # One of them caused the error. Each is tried by itself, so that the others do not fail with it.
            return [result for arrival in arrivals for result in self([arrival])]
        self._bell.ring("inbox", [receipt.id for receipt in receipts if receipt.to_do])
        return list(receipts)

    def _traced(self, tracing: Tracing, arrivals: Sequence[Arrival]) -> list[Receipt]:
        members = [arrival.traceparent for arrival in arrivals]
        with tracing.together("commit inbox", members, {"count": len(arrivals)}):
            return self._accept(arrivals)

    def _accept(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        now = self._clock()
        with self._database.statement() as run:
            all_new = insert_new(run, arrivals, now, sqlite=self._database.sqlite)
        if all_new:
            return [Receipt(arrival.id, "accepted", to_do=True) for arrival in arrivals]
        with self._database.begin() as tx:
            # Those just stored are found under their own ids, and count as accepted.
            return accept(tx, arrivals, now)
