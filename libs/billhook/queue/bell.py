"""Rings: sending them after a commit, and listening for them. A ring carries ids only, and may be lost."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from billhook.metrics import Metrics
from billhook.queue.broker import DoorbellBroker, RingReader

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

SILENT_SECONDS = 1.0
"""A listener whose Redis has owed it an answer for this long takes its work straight from SQL."""


class Bell:
    """Rings for work, without ever making the caller wait for Redis or fail with it.

    A quiet process rings at once, and does not wait for Redis's answer. Else ids go into a buffer, and a thread sends
    what has gathered. What cannot be sent is dropped and counted: the rows are in
    SQL, and the relay rings for them again.
    """

    def __init__(self, broker: DoorbellBroker, metrics: Metrics) -> None:
        self._broker = broker
        self._failed = functools.cache(metrics.rings_failed.labels)
        self._pending: dict[str, list[str]] = defaultdict(list)
        self._looks: set[str] = set()
        self._sending = False
        self._again_at = float("-inf")
        """Until then what is rung for gathers."""
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
        self._thread.start()

    def ring(self, queue: str, ids: Iterable[str]) -> None:
        ids = list(ids)
        with self._changed:
            at_once = 0 < len(ids) <= IDS_PER_RING and self._is_quiet()
            if at_once:
                self._again_at = time.monotonic() + _gathering(len(ids))
            else:
                self._add(queue, ids)
        if at_once and not self._broker.ring_at_once(queue, ids):
            with self._changed:
                self._add(queue, ids)

    def _is_quiet(self) -> bool:
        """Whether the caller can ring itself, which spares waking a thread for it."""
        busy = self._sending or self._has_something()
        return not busy and time.monotonic() >= self._again_at

    def _add(self, queue: str, ids: Sequence[str]) -> None:
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

    def problem(self) -> str | None:
        """Why nothing is rung any more although it was not closed, in a sentence."""
        return None if self._thread.is_alive() or self._closing.is_set() else "the bell ended"

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
                seconds = self._again_at - time.monotonic()
            # Here and not after a ring: a quiet process is not woken once more for nothing.
            if seconds > 0:
                self._closing.wait(seconds)
            with self._changed:
                batch, self._pending = self._pending, defaultdict(list)
                looks, self._looks = self._looks, set()
                if self._closing.is_set() and not looks and not any(batch.values()):
                    return
                self._sending = True
            for queue in looks:
                self._send(queue, [[]])
            for queue, ids in batch.items():
                self._send(queue, [ids[at : at + IDS_PER_RING] for at in range(0, len(ids), IDS_PER_RING)])
            with self._changed:
                self._sending = False
                self._again_at = time.monotonic() + _gathering(sum(map(len, batch.values())))

    def _has_something(self) -> bool:
        return self._closing.is_set() or bool(self._looks) or any(self._pending.values())

    def _send(self, queue: str, chunks: Iterable[Sequence[str]]) -> None:
        failed = self._failed(queue)  # from 0 on, or the first would not show as an increase
        for chunk in chunks:
            try:
                self._broker.ring(queue, chunk)
                self._broker.outage.worked()
            except Exception as error:
                # Whatever it is, the caller must not fail with it, and the next chunk would fail likewise.
                failed.inc()
                self._broker.outage.failed(str(error))
                return


def _gathering(rung: int) -> float:
    return min(GATHER_SECONDS + GATHER_SECONDS_PER_ID * rung, GATHER_SECONDS_LIMIT)


class Listener:
    """Hears the rings of one queue and hands out their ids in batches, in the thread that asks for them.

    A ring is gone from the queue as soon as its ids are in memory. If the process dies then, the rows are still due in
    SQL.
    """

    def __init__(self, broker: DoorbellBroker, queue: str, metrics: Metrics, *, poll_seconds: float = 0.25) -> None:
        self._reader = RingReader(broker, queue)
        self._degraded = metrics.degraded.labels(queue)
        self._poll_seconds = poll_seconds
        self._ids: dict[str, None] = {}
        self._look = True
        """Look into SQL instead of waiting for ids: at the start, and when a ring names none."""
        self._looked_at = 0.0
        self._rung_went_first = False
        self._changed = threading.Condition()
        self._hearing = False
        """Some thread hears, for all who wait here."""
        self._closed = False

    # Several consumers may share a listener; each closes it.

    def close(self) -> None:
        """Wake the threads that wait in `take`; hand out nothing more."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._wake()
            self._changed.wait_for(lambda: not self._hearing)
        self._reader.close()

    def look(self) -> None:
        """Make the next `take` look into SQL."""
        with self._changed:
            self._look = True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._hearing:
            self._reader.wake()

    def take(self, limit: int, timeout: float, *, rung_first: bool = False) -> list[str] | None:
        """Up to `limit` ids that were rung for, [] when nothing came in `timeout` seconds.

        None says: look into SQL for due work, whether it was rung for or not (at the start, when a ring says so, when
        too many rings waited, and while Redis is away). With `rung_first` it says so only after what waits, or as much
        as `limit` of it, was handed out: what has just come is not to stand behind all that is due.
        """
        deadline = time.monotonic() + timeout
        if self._reader.silent_seconds > SILENT_SECONDS:
            self._hear(0)  # it may have answered while nobody was here
        while True:
            with self._changed:
                if self._closed:
                    return []
                look = self._look or self._is_time_to_poll()
                self._rung_went_first = look and rung_first and bool(self._ids) and not self._rung_went_first
                if look and not self._rung_went_first:
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
                    return []
                if self._hearing:
                    self._changed.wait(remaining)
                    continue
            self._hear(min(remaining, self._patience()))

    def _hear(self, seconds: float) -> None:
        """Take what is rung for until something comes, unless somebody else does already."""
        with self._changed:
            if self._hearing or self._closed:
                return
            self._hearing = True
        rings: list[list[str]] = []
        try:
            rings = self._reader.hear(seconds)
        finally:
            with self._changed:
                self._hearing = False
                for ids in rings:
                    self._look = self._look or not ids
                    self._ids.update(dict.fromkeys(ids))
                if rings or self._closed:
                    self._changed.notify_all()
                else:
                    self._changed.notify()  # somebody has to hear from now on

    def _patience(self) -> float:
        """How long to wait for a ring before asking whether Redis is still there."""
        overdue = self._reader.silent_seconds
        return self._poll_seconds if overdue > SILENT_SECONDS else SILENT_SECONDS - overdue + 0.01

    def _is_time_to_poll(self) -> bool:
        away = self._reader.silent_seconds > SILENT_SECONDS
        self._degraded.set(int(away))
        return away and time.monotonic() - self._looked_at >= self._poll_seconds
