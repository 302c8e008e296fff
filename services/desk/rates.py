"""How often somebody may do something here: bounded in this process, and forgotten with it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Final

from billhook.rules import bucket

MOST_KNOWN: Final = 10_000
"""Whose buckets are kept; whoever was longest away begins with a full one again."""


class Rate:
    """So many a second for each, and as many at once."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._spent: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, who: str) -> bool:
        """Whether there was one left, which is taken."""
        return self._ask(who, keep=True)

    def left(self, who: str) -> bool:
        """Whether there is one left."""
        return self._ask(who, keep=False)

    def _ask(self, who: str, *, keep: bool) -> bool:
        now = time.monotonic()  # no clock that is set can open or close it
        with self._lock:
            spent = self._spent.get(who)
            granted, until = bucket.take_now(None if spent is None else spent - now, self.per_second, 1)
            if keep and granted:
                self._spent[who] = now + until
                self._spent.move_to_end(who)
                if len(self._spent) > MOST_KNOWN:
                    self._spent.popitem(last=False)
            return bool(granted)
