"""One service, as `billhook run` starts it; with an argument in seconds, every lease is that long.

A killed process's work waits for its lease, and a run of seconds needs to see leases end. Everything else about them
is the product's own.
"""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from typing import Any

from billhook.runtime.env import Env
from billhook.runtime.host import run_service
from billhook.runtime.service import find_service
from billhook.runtime.settings import read_settings

HANDLERS = {
    "bookkeeper": ("services.bookkeeper.posting", "Posting"),
    "invoicer": ("services.invoicer.rendering", "Rendering"),
    "courier": ("services.courier.delivery", "Delivery"),
}


def lease_of(service: str) -> timedelta:
    """The lease of the product's own."""
    lease: timedelta = _handler_of(service).lease
    return lease


def _handler_of(service: str) -> Any:
    module, name = HANDLERS[service]
    return getattr(importlib.import_module(module), name)


def main(service: str, lease_seconds: str | None = None) -> int:
    if lease_seconds is not None and service in HANDLERS:
        _handler_of(service).lease = timedelta(seconds=float(lease_seconds))
    return run_service(find_service(service), Env(read_settings()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
