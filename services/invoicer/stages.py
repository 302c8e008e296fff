"""Where the time of documents goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from prometheus_client import Counter

Stage = Literal["data", "draw", "e_invoice", "store"]
STAGES: Final[tuple[Stage, ...]] = ("data", "draw", "e_invoice", "store")


class Stages:
    """A stopwatch over a batch: it begins in `store`, which is what all else happens in, and an inner stage is no time
    of the outer one."""

    def __init__(self, seconds: Mapping[Stage, Counter]) -> None:
        self._seconds = seconds
        self._stage: Stage = "store"
        self._since = time.monotonic()

    @contextmanager
    def within(self, stage: Stage) -> Iterator[None]:
        outer = self._stage
        self._turn(stage)
        try:
            yield
        finally:
            self._turn(outer)

    def end(self) -> None:
        self._turn(self._stage)

    def _turn(self, stage: Stage) -> None:
        now = time.monotonic()
        self._seconds[self._stage].inc(now - self._since)
        self._stage, self._since = stage, now
