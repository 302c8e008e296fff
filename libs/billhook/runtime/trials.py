"""How many templates a process tries at once. A try may take half a minute of a thread and of a processor; without a
limit forty of them would take all threads of a desk, and no other request would be answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from billhook.errors import Refused

AT_ONCE: Final = 2


class Trials:
    """One for each merchant, and `AT_ONCE` altogether; when there is no room a request is refused at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._merchants: set[str] = set()

    @contextmanager
    def of(self, merchant_id: str) -> Iterator[None]:
        """Raises `Refused`."""
        with self._lock:
            if merchant_id in self._merchants or len(self._merchants) >= AT_ONCE:
                raise Refused("template_busy", "Other templates are being tried just now. Send it again in a minute.")
            self._merchants.add(merchant_id)
        try:
            yield
        finally:
            with self._lock:
                self._merchants.discard(merchant_id)
