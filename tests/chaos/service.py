"""One service, as `billhook run` starts it, with a wall clock that a file may set wrong; with an argument in seconds,
every lease is that long.

A killed process's work waits for its lease, and a run of seconds needs to see leases end. Everything else about them
is the product's own.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import uuid_utils

from billhook.runtime.clock import system_clock
from billhook.runtime.env import Env
from billhook.runtime.host import run_service
from billhook.runtime.service import find_service
from billhook.runtime.settings import read_settings

HANDLERS = {
    "bookkeeper": (("services.bookkeeper.posting", "Posting"),),
    "invoicer": (("services.invoicer.rendering", "Rendering"),),
    "courier": (("services.courier.delivery", "Delivery"),),
    "dunner": (("services.dunner.attempts", "Attempts"), ("services.dunner.cases", "Cases")),
}


CLOCK_FILE = "CHAOS_CLOCK_FILE"
"""Names the variable of the environment that names the file: seconds that the wall clock is ahead."""


class WrongClock:
    """The wall clock as the file has it. It is asked for every statement, so the file is read every 50 ms at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = float("-inf")
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return system_clock() + self.ahead()

    def ahead(self) -> timedelta:
        now = time.monotonic()
        if now - self._read_at >= 0.05:
            self._read_at = now
            self._ahead = timedelta(seconds=float(self._path.read_text()))
        return self._ahead

    def step_ids(self) -> None:
        """Ids bear the time that they were made at, and take it from the system themselves."""
        make = uuid_utils.uuid7

        def uuid7() -> Any:
            return make(nanoseconds=time.time_ns() + int(self.ahead().total_seconds() * 1e9))

        uuid_utils.uuid7 = uuid7  # type: ignore[assignment]


def lease_of(service: str) -> timedelta:
    """The longest lease of the product's own."""
    return max(handler.lease for handler in _handlers_of(service))


def _handlers_of(service: str) -> list[Any]:
    return [getattr(importlib.import_module(module), name) for module, name in HANDLERS.get(service, ())]


def main(service: str, lease_seconds: str | None = None) -> int:
    if lease_seconds is not None:
        for handler in _handlers_of(service):
            handler.lease = timedelta(seconds=float(lease_seconds))
    clock = WrongClock(Path(os.environ[CLOCK_FILE]))
    clock.step_ids()
    return run_service(find_service(service), Env(read_settings(), clock=clock))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
