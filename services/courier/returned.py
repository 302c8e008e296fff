"""What has come back and is to be written: what went well first, and of what failed a little at a time.

Hundreds of requests to endpoints that hang end within the same moment, and to write what came of them takes the
processor for longer than a webhook takes. Nobody waits for a failure to be written: it is tried again in seconds at the
earliest.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from services.courier.delivery import Result

SLICE: Final = 16
"""Failures that are written together with what went well: few milliseconds' worth."""

SHARE: Final = 1 / 8
"""Or so much of a longer line, which never grows without end by that."""


Traced = tuple[Result, str | None]
"""A result, and the `traceparent` of its attempt where there is one."""


class Returned:
    """The line of results. The caller sees to it that one thread at a time uses it."""

    def __init__(self) -> None:
        self._well: list[Traced] = []
        self._behind: deque[Traced] = deque()
        self._endpoints: Counter[str] = Counter()
        """Of those behind: what came from one endpoint is written in the order in which it came."""

    def __len__(self) -> int:
        return len(self._well) + len(self._behind)

    def add(self, result: Result, traceparent: str | None = None) -> None:
        job, _, tried = result
        endpoint_id = job.endpoint.id
        failed = tried is not None and tried.attempt.outcome != "2xx"
        if failed or endpoint_id in self._endpoints:
            self._behind.append((result, traceparent))
            self._endpoints[endpoint_id] += 1
        else:
            self._well.append((result, traceparent))

    def take(self) -> list[Traced]:
        """What is to be written next."""
        taken, self._well = self._well, []
        for _ in range(min(len(self._behind), max(SLICE, int(len(self._behind) * SHARE)))):
            result, traceparent = self._behind.popleft()
            endpoint_id = result[0].endpoint.id
            self._endpoints[endpoint_id] -= 1
            if not self._endpoints[endpoint_id]:
                del self._endpoints[endpoint_id]
            taken.append((result, traceparent))
        return taken
