"""Batching: what many requests ask for at the same time is one query instead of fifty.

While one batch is under way, what arrives gathers; the next takes all of it (up to a limit). Nobody waits on purpose:
with one request there is one item in a batch, with a thousand there are hundreds. Nothing is kept from one batch to the
next, so that no answer is ever stale.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


class Batches(Generic[A, R]):
    """Calls `do` in a thread with what has gathered; it answers each item, with a result or an exception."""

    def __init__(self, do: Callable[[Sequence[A]], Sequence[R | Exception]], *, largest: int) -> None:
        self._do = do
        self._largest = largest
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def answer(self, item: A) -> R:
        """The result for this item; what `do` answered or raised, if that is an exception."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._largest))]
            results: Sequence[R | Exception]
            try:
                results = await asyncio.to_thread(self._do, [item for item, _ in batch])
            except Exception as error:
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():  # whoever asked has gone away
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._working = None
