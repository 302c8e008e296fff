"""The rounds: many deliveries under way at once in one event loop, between two kinds of transaction.

    claimer  takes a batch when there is room ─▶ a task a delivery ─▶ settler writes whatever has come back meanwhile

Nobody waits for anybody else's endpoint: a slow one holds its own tasks, and the settler never waits for a whole batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from billhook.metrics import Metrics
from billhook.outlets.http import Poster
from billhook.queue.bell import Listener
from billhook.queue.consumer import Steps
from billhook.runtime.clock import Clock
from billhook.store.deliveries import Attempt, deliveries
from services.courier.delivery import Delivery, Errand, Result

log = logging.getLogger(__name__)

IN_FLIGHT = 256
"""Requests under way in one process. A Python process sends some 1,500 a second; at 100 ms each that is 150 of them."""

PER_ENDPOINT = 128
"""Of these, what one endpoint may hold (and a batch more, since a claim takes many at once): the hanging ones leave
room for the others."""


class Rounds:
    """The courier's loop, in a thread of its own."""

    def __init__(
        self,
        steps: Steps[Errand, Attempt | None],
        listener: Listener,
        metrics: Metrics,
        clock: Clock,
        tick: Callable[[], None],
    ) -> None:
        assert isinstance(steps.handler, Delivery)
        self._delivery = steps.handler
        self._steps = steps
        self._listener = listener
        self._metrics = metrics
        self._clock = clock
        self._tick = tick
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="rounds", daemon=True)
        self._busy: dict[str, int] = defaultdict(int)
        self._tokens: dict[str, str] = {}
        """Delivery id → the token it was claimed under, for what is under way."""

    def start(self) -> None:
        self._listener.start()
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the requests under way and stop. What does not end in time keeps its lease and is sent again."""
        self._stopping.set()
        self._listener.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    async def _run(self) -> None:
        self._room = asyncio.Event()
        self._back = asyncio.Event()
        self._results: list[Result] = []
        self._tasks: set[asyncio.Task[None]] = set()
        poster = Poster(connections=IN_FLIGHT)
        settler = asyncio.create_task(self._settle())
        try:
            await self._claim(poster)
            await asyncio.gather(*self._tasks)
        finally:
            self._room.set()
            self._back.set()
            await settler
            await poster.close()

    async def _claim(self, poster: Poster) -> None:
        while not self._stopping.is_set():
            self._tick()
            room = IN_FLIGHT - len(self._tasks)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            limit = min(room, self._delivery.batch)
            ids = await asyncio.to_thread(self._listener.take, limit, 1.0)
            if ids == []:
                continue
            try:
                token, errands = await asyncio.to_thread(self._steps.claim, ids, limit, self._with_room())
            except Exception as error:
                self._metrics.store_errors.labels(self._steps.queue).inc()
                log.error("deliveries not claimed", extra={"reason": str(error)[:500]})
                await asyncio.sleep(1.0)
                self._listener.look()
                continue
            self._set_out(token, errands, poster)
            if ids is None and len(errands) >= limit:
                self._listener.look()

    def _with_room(self) -> sa.ColumnElement[bool] | None:
        """What may be claimed: nothing for an endpoint that is full. Its work stays in the table."""
        full = [endpoint for endpoint, busy in self._busy.items() if busy >= PER_ENDPOINT]
        return deliveries.c.endpoint_id.not_in(full) if full else None

    def _set_out(self, token: str, errands: Sequence[Errand], poster: Poster) -> None:
        for errand in errands:
            self._busy[errand.letter.endpoint_id] += 1
            self._tokens[errand.id] = token
            task = asyncio.create_task(self._send(errand, poster))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, errand: Errand, poster: Poster) -> None:
        with self._metrics.in_flight.track_inprogress():
            result = await self._delivery.send(errand, poster, self._clock())
        self._leave(errand.letter.endpoint_id)
        attempt = result[2]
        if attempt is not None:
            self._metrics.deliveries.labels(attempt.outcome).inc()
            self._metrics.delivery_seconds.observe(attempt.duration_ms / 1000)
        self._results.append(result)
        self._back.set()
        self._room.set()

    def _leave(self, endpoint: str) -> None:
        self._busy[endpoint] -= 1
        if self._busy[endpoint] == PER_ENDPOINT - 1:
            self._listener.look()  # there is room again for what was left in the table meanwhile
        if not self._busy[endpoint]:
            del self._busy[endpoint]

    async def _settle(self) -> None:
        """Write what has come back, everything at once; while one transaction runs, the next batch gathers."""
        while self._results or self._tasks or not self._stopping.is_set():
            if not self._results:
                self._back.clear()
                await self._back.wait()
                continue
            results, self._results = self._results, []
            tokens = {result[0].id: self._tokens.pop(result[0].id) for result in results}
            try:
                await asyncio.to_thread(self._steps.settle, tokens, results)
            except Exception as error:
                # Their leases run out and they are sent again, under the same webhook-id.
                self._metrics.store_errors.labels(self._steps.queue).inc()
                log.error("deliveries not settled", extra={"reason": str(error)[:500], "count": len(results)})
