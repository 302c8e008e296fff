"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], within_seconds: float, what: str, *, share: float = 0.0) -> None:
    """Looks every 20 ms, or after so large a share of the time that has passed, where to look costs what is measured.
    Raises `RuntimeError` when it does not come about in time."""
    started = time.monotonic()
    while not condition():
        passed = time.monotonic() - started
        if passed > within_seconds:
            raise RuntimeError(f"waited {within_seconds:g} s in vain for {what}")
        time.sleep(max(0.02, share * passed))
