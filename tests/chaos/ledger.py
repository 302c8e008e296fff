"""The ledger: what the product has accepted, that is, what it may never lose."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.traffic import Event


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event that was answered 2xx, and when (seconds since 1970)."""

    event: Event
    at: float


class Ledger:
    """Append-only, in memory and in a file to read after a failed run."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._entries: list[Accepted] = []
        self._lock = threading.Lock()

    def accept(self, event: Event, at: float) -> None:
        with self._lock:
            self._entries.append(Accepted(event, at))
            self._file.write(json.dumps({"at": at, "id": event.id, "source": event.source, "fact": event.fact}) + "\n")
            self._file.flush()

    @property
    def entries(self) -> list[Accepted]:
        with self._lock:
            return list(self._entries)

    def close(self) -> None:
        self._file.close()
