"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], within_seconds: float, what: str) -> None:
    """Raises `RuntimeError` when it does not come about in time."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {within_seconds:g} s in vain for {what}")
        time.sleep(0.02)
