"""What a service is, and how the host finds it."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from billhook.errors import SettingsError
from billhook.parts import Parts
from billhook.runtime.env import Env

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Health:
    """What `/livez` and `/readyz` answer from, and what ends the process."""

    parts: Parts = field(default_factory=Parts)
    """The threads without which the service is none."""
    waiting_for: str | None = None
    """What keeps a service from working although it lives, in a sentence for its operator."""

    def watch(self, problem: Callable[[], str | None]) -> None:
        """Check this function too: it returns why the process cannot go on, once a part of it has died."""
        self.parts.watch(problem)

    @property
    def problem(self) -> str | None:
        """Which part has died, in a sentence. The process has to end, because it would go on without that part and look
        healthy."""
        return self.parts.death


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
    """Every folder under `services/` is a service: adding a folder adds one. Raises `SettingsError` for a folder that
    is not one: its process would be started again and again."""
    folders = [folder for path in importlib.import_module("services").__path__ for folder in _folders(Path(path))]
    for folder in folders:
        if not folder.name.isidentifier():
            raise _no_service(folder.name, "its name is no name in Python: letters, digits and _")
        if not (folder / "service.py").is_file():
            raise _no_service(folder.name, "it has no service.py")
    return sorted(folder.name for folder in folders)


def find_service(name: str) -> Service:
    """The service of that name. Raises `SettingsError` where there is none."""
    names = service_names()
    if name not in names:
        raise SettingsError(f"There is no service {name!r}. The services are: {', '.join(names)}.")
    service = getattr(importlib.import_module(f"services.{name}.service"), "SERVICE", None)
    if not isinstance(service, Service):
        raise _no_service(name, "its service.py has no SERVICE = Service(…)")
    if service.name != name:
        raise _no_service(name, f"its SERVICE is called {service.name!r}, and must be called as its folder is")
    if (service.app is None) == (service.start is None):
        raise _no_service(name, "its SERVICE must have either an `app` or a `start`")
    return service


def _folders(path: Path) -> Iterator[Path]:
    """Those that hold something: what is left of a service that was removed are compiled files."""
    for folder in path.iterdir():
        if (
            folder.is_dir()
            and folder.name[0] not in "._"
            and {file.name for file in folder.iterdir()} - {"__pycache__"}
        ):
            yield folder


def _no_service(folder: str, reason: str) -> SettingsError:
    return SettingsError(f"services/{folder} is no service: {reason}. docs/add-a-consumer.md shows what makes one.")
