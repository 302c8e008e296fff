"""Group commit: all requests that wait share the next transaction.

While one commit is under way, arrivals gather; the next takes all of them (up to a batch). Nobody waits on purpose:
with one request there is one row a commit, with a thousand there are hundreds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence

from billhook.errors import BodyRefused
from billhook.metrics import Metrics
from billhook.queue.bell import Bell
from billhook.runtime.clock import Clock
from billhook.store.database import Database, is_store_away
from billhook.store.inbox import Arrival, Receipt, accept, insert_new

log = logging.getLogger(__name__)

BATCH = 256

WAITING_LIMIT = 4096
"""Requests that may wait for a commit; more are refused at once. At the slowest store measured (2,800 events/s) the
last of them waits 1.5 s."""

WAITING_BYTES_LIMIT = 256 * 1024 * 1024
"""Of bodies in the line: 4,096 of the largest would be 4 GiB."""


class LineFull(Exception):
    """The waiting line is as long as it may be."""


class GroupCommit:
    """The line of arrivals and the thread that commits them."""

    def __init__(self, database: Database, bell: Bell, metrics: Metrics, clock: Clock) -> None:
        self._database = database
        self._bell = bell
        self._metrics = metrics
        self._clock = clock
        self._line: deque[tuple[Arrival, asyncio.Future[Receipt]]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits and stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    async def commit(self, arrival: Arrival) -> Receipt:
        """Return when the arrival is durable. Raises `LineFull`, `BodyRefused` for what no database could take, or
        whatever the database raised when it was away: then nothing of it is stored."""
        assert self._loop is not None
        future: asyncio.Future[Receipt] = self._loop.create_future()
        with self._changed:
            if len(self._line) >= WAITING_LIMIT or self._bytes > WAITING_BYTES_LIMIT:
                raise LineFull
            self._line.append((arrival, future))
            self._bytes += len(arrival.body)
            if len(self._line) == 1:
                self._changed.notify()
        return await future

    def _run(self) -> None:
        assert self._loop is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._stopping)
                if not self._line:
                    return
                batch = [self._line.popleft() for _ in range(min(len(self._line), BATCH))]
                self._bytes -= sum(len(arrival.body) for arrival, _ in batch)
            results = self._store([arrival for arrival, _ in batch])
            self._loop.call_soon_threadsafe(_resolve, [future for _, future in batch], results)

    def _store(self, arrivals: Sequence[Arrival]) -> list[Receipt | Exception]:
        self._metrics.commit_rows.observe(len(arrivals))
        try:
            receipts = self._accept(arrivals)
        except Exception as error:
            if is_store_away(error):
                log.error("events not stored: the database is away", extra={"count": len(arrivals)})
                return [error] * len(arrivals)
            if len(arrivals) == 1:
                log.error("event not stored: the database refused it", exc_info=error)
                return [BodyRefused("not_storable", "The event holds something that no database column can hold.")]
            # One of them is to blame. Each by itself: the others must not pay for it.
            return [result for arrival in arrivals for result in self._store([arrival])]
        self._bell.ring("inbox", [receipt.id for receipt in receipts if receipt.to_do])
        return list(receipts)

    def _accept(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        now = self._clock()
        with self._database.statement() as tx:
            all_new = insert_new(tx, arrivals, now)
        if all_new:
            return [Receipt(arrival.id, "accepted", to_do=True) for arrival in arrivals]
        with self._database.begin() as tx:
            # Those just stored are found under their own ids, and count as accepted.
            return accept(tx, arrivals, now)


def _resolve(futures: Sequence[asyncio.Future[Receipt]], results: Sequence[Receipt | Exception]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():  # the sender went away; its event is stored all the same
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
