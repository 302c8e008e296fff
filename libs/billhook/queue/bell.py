"""Rings: sending them after a commit, and listening for them. A ring carries ids only, and may be lost."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dramatiq
import redis
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Retries

from billhook.metrics import Metrics

log = logging.getLogger(__name__)

IDS_PER_RING = 200
"""A ring stays around 8 KB, and a batch of work at one to two of them."""

PENDING_LIMIT = 20_000
"""Ids kept in memory while the queue does not take them (or a consumer is behind): 2 MB. Sweeps find the rest."""

GATHER_SECONDS = 0.008
GATHER_SECONDS_PER_ID = 0.0002
GATHER_SECONDS_LIMIT = 0.02
"""How long a process waits after a ring until it rings again: 8 ms, and more the more ids the last one carried. A quiet
process rings at once; one that takes 5,000 events a second rings fifty times, not for each of its 300 commits, which
took a fifth of the ingress's capacity. At 200 a second, 2 ms made the whole path slower: waking the
listeners so often costs more than the shorter delay saves."""

PREFETCH = 64
"""Messages a consumer may have in hand. dramatiq's default (2 a thread) caps it at prefetch ÷ 7.5 ms."""

IDLE_SECONDS = 0.5
"""How long an idle listener blocks before it looks again unasked. dramatiq polls, which makes the median pick-up 600 ms
by default, and burns a tenth of a core when it is to be 10 ms; blocking wakes in one, for two commands a second."""

WAKES = 16
"""Wake-ups kept for listeners that are busy: enough for as many consumers to be woken by one burst of rings."""

SILENT_SECONDS = 1.0
"""A listener that has not been able to ask Redis for this long takes its work straight from SQL."""


class _PromptConsumer(_RedisConsumer):
    """dramatiq's consumer, woken by a ring instead of looking every few milliseconds whether there was one."""

    def __next__(self) -> Any:
        message = super().__next__()  # type: ignore[no-untyped-call]
        if message is None and self.outstanding_message_count < self.prefetch:
            try:
                self.broker.wait_for_ring(self.queue_name)
            except redis.ConnectionError as error:
                raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]
        return message


class DoorbellBroker(RedisBroker):
    """dramatiq's Redis broker without what a doorbell must not have: delays, retries, dead messages."""

    def __init__(self, url: str) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            # All socket options must be in the URL: with `url=` every other argument is ignored.
            url=url,
            middleware=[Retries(max_retries=0)],
            # Rings of a consumer that died go back to the queue after 10 s instead of a minute, looked for in every
            # tenth command instead of every thousandth. Nothing depends on it (the relay rings anyway).
            heartbeat_timeout=10_000,
            maintenance_chance=100_000,
        )
        self.heard_at = 0.0
        self._wake = self.client.register_script(
            f"if redis.call('LLEN', KEYS[1]) < {WAKES} then redis.call('LPUSH', KEYS[1], '') end"
        )

    @property
    def consumer_class(self) -> type[_PromptConsumer]:
        return _PromptConsumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        # `timeout` is what the consumer sleeps by itself when it found nothing: as good as not at all.
        return super().consume(queue_name, prefetch, timeout=1)

    def ring(self, queue_name: str, ids: Sequence[str]) -> None:
        """Leave a message, and wake one listener that waits."""
        self.enqueue(
            dramatiq.Message(queue_name=queue_name, actor_name=queue_name, args=(list(ids),), kwargs={}, options={})
        )
        self._wake(keys=[self._wake_key(queue_name)])

    def wait_for_ring(self, queue_name: str) -> None:
        """Block until somebody rings, or for `IDLE_SECONDS`. A ring that came just before is not missed."""
        self.client.blpop([self._wake_key(queue_name)], timeout=IDLE_SECONDS)

    def _wake_key(self, queue_name: str) -> str:
        return f"{self.namespace}:{queue_name}.wake"

    def declare_queue(self, queue_name: str) -> None:
        # Without the delay queue beside each queue: time lives in SQL, and its consumer would poll for nothing.
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def do_fetch(self, queue_name: str, count: int) -> Any:
        messages = self._dispatch("fetch")(queue_name, count)  # type: ignore[no-untyped-call]
        self.heard_at = time.monotonic()
        return messages

    def waiting(self, queue_name: str) -> int:
        """Rings that nobody has fetched yet."""
        return int(self.client.llen(f"{self.namespace}:{queue_name}"))


class Bell:
    """Rings for work, without ever making the caller wait for Redis or fail with it.

    Ids go into a buffer; a thread sends what has gathered. What cannot be sent is dropped and counted: the rows are in
    SQL, and the relay rings for them again.
    """

    def __init__(self, broker: DoorbellBroker, metrics: Metrics) -> None:
        self._broker = broker
        self._metrics = metrics
        self._pending: dict[str, list[str]] = defaultdict(list)
        self._looks: set[str] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
        self._thread.start()

    def ring(self, queue: str, ids: Iterable[str]) -> None:
        with self._changed:
            pending = self._pending[queue]
            pending.extend(ids)
            del pending[PENDING_LIMIT:]
            self._changed.notify()

    def look(self, queue: str) -> None:
        """Make a listener look into SQL: more is due there than the ids in a ring could name."""
        with self._changed:
            self._looks.add(queue)
            self._changed.notify()

    def ring_all(self, rings: Mapping[str, Sequence[str]]) -> None:
        for queue, ids in rings.items():
            if ids:
                self.ring(queue, ids)

    def close(self) -> None:
        """Send what is left and stop."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout=3)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_something)
                batch, self._pending = self._pending, defaultdict(list)
                looks, self._looks = self._looks, set()
                if self._closing.is_set() and not looks and not any(batch.values()):
                    return
            for queue in looks:
                self._send(queue, [[]])
            for queue, ids in batch.items():
                self._send(queue, [ids[at : at + IDS_PER_RING] for at in range(0, len(ids), IDS_PER_RING)])
            rung = sum(map(len, batch.values()))
            self._closing.wait(min(GATHER_SECONDS + GATHER_SECONDS_PER_ID * rung, GATHER_SECONDS_LIMIT))

    def _has_something(self) -> bool:
        return self._closing.is_set() or bool(self._looks) or any(self._pending.values())

    def _send(self, queue: str, chunks: Iterable[Sequence[str]]) -> None:
        for chunk in chunks:
            try:
                self._broker.ring(queue, chunk)
            except Exception as error:
                # Whatever it is, the caller must not fail with it, and the next chunk would fail likewise.
                self._metrics.rings_failed.labels(queue).inc()
                log.debug("ring not taken", extra={"queue": queue, "reason": str(error)})
                return


class Listener:
    """Listens for the rings of one queue and hands out their ids in batches.

    Rings are acknowledged as soon as their ids are in memory. If the process dies then, the rows are still due in SQL.
    """

    def __init__(self, broker: DoorbellBroker, queue: str, metrics: Metrics, *, poll_seconds: float = 0.25) -> None:
        self._broker = broker
        self._queue = queue
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._ids: dict[str, None] = {}
        self._look = True
        """Look into SQL instead of waiting for ids: at the start, when a ring names none, and when more came than are
        kept."""
        self._looked_at = 0.0
        self._changed = threading.Condition()
        self._worker = _Worker(broker, queues={queue}, worker_threads=1)
        self._started = False
        self._closed = False
        dramatiq.actor(broker=broker, actor_name=queue, queue_name=queue, max_retries=0)(self._hear)

    # Several consumers may share a listener: each starts and closes it.

    def start(self) -> None:
        with self._changed:
            if self._started:
                return
            self._started = True
        self._worker.start()

    def close(self) -> None:
        """Wake the threads that wait in `take`; hand out nothing more."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._worker.stop(timeout=2_000)

    def problem(self) -> str | None:
        """Why it receives no more rings although it was not closed, in a sentence."""
        if not self._started or self._closed:
            return None
        threads = [*self._worker.consumers.values(), *self._worker.workers]
        if threads and all(thread.is_alive() for thread in threads):
            return None
        return f"the listener of {self._queue} ended"

    def look(self) -> None:
        """Make the next `take` look into SQL."""
        with self._changed:
            self._look = True
            self._changed.notify()

    def take(self, limit: int, timeout: float) -> list[str] | None:
        """Up to `limit` ids that were rung for, [] when nothing came in `timeout` seconds.

        None says: look into SQL for due work, whether it was rung for or not (at the start, when a ring says so, after
        an overflow, and while Redis is away).
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._closed:
                if self._look or self._away():
                    self._look, self._looked_at = False, time.monotonic()
                    self._ids.clear()  # what was rung for until now is among what is due
                    return None
                if self._ids:
                    taken = list(self._ids)[:limit]
                    for row_id in taken:
                        del self._ids[row_id]
                    return taken
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(min(remaining, self._poll_seconds))
            return []

    def _away(self) -> bool:
        now = time.monotonic()
        away = now - self._broker.heard_at > SILENT_SECONDS
        self._metrics.degraded.labels(self._queue).set(int(away))
        return away and now - self._looked_at >= self._poll_seconds

    def _hear(self, ids: list[str]) -> None:
        with self._changed:
            if not ids or len(self._ids) + len(ids) > PENDING_LIMIT:
                self._look = True
            else:
                self._ids.update(dict.fromkeys(ids))
            self._changed.notify()


class _Worker(dramatiq.Worker):
    def __init__(self, broker: dramatiq.Broker, **options: Any) -> None:
        super().__init__(broker, **options)
        self.queue_prefetch = PREFETCH
