"""What every process exports of itself: which code it is, its connections to the database, its clock beside the
database's, and the time that the garbage collector took."""

from __future__ import annotations

import gc
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from billhook.metrics import Metrics
from billhook.runtime.env import Env
from billhook.store.database import ANSWER_SECONDS
from billhook.store.fitness import clock_skew, known_revisions

EVERY_SECONDS: Final = 15.0
"""How often the clocks are compared: a question to the database each."""


@contextmanager
def exporting_vitals(env: Env, service: str) -> Iterator[None]:
    """Export them while the block runs."""
    metrics = env.metrics
    schema = known_revisions()[-1]
    metrics.build.labels(service, version("billhook"), schema, platform.python_version()).set(1)
    _export_pool(env)
    collector, errors, stopping = _CollectorWatch(metrics), _ErrorCount(metrics), threading.Event()
    clock = threading.Thread(target=_watch_clock, args=(env, stopping), name="clock", daemon=True)
    gc.callbacks.append(collector)
    logging.getLogger().addHandler(errors)
    clock.start()
    try:
        yield
    finally:
        stopping.set()
        logging.getLogger().removeHandler(errors)
        gc.callbacks.remove(collector)
        clock.join(ANSWER_SECONDS)


def _export_pool(env: Env) -> None:
    database = env.database

    def number(pool: str, place: int) -> Callable[[], float]:
        return lambda: database.connections()[pool][place]

    # One that is full stops whoever needs it, however much room the other has.
    for name, (_, _, limit) in database.connections().items():
        env.metrics.pool.labels(name, "in_use").set_function(number(name, 0))
        env.metrics.pool.labels(name, "idle").set_function(number(name, 1))
        env.metrics.pool_limit.labels(name).set(limit)


class _CollectorWatch:
    """Called by the collector, before it begins and when it is done; meanwhile nothing else runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.gc_seconds
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._seconds.inc(time.perf_counter() - self._began)


class _ErrorCount(logging.Handler):
    def __init__(self, metrics: Metrics) -> None:
        super().__init__(logging.ERROR)
        self._lines = metrics.log_errors
        for level in ("error", "critical"):
            self._lines.labels(level)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.labels(record.levelname.lower()).inc()


def _watch_clock(env: Env, stopping: threading.Event) -> None:
    while True:
        try:
            env.metrics.clock_skew.set(clock_skew(env.database, env.clock))
        except Exception:
            # Whoever needs the database says why it is away. What it said of the time before is no longer true.
            Metrics.clock_skew.forget(env.metrics)
        if stopping.wait(EVERY_SECONDS):
            return
