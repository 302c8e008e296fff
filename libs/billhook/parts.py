"""The threads that a process is made of. When one of them dies the process has to end, with the reason: it would go on
without what that part does, and look well."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

STALLED_AFTER_SECONDS = 600.0
"""The longest that a part may be at one thing: as long as a batch of a consumer may take (`LONGEST_BATCH`)."""


class Part:
    """What is known of one thread: whether it works, since when, and how it ended."""

    def __init__(self, name: str, stalled_after_seconds: float) -> None:
        self.name = name
        self._limit = stalled_after_seconds
        self._since: float | None = time.monotonic()
        self.death: str | None = None

    def tick(self) -> None:
        """The part begins a piece of work."""
        self._since = time.monotonic()

    def rest(self) -> None:
        """The part waits for work, which may take as long as it likes."""
        self._since = None

    @property
    def problem(self) -> str | None:
        """Why the process has to be restarted, in a sentence; None while the part works."""
        if self.death is not None:
            return f"the {self.name} ended: {self.death}"
        since = self._since
        if since is not None and time.monotonic() - since > self._limit:
            return f"the {self.name} has been at one thing for {self._limit:g} seconds"
        return None


class Parts:
    """The parts of one process."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._watched: list[Callable[[], str | None]] = []
        self._told: list[Callable[[], object]] = []

    def start(
        self, name: str, run: Callable[[Part], None], *, stalled_after_seconds: float = STALLED_AFTER_SECONDS
    ) -> threading.Thread:
        """Start a thread. It may return once it was told to stop; an exception counts as its death."""
        part = Part(name, stalled_after_seconds)

        def live() -> None:
            try:
                run(part)
            except BaseException as error:
                part.death = f"{type(error).__name__}: {error}"
                log.critical("a part of the process ended", extra={"part": name}, exc_info=error)
                for tell in self._told:
                    tell()
            else:
                part.rest()

        thread = threading.Thread(target=live, name=name, daemon=True)
        self._parts.append(part)
        thread.start()
        return thread

    def watch(self, problem: Callable[[], str | None]) -> None:
        """Ask this function too how things are: for threads that a library started."""
        self._watched.append(problem)

    def when_one_dies(self, tell: Callable[[], object]) -> None:
        """Call this function then, in whichever thread that was."""
        self._told.append(tell)

    @property
    def deaths(self) -> list[str]:
        """How parts ended, and what watched functions report; none while all live."""
        ended = [part.problem for part in self._parts if part.death is not None]
        return [found for found in (*ended, *(problem() for problem in self._watched)) if found is not None]

    @property
    def death(self) -> str | None:
        """The first of them."""
        return next(iter(self.deaths), None)

    @property
    def problem(self) -> str | None:
        return self.death or next(filter(None, (part.problem for part in self._parts)), None)
