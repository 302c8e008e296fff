"""The dispatcher: many deliveries under way at once, between two kinds of transaction, in a thread a role.

    a thread a lane claims when there is room ─▶ the client's thread sends ─▶ one thread settles what has come back
                                                 one thread renews the leases of all of it meanwhile

It drives the consumer machinery (`billhook.queue.steps.Steps`) as batches do, one delivery at a time: nobody waits
for anybody else's endpoint. What is in hand here is never sent twice, and what came of it is written sooner or later.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import sqlalchemy as sa

from billhook.metrics import Metrics
from billhook.outlets.webhooks.exchange import Request
from billhook.outlets.webhooks.response import OUTCOMES, Response
from billhook.parts import Part, Parts
from billhook.queue.bell import Listener
from billhook.queue.spans import end_of_attempt
from billhook.queue.steps import Steps
from billhook.rules.delivery import FRESH, LANES, REPLAY, RETRY
from billhook.rules.retry import Defer
from billhook.runtime.clock import Clock
from billhook.store import work
from billhook.store.database import Database, is_outage
from billhook.store.deliveries import deliveries, due_for, pull_forward
from billhook.store.queues import lane_name
from services.courier.admission import Admission
from services.courier.delivery import Delivery, DeliveryJob, Outgoing, Result, Tried
from services.courier.limits import BEYOND, IN_FLIGHT, SLOW_SECONDS, EndpointLimits
from services.courier.places import Places
from services.courier.plain import FastPath
from services.courier.returned import Returned, Traced

if TYPE_CHECKING:
    from billhook.tracing import Span, Tracing

log = logging.getLogger(__name__)

MOST: Final = IN_FLIGHT + BEYOND
ROOM: Final = {FRESH: MOST, RETRY: 160, REPLAY: 32}
"""What each lane may hold: first attempts always find 192 places that no retry and no replay can take, and those beyond
the room."""

LEAST_ROOM: Final = 16
"""A claim costs as much as sending 50 messages, so it is not made for one place that has become free."""

BYTES_IN_HAND: Final = 64 * 1024 * 1024
"""Of bodies: 384 of the largest would be more. A claim is made while there are fewer."""

GATHER_SECONDS: Final = 0.025
"""How long after one transaction the settler begins the next: one costs the same for one attempt and for twenty. What
comes back to a quiet courier is settled at once."""

IDLE_SECONDS: Final = 5.0
"""How long a claimer waits for a ring, where nothing is put off until then."""

PUT_OFF: Final = 200
"""Deliveries that get out of the way in one transaction, which is no longer than one that settles."""

PUT_OFF_SOON_SECONDS: Final = 0.1
"""Between two of those: nobody waits for them, since claims pass over what is to be put off."""

PUT_OFF_AGAIN_SECONDS: Final = 0.5
"""As often as the relay rings for what is passed over."""

RAMP_SECONDS: Final = 0.1
"""How soon a claim is made for merchants who may have more under way as time goes by."""

PULLED: Final = 2000
"""Deliveries that fall due together at an endpoint that is up again; the next follow in the settler's next turn."""


class Client(Protocol):
    """What sends: `billhook.outlets.webhooks.client.WebhookClient`."""

    def send(self, request: Request, done: Callable[[Response], None]) -> None: ...
    def close(self) -> None: ...


@dataclass
class Lane:
    """One lane of the deliveries, with its bell."""

    name: str
    listener: Listener
    busy: int = 0
    """Under way; what waits in hand for a place of an endpoint with a cap is not."""
    claiming: int = 0
    """Room held by a claim that has not come back."""
    look_at: datetime | None = None
    """When the first of what was put off falls due again."""
    look_again: float = float("inf")
    """When somebody may have more under way (`time.monotonic()`)."""


class Dispatcher:
    """The courier's loops."""

    def __init__(
        self,
        steps: Steps[DeliveryJob, Tried | None],
        database: Database,
        listen: Callable[[str], Listener],
        open_client: Callable[[int], Client],
        metrics: Metrics,
        clock: Clock,
        parts: Parts,
        tracing: Tracing | None = None,
    ) -> None:
        """`tracing` hears of each attempt."""
        assert isinstance(steps.handler, Delivery)
        self._delivery = steps.handler
        self._steps = steps
        self._database = database
        self._open_client = open_client
        self._metrics = metrics
        self._deferred, self._connections = metrics.deferred, metrics.connections
        self._seconds, self._outcomes = metrics.delivery_seconds, functools.cache(metrics.deliveries.labels)
        self._clock = clock
        self._parts = parts
        self._tracing = tracing
        self._limits = EndpointLimits(clock)
        self._claims = threading.Lock()
        """One claim at a time: what each may take depends on what the others have."""
        self._lanes = {name: Lane(name, listen(name)) for name in LANES}
        self._leases = steps.leases()
        """All that is in hand: claimed, and not settled yet."""
        self._plain = FastPath(steps, database, self._limits, self._leases)
        self._places: Places[tuple[Lane, DeliveryJob]] = Places(self._limits.places)
        self._bytes = 0
        self._passed_over: set[str] = set()
        """Lanes in which claims passed over what is due for endpoints that are slow or down."""
        self._put_off_at = float("-inf")
        self._results = Returned()
        self._lock = threading.Lock()
        """Guards the lanes, the results and the bytes."""
        self._roomier = threading.Condition(self._lock)
        self._to_settle = threading.Condition(self._lock)
        """Notified when the first result has come, and when there may be no more of them."""
        self._stopping = threading.Event()
        self._ended = threading.Event()

    def start(self) -> None:
        self._client = self._open_client(MOST)
        self._metrics.job_capacity.labels(self._steps.queue).set(IN_FLIGHT)
        self._metrics.open_breakers.set(0)
        for outcome in OUTCOMES:
            self._outcomes(outcome)  # from 0 on, or the first ones would not show as an increase
        for lane in self._lanes.values():
            self._parts.start(f"{lane.name} claimer", partial(self._serve, lane))
        self._settler = self._parts.start("settler", self._settle)
        self._keeper = self._parts.start("lease keeper", self._keep)

    def stop(self, timeout: float) -> bool:
        """Finish the requests under way and stop. What does not end in time keeps its lease and is sent again."""
        self._stopping.set()
        self._send_no_more(self._places.give_all_back(), "the courier stopped before it could be sent")
        with self._lock:
            self._roomier.notify_all()
            self._to_settle.notify()
        for lane in self._lanes.values():
            lane.listener.close()
        self._settler.join(timeout)
        self._ended.set()
        self._client.close()
        return not self._settler.is_alive()

    # Claiming.

    def _serve(self, lane: Lane, part: Part) -> None:
        while not self._stopping.is_set():
            part.rest()
            limit = self._wait_for_room(lane)
            if limit < LEAST_ROOM:
                continue
            if self._is_time(lane):
                lane.listener.look()
            ids = lane.listener.take(limit, self._patience(lane), rung_first=True)
            part.tick()
            if ids == []:
                continue
            with self._lock:
                lane.claiming = len(ids) if ids else limit
            try:
                self._claim(lane, ids or None, limit)
            finally:
                with self._lock:
                    lane.claiming = 0
                    self._roomier.notify_all()
                    if self._stopping.is_set():
                        self._to_settle.notify()

    def _wait_for_room(self, lane: Lane) -> int:
        """How much may be claimed; less than `LEAST_ROOM` if there was no room for a while."""
        with self._lock:
            limit = min(self._room_in(lane), self._delivery.batch)
            if limit < LEAST_ROOM:
                self._roomier.wait(1.0)
            return limit

    def _room_in(self, lane: Lane) -> int:
        under_way = sum(lane.busy + lane.claiming for lane in self._lanes.values())
        if self._bytes > BYTES_IN_HAND:
            return 0
        if lane.name == REPLAY and under_way >= IN_FLIGHT // 2:
            return 0  # what people asked for again waits while there is much to do for the first time
        return min(ROOM[lane.name] - lane.busy, MOST - under_way)

    def _patience(self, lane: Lane) -> float:
        waits = [IDLE_SECONDS, lane.look_again - time.monotonic()]
        if lane.look_at is not None:
            waits.append((lane.look_at - self._clock()).total_seconds())
        return max(0.0, min(waits))

    def _is_time(self, lane: Lane) -> bool:
        if lane.look_at is not None and self._clock() >= lane.look_at:
            lane.look_at = None
        elif time.monotonic() >= lane.look_again:
            lane.look_again = float("inf")
        else:
            return False
        return True

    def _claim(self, lane: Lane, ids: Sequence[str] | None, limit: int) -> None:
        with self._claims:
            problem = self._take(lane, ids, limit)
        roomier, soon = self._limits.ramping(lane.name)
        for name in roomier:
            self._lanes[name].listener.look()
        if soon:
            lane.look_again = min(lane.look_again, time.monotonic() + RAMP_SECONDS)
        if problem is not None:
            self._metrics.store_errors.labels(self._steps.queue).inc()
            if not is_outage(problem):
                log.error("deliveries not claimed", extra={"reason": str(problem)[:500]})
            self._stopping.wait(1.0)
            lane.listener.look()

    def _take(self, lane: Lane, ids: Sequence[str] | None, limit: int) -> Exception | None:
        """Claim and send; returns why nothing (more) was claimed, if it could not be."""
        if lane.name not in self._passed_over and self._limits.stuck():
            self._note_passed_over(lane.name)
        try:
            claimed = self._plain.claim(lane.name, ids, limit)
        except Exception as error:
            return error
        self._hand_out(lane, claimed.token, claimed.jobs)
        if claimed.more:
            lane.listener.look()  # there may be more behind what was found
        if claimed.left is None or claimed.left:
            return self._take_by_the_rules(lane, claimed.left, limit)
        return None

    def _take_by_the_rules(self, lane: Lane, ids: Sequence[str] | None, limit: int) -> Exception | None:
        admission = Admission(self._limits, lane.name, self._leases)
        endpoints, merchants = self._limits.full(lane.name)
        only = sa.and_(
            deliveries.c.lane == lane.name,
            deliveries.c.endpoint_id.not_in(endpoints),
            deliveries.c.merchant_id.not_in(merchants),
        )
        try:
            token, jobs = self._steps.claim(ids, limit, only, admission.admit, lane_name(lane.name))
        except Exception as error:
            admission.settle(())
            return error
        admission.settle([job.endpoint.id for job in jobs])
        self._hand_out(lane, token, jobs)
        if ids is None and admission.found >= limit:
            lane.listener.look()
        self._remember(lane, admission.deferred)
        return None

    def _hand_out(self, lane: Lane, token: str, jobs: Sequence[DeliveryJob]) -> None:
        if again := [job for job in jobs if self._leases.holds(job.id)]:
            self._give_back(token, again)
            jobs = [job for job in jobs if job not in again]
        if not jobs:
            return
        self._leases.take(token, [job.id for job in jobs])
        self._steps.in_hand(len(jobs))
        with self._lock:
            self._bytes += sum(len(job.message.body) for job in jobs)
        for job in jobs:
            if not _has_cap(job) or self._places.take(job.endpoint.id, (lane, job)):
                self._send(lane, job)

    def _give_back(self, token: str, jobs: Sequence[DeliveryJob]) -> None:
        """What is in hand here still: its lease ran out, and another courier has tried it meanwhile and failed. It is
        tried again once ours is over."""
        later = self._clock() + self._delivery.lease
        results = [(job, Defer(later, "an attempt at it is still under way"), None) for job in jobs]
        try:
            self._steps.settle(dict.fromkeys((job.id for job in jobs), token), results)
        except Exception as error:  # it falls due by itself, and counts as an attempt that was cut
            log.warning("not given back", extra={"reason": str(error)[:200], "count": len(jobs)})
        for job in jobs:
            self._leave(job)

    def _remember(self, lane: Lane, deferred: Sequence[tuple[str, datetime]]) -> None:
        """Look for what was put off when the first of it falls due; the relay would find it up to a second later."""
        if deferred:
            first = min(at for _, at in deferred)
            lane.look_at = first if lane.look_at is None else min(lane.look_at, first)
        self._deferred.inc(len(deferred))
        self._metrics.open_breakers.set(self._limits.open_breakers())

    # Sending.

    def _send(self, lane: Lane, job: DeliveryJob) -> None:
        with self._lock:
            lane.busy += 1
        started = self._clock()
        span = None if self._tracing is None else _span(self._tracing, job)
        outgoing = self._delivery.request(job, started)
        if not isinstance(outgoing, Outgoing):
            self._over(lane, (job, outgoing, None), span)
            return
        shown = outgoing.shown

        def done(response: Response) -> None:
            self._over(lane, self._delivery.result(job, response, started, shown), span)

        self._client.send(outgoing.request, done)

    def _over(self, lane: Lane, result: Result, span: Span | None) -> None:
        """What was under way is over, and its place free."""
        with self._lock:
            lane.busy -= 1
            if lane.busy % LEAST_ROOM == 0:
                self._roomier.notify_all()
        self._back(result, span)
        job, _, tried = result
        if not _has_cap(job):
            return
        endpoint_id = job.endpoint.id
        if self._limits.fails(endpoint_id) or (tried is not None and tried.attempt.duration_ms > SLOW_SECONDS * 1000):
            # Also what waited for long: its merchant may have switched the endpoint off meanwhile.
            self._send_no_more(self._places.give_back(endpoint_id), "its endpoint failed before it could be sent")
        for others_lane, other in self._places.leave(endpoint_id):
            self._send(others_lane, other)

    def _send_no_more(self, waiting: Sequence[tuple[Lane, DeliveryJob]], reason: str) -> None:
        for _, job in waiting:
            self._back((job, Defer(self._clock(), reason), None), None)

    def _back(self, result: Result, span: Span | None) -> None:
        job, outcome, tried = result
        if span is not None:
            about = self._delivery.about(job, tried)
            end_of_attempt(span, outcome, {**about, "answer": about.get("outcome")})
        if tried is not None:
            attempt, seconds = tried.attempt, tried.attempt.duration_ms / 1000
            self._limits.answered(job.endpoint.id, attempt.outcome, attempt.status_code, tried.pause_seconds, seconds)
        self._leave(job)
        with self._lock:
            self._bytes -= len(job.message.body)
            self._results.add(result, None if span is None else span.traceparent)
            if len(self._results) == 1:
                self._to_settle.notify()

    def _leave(self, job: DeliveryJob) -> None:
        for name in self._limits.leave(job.endpoint.id):
            self._lanes[name].listener.look()

    # Settling.

    def _settle(self, part: Part) -> None:
        """Write what has come back, as much at once as holds nobody up; while one transaction runs, the next batch
        gathers."""
        again_at = float("-inf")
        while True:
            part.rest()
            with self._lock:
                if not self._results and not self._is_over():
                    self._to_settle.wait(self._settlers_patience())
                if not self._results and self._is_over():
                    return
            part.tick()
            if (seconds := again_at - time.monotonic()) > 0:
                self._ended.wait(seconds)
            with self._lock:
                taken = self._results.take()
            if taken:
                with self._settling(taken):
                    self._write([result for result, _ in taken])
                again_at = time.monotonic() + GATHER_SECONDS
            self._pull_forward()
            self._put_off()

    def _settlers_patience(self) -> float:
        return IDLE_SECONDS if not self._passed_over else max(0.0, self._put_off_at - time.monotonic())

    def _settling(self, taken: Sequence[Traced]) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        attempts = [traceparent for _, traceparent in taken if traceparent is not None]
        about = {"queue": self._steps.queue, "count": len(attempts)}
        return self._tracing.together(f"settle {self._steps.queue}", attempts, about)

    def _is_over(self) -> bool:
        claiming = any(lane.claiming for lane in self._lanes.values())
        return self._ended.is_set() or (self._stopping.is_set() and not claiming and len(self._leases) == 0)

    def _write(self, results: Sequence[Result]) -> None:
        self._count(results)
        ids = [job.id for job, _, _ in results]
        tokens = {row_id: self._leases.token(row_id) for row_id in ids}
        self._leases.give_back(job.id for job, outcome, _ in results if isinstance(outcome, Defer))
        try:
            if left := self._plain.settle(tokens, results):
                mine = {job.id: tokens[job.id] for job, _, _ in left}
                self._steps.settle_surely(mine, left, self._ended.wait)
        except Exception as error:
            # The database stays away. Their leases run out and they are sent again, under the same webhook-id.
            log.error("deliveries not settled", extra={"reason": str(error)[:500], "count": len(results)})
        finally:
            self._steps.took([self._leases.seconds(row_id) for row_id in ids])
            self._steps.in_hand(-len(ids))
            self._leases.release(tokens)

    def _count(self, results: Sequence[Result]) -> None:
        attempts = [tried for _, _, tried in results if tried is not None]
        for outcome, count in Counter(tried.attempt.outcome for tried in attempts).items():
            self._outcomes(outcome).inc(count)
        for tried in attempts:
            self._seconds.observe(tried.attempt.duration_ms / 1000)
        self._connections.inc(sum(tried.connected for tried in attempts))

    def _pull_forward(self) -> None:
        """What was put off for endpoints that are up again falls due, as much at a time as is soon sent."""
        with self._limits.lock:
            endpoint_ids, self._limits.recovered = self._limits.recovered, set()
        for endpoint_id in endpoint_ids:
            try:
                with self._database.begin(durable=False) as tx:
                    pulled = pull_forward(tx, endpoint_id, self._clock(), PULLED)
            except Exception as error:  # it falls due by itself, a little later
                log.warning("nothing pulled forward", extra={"endpoint": endpoint_id, "reason": str(error)[:200]})
                continue
            if pulled:
                self._lanes[FRESH].listener.look()
            if pulled == PULLED:
                with self._limits.lock:
                    self._limits.recovered.add(endpoint_id)

    def _put_off(self) -> None:
        """What claims have passed over gets out of their way, each to a turn of its own."""
        if time.monotonic() < self._put_off_at:
            return
        with self._lock:
            lanes, self._passed_over = self._passed_over, set()
        for lane in lanes:
            try:
                with self._database.begin(durable=False) as tx:
                    rows = due_for(tx, lane, self._limits.stuck(), self._clock(), PUT_OFF)
                    turns = self._limits.turns(rows)
                    work.defer(tx, deliveries, turns)
            except Exception as error:  # it stays where it is, and claims go on passing it over
                log.warning("nothing put off", extra={"lane": lane, "reason": str(error)[:200]})
                continue
            self._remember(self._lanes[lane], turns)
            if len(rows) == PUT_OFF:
                self._note_passed_over(lane)
        if lanes:
            pause = PUT_OFF_SOON_SECONDS if self._passed_over else PUT_OFF_AGAIN_SECONDS
            self._put_off_at = time.monotonic() + pause

    def _note_passed_over(self, lane: str) -> None:
        with self._lock:
            self._passed_over.add(lane)
            self._to_settle.notify()

    def _keep(self, part: Part) -> None:
        part.rest()
        self._leases.keep(self._ended)


def _span(tracing: Tracing, job: DeliveryJob) -> Span:
    about = {"id": job.id, "merchant_id": job.merchant_id, "attempt": job.message.number}
    return tracing.begin("deliver", "client", job.message.traceparent, about)


def _has_cap(job: DeliveryJob) -> bool:
    return job.endpoint.max_in_flight is not None
