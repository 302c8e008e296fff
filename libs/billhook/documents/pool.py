"""Engines that many threads share: pages go to whichever is free, those of the oldest batch first.

If each batch had an engine of its own, all would be done at the same time and no engine would work while they are
stored; and the last of a run, or a lone one, would leave all engines but one without work.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

P = TypeVar("P")
D = TypeVar("D")
P_contra = TypeVar("P_contra", contravariant=True)
D_co = TypeVar("D_co", covariant=True)

_IDLE_SECONDS: Final = 3.0
"""How long an engine is kept without work: it holds 75 MB."""

_LAID: Final = 2
"""Pages before an engine: one that it draws, and the next, for which it does not wait."""


class Engine(Protocol[P_contra, D_co]):
    """Draws pages in the order in which they are added, the next while the last one is taken."""

    @property
    def fit(self) -> bool:
        """Whether another page may be added to one that has nothing left to draw."""

    @property
    def worn(self) -> bool:
        """Whether it is to end once it has drawn what was added."""

    def takes(self, page: P_contra) -> bool:
        """Whether a page may be drawn where those before it were."""

    def add(self, page: P_contra) -> None: ...
    def take(self) -> D_co: ...
    def close(self) -> None: ...


@dataclass(order=True)
class _Job(Generic[P, D]):
    batch: int
    place: int
    page: P = field(compare=False)
    drawn: Future[D] = field(compare=False, default_factory=Future)


class Pool(Generic[P, D]):
    """So many engines at most, each in a thread, started when there is work and ended when there is none."""

    def __init__(self, size: int, start: Callable[[], Engine[P, D]], failed: Callable[[OSError], D]) -> None:
        """`failed` is what comes of pages whose engine cannot be started, or has no room for its files."""
        self._size = size
        self._start = start
        self._failed = failed
        self._batches = count()
        self._waiting: list[_Job[P, D]] = []
        self._resting = 0
        self._threads: set[threading.Thread] = set()
        self._closing = False
        self._changed = threading.Condition()

    def draw(self, pages: Iterable[P]) -> Iterator[D]:
        """What comes of each page, in order; pages are asked for as the engines get through them."""
        batch, rest = next(self._batches), enumerate(pages)
        given: deque[_Job[P, D]] = deque()
        try:
            while True:
                # One page more than lies before the engines, or they would turn to a later batch for a moment.
                while len(given) <= _LAID * self._size and (one := next(rest, None)) is not None:
                    given.append(_Job(batch, *one))
                    self._give(given[-1])
                if not given:
                    return
                yield given.popleft().drawn.result()
        finally:
            for job in given:  # nobody wants them any more
                job.drawn.cancel()

    def close(self) -> None:
        """End engines that have no work."""
        with self._changed:
            self._closing = True
            threads = [*self._threads]
            self._changed.notify_all()
        for thread in threads:
            thread.join(5)
        self._closing = False

    def _give(self, job: _Job[P, D]) -> None:
        with self._changed:
            heapq.heappush(self._waiting, job)
            if len(self._waiting) > self._resting and len(self._threads) < self._size:
                thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._threads.add(thread)
                thread.start()
            self._changed.notify()

    def _next(self, seconds: float) -> _Job[P, D] | None:
        """None where nothing came; a thread that has waited for it ends."""
        with self._changed:
            while True:
                self._resting += 1
                self._changed.wait_for(lambda: self._waiting or self._closing, seconds)
                self._resting -= 1
                if not self._waiting:
                    if seconds:
                        self._threads.discard(threading.current_thread())
                    return None
                job = heapq.heappop(self._waiting)
                if job.drawn.set_running_or_notify_cancel():
                    return job

    def _run(self) -> None:
        engine: Engine[P, D] | None = None
        laid: deque[_Job[P, D]] = deque()
        job: _Job[P, D] | None = None
        try:
            while True:
                full = len(laid) == _LAID or (laid and engine is not None and engine.worn)
                if job is None and not full:
                    job = self._next(0 if laid else _IDLE_SECONDS)
                if job is None and not laid:
                    return
                try:
                    other = job is not None and engine is not None and not engine.takes(job.page)
                    if job is None or (laid and other):
                        assert engine is not None
                        drawn = engine.take()
                        laid.popleft().drawn.set_result(drawn)
                        continue
                    if engine is not None and (other or (not laid and not engine.fit)):
                        engine.close()
                        engine = None
                    laid.append(job)
                    job = None
                    engine = engine or self._start()
                    engine.add(laid[-1].page)
                except OSError as error:
                    while laid:
                        laid.popleft().drawn.set_result(self._failed(error))
                    if engine is not None:
                        engine.close()
                        engine = None
        except Exception as error:  # whoever waits for the pages has to hear of it
            for waiting in [*laid, *filter(None, [job])]:
                waiting.drawn.set_exception(error)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
            if engine is not None:
                engine.close()
