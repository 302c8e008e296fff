"""What a service is, and how the host finds it."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from billhook.errors import SettingsError
from billhook.runtime.env import Env

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Health:
    """What `/livez` and `/readyz` answer from. A loop calls `tick` each time around."""

    ticked_at: float = field(default_factory=time.monotonic)
    waiting_for: str | None = None
    """What keeps a service from working although it lives, in a sentence for its operator."""

    STALLED_AFTER_SECONDS = 600.0
    """The longest batch a consumer may be at (`billhook.queue.consumer.LONGEST_BATCH`)."""

    def tick(self) -> None:
        self.ticked_at = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self.ticked_at < self.STALLED_AFTER_SECONDS


class Running(Protocol):
    """A consumer at work."""

    def stop(self, timeout: float) -> bool:
        """Finish what is in hand and stop; False if that took longer than `timeout` seconds."""


class Together:
    """Several consumers in one process, stopped at the same time."""

    def __init__(self, *parts: Running) -> None:
        self._parts = parts

    def stop(self, timeout: float) -> bool:
        with ThreadPoolExecutor(len(self._parts)) as pool:
            return all(list(pool.map(lambda part: part.stop(timeout), self._parts)))


@dataclass(frozen=True)
class Service:
    """One process of the product: `billhook run <name>`. Either it serves an ASGI app, or it starts a consumer."""

    name: str
    summary: str
    app: Callable[[Env, Health], ASGIApp] | None = None
    start: Callable[[Env, Health], Running] | None = None


def service_names() -> list[str]:
    """Every folder under `services/` is a service: adding a folder adds one."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module("services").__path__))


def find_service(name: str) -> Service:
    """The service of that name. Raises `SettingsError` where there is none."""
    names = service_names()
    if name not in names:
        raise SettingsError(f"There is no service {name!r}. The services are: {', '.join(names)}.")
    service: Service = importlib.import_module(f"services.{name}.service").SERVICE
    return service
