"""When the database takes no more: its disk is full, or it may only be read.

Senders hear 503, and `/readyz` sends them elsewhere. One of the events that found no room is tried again until it fits:
then there is room, and the event is stored, which is what its sender wants (who sends it again: a duplicate).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from billhook.runtime.service import Health
from billhook.store.database import is_store_away, is_unwritable
from billhook.store.inbox import Arrival, Receipt

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0


class Room:
    """Finds out when there is room again."""

    def __init__(self, health: Health, store: Callable[[Sequence[Arrival]], Sequence[Receipt | Exception]]) -> None:
        """`store` is what stores arrivals otherwise."""
        self._health = health
        self._store = store
        self._lock = threading.Lock()
        self._asked: Arrival | None = None

    def lacking(self, arrivals: Sequence[Arrival], error: Exception) -> None:
        """These found none."""
        largest = max(arrivals, key=lambda arrival: len(arrival.body))
        with self._lock:
            begun, self._asked = self._asked is not None, largest
        if begun:
            return
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        self._health.waiting_for = f"the database takes no more: {reason}"
        log.error("events not stored: the database takes no more", extra={"reason": reason})
        threading.Thread(target=self._ask, name="room", daemon=True).start()

    def _ask(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_SECONDS):
            assert self._asked is not None
            try:
                self._store([self._asked])
            except Exception as error:
                if is_unwritable(error) or is_store_away(error):
                    continue
                log.error("an event that found no room cannot be stored", exc_info=error)
            with self._lock:
                self._asked = None
            self._health.waiting_for = None
            log.warning("the database takes events again")
            return
