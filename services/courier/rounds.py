"""The rounds: many deliveries under way at once in one event loop, between two kinds of transaction.

    a claimer a lane takes a batch when there is room ─▶ senders ─▶ the settler writes what has come back

Nobody waits for anybody else's endpoint: there are as many senders as there is room, so a slow one holds its own, and
the settler never waits for a whole batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from billhook.metrics import Metrics
from billhook.outlets.webhooks.client import WebhookClient
from billhook.outlets.webhooks.response import Response
from billhook.queue.bell import Listener
from billhook.queue.consumer import Steps
from billhook.rules.delivery import FRESH, LANES, REPLAY, RETRY
from billhook.runtime.clock import Clock
from billhook.store.deliveries import deliveries
from services.courier.delivery import Delivery, Errand, Outgoing, Result, Tried
from services.courier.gates import Admission, Gates

log = logging.getLogger(__name__)

IN_FLIGHT: Final = 384
"""Requests under way in one process. It sends some 2,000 a second: at 100 ms each that is 200, and a claim brings
the next 128 while those are sent."""

ROOM: Final = {FRESH: IN_FLIGHT, RETRY: 160, REPLAY: 32}
"""Of these, what each lane may hold: first attempts always find 192 places that no retry and no replay can take."""

LEAST_ROOM: Final = 16
"""A claim costs as much as sending 50 messages, so it is not made for one place that has become free."""

GATHER_SECONDS: Final = 0.01
"""How long the settler waits for more to come back: a transaction costs the same for one attempt and for twenty."""

THREADS: Final = 8
"""For each lane one that listens or claims, one that settles, and as many to spare."""


@dataclass
class Lane:
    """One lane of the deliveries, with its bell."""

    name: str
    listener: Listener
    busy: int = 0
    claiming: int = 0
    """Room held by a claim that has not come back."""
    look_at: datetime | None = None
    """When the first of what was put off falls due again."""


class Rounds:
    """The courier's loop, in a thread of its own."""

    def __init__(
        self,
        steps: Steps[Errand, Tried | None],
        listen: Callable[[str], Listener],
        open_client: Callable[[int], WebhookClient],
        metrics: Metrics,
        clock: Clock,
        tick: Callable[[], None],
    ) -> None:
        assert isinstance(steps.handler, Delivery)
        self._delivery = steps.handler
        self._steps = steps
        self._open_client = open_client
        self._metrics = metrics
        self._clock = clock
        self._tick = tick
        self._gates = Gates(clock)
        self._lanes = {name: Lane(name, listen(name)) for name in LANES}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="rounds", daemon=True)
        self._tokens: dict[str, str] = {}
        """Delivery id → the token it was claimed under, for what is under way."""

    def start(self) -> None:
        for lane in self._lanes.values():
            lane.listener.start()
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the requests under way and stop. What does not end in time keeps its lease and is sent again."""
        self._stopping.set()
        with ThreadPoolExecutor(len(self._lanes)) as pool:  # each waits for its last question to the queue
            list(pool.map(lambda lane: lane.listener.close(), self._lanes.values()))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    async def _run(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "courier"))
        self._room = asyncio.Event()
        self._back = asyncio.Event()
        self._results: list[Result] = []
        self._outbox: asyncio.Queue[tuple[Lane, Errand]] = asyncio.Queue()
        client = self._open_client(IN_FLIGHT)
        senders = [asyncio.create_task(self._sender(client)) for _ in range(IN_FLIGHT)]
        settler = asyncio.create_task(self._settle())
        try:
            await asyncio.gather(*(self._serve(lane) for lane in self._lanes.values()))
            await self._outbox.join()
        finally:
            for sender in senders:
                sender.cancel()
            self._back.set()
            await settler
            await asyncio.to_thread(client.close)

    async def _serve(self, lane: Lane) -> None:
        while not self._stopping.is_set():
            self._tick()
            limit = min(self._room_in(lane), self._delivery.batch)
            if limit < LEAST_ROOM:
                self._room.clear()
                await self._room.wait()
                continue
            ids = lane.listener.take(limit, 0)
            if ids == []:
                ids = await asyncio.to_thread(lane.listener.take, limit, self._patience(lane))
            if ids == [] and not self._is_time(lane):
                continue
            lane.claiming = limit
            admission = Admission(self._gates, lane.name)
            try:
                token, errands = await asyncio.to_thread(self._claim, lane, ids or None, limit, admission)
            except Exception as error:
                admission.settle(())
                self._metrics.store_errors.labels(self._steps.queue).inc()
                log.error("deliveries not claimed", extra={"reason": str(error)[:500]})
                await asyncio.sleep(1.0)
                lane.listener.look()
                continue
            finally:
                lane.claiming = 0
                self._room.set()
            self._set_out(lane, token, errands)
            if not ids and admission.found >= limit:
                lane.listener.look()  # there may be more behind what was found
            self._remember(lane, admission)

    def _room_in(self, lane: Lane) -> int:
        under_way = sum(lane.busy + lane.claiming for lane in self._lanes.values())
        if lane.name == REPLAY and under_way >= IN_FLIGHT // 2:
            return 0  # what people asked for again waits while there is much to do for the first time
        return min(ROOM[lane.name] - lane.busy, IN_FLIGHT - under_way)

    def _patience(self, lane: Lane) -> float:
        if lane.look_at is None:
            return 1.0
        return min(1.0, max(0.0, (lane.look_at - self._clock()).total_seconds()))

    def _is_time(self, lane: Lane) -> bool:
        if lane.look_at is None or self._clock() < lane.look_at:
            return False
        lane.look_at = None
        return True

    def _claim(
        self, lane: Lane, ids: Sequence[str] | None, limit: int, admission: Admission
    ) -> tuple[str, Sequence[Errand]]:
        only = deliveries.c.lane == lane.name
        if full := self._gates.full():
            only = sa.and_(only, deliveries.c.endpoint_id.not_in(full))
        token, errands = self._steps.claim(ids, limit, only, admission.admit)
        admission.settle([errand.endpoint.id for errand in errands])
        return token, errands

    def _remember(self, lane: Lane, admission: Admission) -> None:
        """Look for what was put off when the first of it falls due; the relay would find it up to a second later."""
        if admission.put_off:
            first = min(at for _, at in admission.put_off)
            lane.look_at = first if lane.look_at is None else min(lane.look_at, first)
        self._metrics.deferred.inc(len(admission.put_off))
        self._metrics.open_breakers.set(self._gates.open_breakers())

    def _set_out(self, lane: Lane, token: str, errands: Sequence[Errand]) -> None:
        lane.busy += len(errands)
        for errand in errands:
            self._tokens[errand.id] = token
            self._outbox.put_nowait((lane, errand))
        self._metrics.in_flight.inc(len(errands))

    async def _sender(self, client: WebhookClient) -> None:
        """Sends one errand after the other. A task for each would cost a tenth of sending it."""
        while True:
            lane, errand = await self._outbox.get()
            try:
                result = await self._send(errand, client)
                self._learn(errand, result[2])
                self._results.append(result)
            except Exception:  # a fault of ours: its lease runs out and it is sent again, by a sender that still lives
                log.exception("delivery not tried", extra={"id": errand.id})
                self._tokens.pop(errand.id, None)
                self._metrics.in_flight.dec()
            finally:
                if not _is_counted_in_sql(errand):
                    self._leave(errand)
                lane.busy -= 1
                self._back.set()
                self._room.set()
                self._outbox.task_done()

    async def _send(self, errand: Errand, client: WebhookClient) -> Result:
        started = self._clock()
        outgoing = self._delivery.request(errand, started)
        if not isinstance(outgoing, Outgoing):
            return errand, outgoing, None
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()

        def done(response: Response) -> None:
            loop.call_soon_threadsafe(_resolve, answered, response)

        client.send(outgoing.request, done)
        return self._delivery.result(errand, await answered, started, outgoing.shown)

    def _learn(self, errand: Errand, tried: Tried | None) -> None:
        if tried is not None:
            attempt = tried.attempt
            self._gates.answered(
                errand.endpoint.id,
                attempt.outcome,
                attempt.status_code,
                tried.pause_seconds,
                attempt.duration_ms / 1000,
            )

    def _count(self, results: Sequence[Result]) -> None:
        attempts = [tried for _, _, tried in results if tried is not None]
        for outcome, count in Counter(tried.attempt.outcome for tried in attempts).items():
            self._metrics.deliveries.labels(outcome).inc(count)
        for tried in attempts:
            self._metrics.delivery_seconds.observe(tried.attempt.duration_ms / 1000)
        self._metrics.connections.inc(sum(tried.connected for tried in attempts))
        self._metrics.in_flight.dec(len(results))

    def _leave(self, errand: Errand) -> None:
        for name in self._gates.leave(errand.endpoint.id):
            self._lanes[name].listener.look()

    async def _settle(self) -> None:
        """Write what has come back, everything at once; while one transaction runs, the next batch gathers."""
        while self._tokens or not self._stopping.is_set():
            if not self._results:
                self._back.clear()
                await self._back.wait()
                await asyncio.sleep(GATHER_SECONDS)
                continue
            results, self._results = self._results, []
            self._count(results)
            tokens = {result[0].id: self._tokens.pop(result[0].id) for result in results}
            try:
                await asyncio.to_thread(self._steps.settle, tokens, results)
            except Exception as error:
                # Their leases run out and they are sent again, under the same webhook-id.
                self._metrics.store_errors.labels(self._steps.queue).inc()
                log.error("deliveries not settled", extra={"reason": str(error)[:500], "count": len(results)})
            for errand, _, _ in results:
                if _is_counted_in_sql(errand):
                    self._leave(errand)


def _is_counted_in_sql(errand: Errand) -> bool:
    """Whether its place is free only when SQL says so: the endpoint's cap holds over all couriers."""
    return errand.endpoint.max_in_flight is not None


def _resolve(answered: asyncio.Future[Response], response: Response) -> None:
    if not answered.done():
        answered.set_result(response)
