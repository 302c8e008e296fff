"""`billhook up`: the whole product on one machine, a child process a service, until Ctrl-C or SIGTERM.

A child that dies is started again, each time after a longer wait. At the end the services drain first and the queue
goes last. Where that is sound, services are forks of one process that has imported what they need
(`billhook.runtime.nursery`), and together take half the memory.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from billhook import logs
from billhook.errors import BillhookError, SettingsError
from billhook.runtime.nursery import Nursery, can_fork
from billhook.runtime.ports import check_port
from billhook.runtime.settings import Settings
from billhook.runtime.stop import Stop
from billhook.runtime.valkey import EmbeddedValkey, ending_with_parent
from billhook.store.database import load_dialect

log = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)
"""Waits before a fallen child's 1st, 2nd, … restart; a child that ran for a minute starts over."""

STEADY_SECONDS = 60.0
KILLED_WITHIN_SECONDS = 30.0
WATCH_SECONDS = 2.0
"""A process that was forked is missed at once; the queue, or one that was not forked, after so long."""


class Process(Protocol):
    """A child, however it was started."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Child:
    """One service and the process that runs it at present."""

    name: str
    process: Process | None = None
    started_at: float = 0.0
    falls: int = 0
    start_at: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs services as children, with an embedded Valkey where no queue is configured."""

    def __init__(self, settings: Settings, services: Sequence[str]) -> None:
        self._settings = settings
        self._children = [Child(name) for name in services]
        self._stop = Stop()
        self._valkey = EmbeddedValkey(settings.var / "valkey") if settings.embedded_queue else None
        self._nursery: Nursery | None = None

    @property
    def queue_url(self) -> str:
        return self._valkey.url if self._valkey else self._settings.queue_url.get_secret_value()

    @property
    def stopping(self) -> Stop:
        """Set once a signal asks for the end."""
        return self._stop

    def check_ports(self, *, usual: bool) -> None:
        """Raises `SettingsError` with a line for each service whose port is taken. A service that falls over its port
        would be started again for ever, and whoever typed the command is there to read the reason now. Without `usual`
        only ports that somebody chose count: replicas pick others."""
        problems = []
        first: dict[int, str] = {}
        for child in self._children:
            if not usual and not self._settings.port_is_given(child.name):
                continue
            port = self._settings.port_of(child.name)
            if port and (other := first.setdefault(port, child.name)) != child.name:
                problems.append(
                    f"The {other} and the {child.name} would both listen on port {port}."
                    f" Set BILLHOOK_{child.name.upper()}_PORT to a free one."
                )
                continue
            try:
                check_port(self._settings, child.name)
            except SettingsError as error:
                problems.append(str(error))
        if problems:
            raise SettingsError("\n".join(problems))

    def prepare(self) -> None:
        """Import what the services need, once for all of them. Before anything is opened: forks would share it."""
        if can_fork():
            load_dialect(self._settings.database)
            self._nursery = Nursery([child.name for child in self._children])

    def start(self) -> None:
        """Start everything. Returns at once; services become ready within seconds, if `watch` is called."""
        logs.set_up("supervisor", self._settings.log_level)
        self._stop.on_signals()
        if self._valkey:
            self._valkey.start()
        for child in self._children:
            self._spawn(child)

    def wait(self) -> int:
        """Watch the children until told to stop, then drain; 0 when every one of them finished in time."""
        others = () if self._nursery is None else (self._nursery,)
        while not self._stop.wait(self._patience(), *others):
            self.watch()
            if self._nursery is not None and self._nursery.gone:
                log.critical("the process that forks services was killed, so everything ends")
                self._drain()
                return 1
        return self._drain()

    def _patience(self) -> float:
        """Until the next look: in time for whoever is to be started again."""
        now = time.monotonic()
        return max(0.0, min([WATCH_SECONDS, *(child.start_at - now for child in self._children if not child.process)]))

    def watch(self) -> None:
        """Look once, and start again what died."""
        if self._valkey and self._valkey.pid is None:
            log.error("the queue fell; starting it again", extra={"reason": self._valkey.death})
            try:
                self._valkey.start()
            except BillhookError as error:  # the services go on without it; the next look tries again
                log.error("the queue did not start", extra={"reason": str(error)})
        for child in self._children:
            self._watch(child)

    def _spawn(self, child: Child) -> None:
        environment = {"BILLHOOK_QUEUE_URL": self.queue_url, "BILLHOOK_VAR": str(self._settings.var)}
        if self._nursery is not None:
            child.process = self._nursery.start(child.name, environment)
        else:
            command = [sys.executable, "-m", "billhook.runtime.process", child.name]
            child.process = subprocess.Popen(
                ending_with_parent(command, signal.SIGTERM),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
            )
        child.started_at = time.monotonic()

    def _watch(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                self._spawn(child)
            return
        code = child.process.poll()
        if code is None:
            return
        child.falls = 1 if now - child.started_at > STEADY_SECONDS else child.falls + 1
        wait = BACKOFF_SECONDS[min(child.falls, len(BACKOFF_SECONDS)) - 1]
        log.error("service fell", extra={"fallen": child.name, "exit_code": code, "restart_in_seconds": wait})
        child.process, child.start_at = None, now + wait

    def _drain(self) -> int:
        running = [(child.name, child.process) for child in self._children if child.process is not None]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + self._settings.drain_seconds + 5
        clean = True
        for name, process in running:
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, TimeoutError):
                process.kill()
                code = process.wait(KILLED_WITHIN_SECONDS)
            # Ended by the signal itself: it was still starting and had nothing in hand.
            if code not in (0, -signal.SIGTERM, -signal.SIGINT):
                log.error("service did not finish", extra={"unfinished": name, "exit_code": code})
                clean = False
        if self._nursery is not None:
            self._nursery.close()
        if self._valkey:
            self._valkey.stop()
        return 0 if clean else 1
