"""The places of endpoints that have a cap (`max_in_flight`), and what waits in hand for one of them.

To claim takes longer than many an endpoint takes to answer. So of what is due for one that answers quickly some is in
hand ahead, and a place is taken again in the moment in which it becomes free:

    claimed ─▶ a place is free ─▶ under way ─▶ answered: the next takes its place
                   └─ none ─▶ waits in hand ─▶ given back, if the endpoint fails meanwhile

The cap holds over all couriers. To a claim all that another courier has in hand is a place taken, sent or not; it
learns under the endpoint's lock how many places that leaves, and no more are used here until the next claim. Whoever
claims after it sees in turn all that is in hand here. So whatever each of them sends of what it has, together they
never send more than the cap.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Places(Generic[T]):
    """Used by the threads that claim and by the one that sends."""

    def __init__(self, most: Callable[[str], int]) -> None:
        """`most`: how many may be under way to an endpoint from here, at least one."""
        self._most = most
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._waiting: dict[str, deque[T]] = {}

    def take(self, endpoint_id: str, one: T) -> bool:
        """Whether there is a place for it now; if not, it waits for one."""
        with self._lock:
            if endpoint_id not in self._waiting and self._under_way[endpoint_id] < self._most(endpoint_id):
                self._under_way[endpoint_id] += 1
                return True
            self._waiting.setdefault(endpoint_id, deque()).append(one)
            return False

    def leave(self, endpoint_id: str) -> list[T]:
        """One place is free; returns those who take one now."""
        with self._lock:
            self._under_way[endpoint_id] -= 1
            waiting, taken = self._waiting.get(endpoint_id), []
            while waiting and self._under_way[endpoint_id] < self._most(endpoint_id):
                taken.append(waiting.popleft())
                self._under_way[endpoint_id] += 1
            if not waiting:
                self._waiting.pop(endpoint_id, None)
            if not self._under_way[endpoint_id]:
                del self._under_way[endpoint_id]
            return taken

    def give_back(self, endpoint_id: str) -> list[T]:
        """All that waits for a place there."""
        with self._lock:
            return [*self._waiting.pop(endpoint_id, ())]

    def give_all_back(self) -> list[T]:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            return [one for line in waiting.values() for one in line]
