"""Group commit: all that waits shares the next call, which is one transaction.

While one call is under way, items gather; the next takes all of them (up to a limit). Nobody waits on purpose: with
one request there is one row a commit, with a thousand there are hundreds. Nothing is kept from one call to the next, so
that no answer is ever stale.

A busy event loop lags behind: when a call ends, more requests lie in the sockets than in the line. So the loop first
reads those, and says itself when the next call may begin; then it gives out the answers of the last, while the next is
under way. (A call that began at once took two thirds as many, and each call has a price.)
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from billhook.store.database import is_store_away

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

WAITING_LIMIT: Final = 4096
"""Items that may wait; more are refused at once. At the slowest store measured (2,800 events/s) the last of them waits
1.5 s."""

WAITING_BYTES_LIMIT: Final = 256 * 1024 * 1024
"""Of bodies in the line: 4,096 of the largest would be 4 GiB."""


SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""The committing thread needs the interpreter back after each call of the database; Python's default lets the event
loop keep it for 5 ms, ten times as long as a commit takes, and as long as a turn at a provider may be late."""


def give_way() -> None:
    """Make the threads of this process yield to each other sooner than by default."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


class LineFull(Exception):
    """The waiting line is as long as it may be."""


class LineEnded(Exception):
    """The thread that should take what waits has died."""


class GroupCommit(Generic[A, R]):
    """The line of items, and the thread that takes them: it starts with the first of them."""

    def __init__(
        self,
        name: str,
        do: Callable[[Sequence[A]], Sequence[R | Exception]],
        *,
        largest: int,
        size: Callable[[A], int] = lambda item: 0,
    ) -> None:
        """`do` is called with `largest` items at most, and answers each of them with a result or an exception. What it
        raises is the answer to all; that the database is away is the answer to all who wait, too. `size` is the bytes
        that an item holds."""
        self._name = name
        self._do = do
        self._largest = largest
        self._size = size
        self._line: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = False
        self._lags: asyncio.AbstractEventLoop | None = None
        """The loop that was told of the last answers, until it has read what came meanwhile."""
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """How its thread died. Nothing is taken any more: the process has to end."""

    async def submit(self, item: A) -> R:
        """The result for this item. Raises what `do` answered or raised, or `LineFull`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        with self._lock:
            if self.problem is not None:
                raise LineEnded(self.problem)
            if len(self._line) >= WAITING_LIMIT or self._bytes > WAITING_BYTES_LIMIT:
                raise LineFull
            self._line.append((item, future))
            self._bytes += self._size(item)
            if self._lags is not loop and self._lags is not None:  # that one may have ended since
                self._go_on()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif len(self._line) == 1 and self._lags is None:
                self._changed.notify()
        return await future

    def stop(self) -> None:
        """Do what waits, and end the thread. What comes later starts another."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._changed.notify()
        if thread is not None:
            thread.join()
        self._stopping = False

    def _run(self) -> None:
        batch: list[tuple[A, asyncio.Future[R]]] = []
        try:
            while batch := self._next():
                items = [item for item, _ in batch]
                results: Sequence[R | Exception]
                try:
                    results = self._do(items)
                except Exception as error:
                    if is_store_away(error):
                        # Whoever waits behind them has waited as long: the next call would keep them as long again.
                        batch += self._rest()
                    results = [error] * len(batch)
                self._resolve([future for _, future in batch], results)
        except BaseException as error:
            with self._changed:
                self.problem = f"the thread {self._name} died: {type(error).__name__}: {error}"
            left = [future for _, future in (*batch, *self._rest())]
            self._resolve(left, [LineEnded(self.problem)] * len(left))
            log.critical("the thread that commits has died", extra={"part": self._name}, exc_info=error)

    def _rest(self) -> list[tuple[A, asyncio.Future[R]]]:
        with self._changed:
            rest = list(self._line)
            self._line.clear()
            self._bytes = 0
            return rest

    def _next(self) -> list[tuple[A, asyncio.Future[R]]]:
        """What waits, up to the limit; nothing when there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: (self._line and self._lags is None) or self._stopping)
            if len(self._line) <= self._largest:
                batch = [*self._line]
                self._line.clear()
            else:
                batch = [self._line.popleft() for _ in range(self._largest)]
            self._bytes -= sum(self._size(item) for item, _ in batch)
            return batch

    def _resolve(self, futures: Sequence[asyncio.Future[R]], results: Sequence[R | Exception]) -> None:
        """Wake those who wait, each loop once."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[R], R | Exception]]] = defaultdict(list)
        for future, result in zip(futures, results, strict=True):
            loops[future.get_loop()].append((future, result))
        for loop, answers in loops.items():
            self._lags = loop
            try:
                # Behind what it reads in its next round.
                loop.call_soon_threadsafe(loop.call_soon, self._give_out, answers)
            except RuntimeError:  # the loop has ended, and nobody waits in it any more
                self._lags = None

    def _give_out(self, answers: Sequence[tuple[asyncio.Future[R], R | Exception]]) -> None:
        with self._changed:
            self._go_on()
        _wake(answers)

    def _go_on(self) -> None:
        self._lags = None
        if self._line:
            self._changed.notify()


def _wake(answers: Sequence[tuple[asyncio.Future[R], R | Exception]]) -> None:
    for future, result in answers:
        if future.done():  # the request has gone away; its item is done all the same
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
