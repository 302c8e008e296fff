"""Being told to stop, by SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Stop:
    """Set by a signal, or by a thread, for good.

    Not a `threading.Event`. A handler that sets one may run while the same thread holds its lock, and then waits for
    ever; Ctrl-C under `billhook up` sends two signals at once (the terminal's, then the supervisor's). And where the
    system hands a signal to another thread, a main thread that sleeps on a lock is not woken, so no handler runs at
    all. A byte in a pipe, which Python writes in whichever thread the signal meets, has neither trouble.
    """

    def __init__(self) -> None:
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)

    def on_signals(self) -> None:
        """Listen to SIGTERM and SIGINT from now on. Call it in the main thread."""
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def set(self) -> None:
        with suppress(BlockingIOError):  # full: it has been set often enough
            os.write(self._told, b"\0")

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float | None = None, *others: HasFileno) -> bool:
        """Whether it is set, after waiting `timeout` seconds for it at most, or until one of `others` can be read."""
        watched: list[int | HasFileno] = [self._heard, *others]
        return self._heard in select.select(watched, [], [], timeout)[0]
