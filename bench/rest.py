"""The embedded product at rest: what `billhook up` takes of memory and of a processor when nothing happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.memory import memory_of
from bench.product import HOST
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.runtime.health import wait_until_ready
from billhook.runtime.service import service_names
from billhook.runtime.settings import read_settings
from billhook.runtime.stop import Stop
from billhook.runtime.valkey import free_port

MOST_MB = 300
MOST_PERCENT = 1.0


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(var=Path(folder), **{f"{name}_port": free_port() for name in service_names()})
        given = {f"{name}_port": settings.port_of(name) for name in service_names()} | {"var": folder}
        own = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
        up = subprocess.Popen(
            [sys.executable, "-m", "billhook.cli.main", "up"],
            env={**own, **{f"BILLHOOK_{name.upper()}": str(value) for name, value in given.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            if not wait_until_ready(settings, service_names(), Stop()):
                raise RuntimeError("the product did not start")
            time.sleep(scale.rest_seconds)  # the first looks and sweeps are over
            family = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
            before, began = _processor_seconds(family), time.monotonic()
            time.sleep(scale.rest_seconds)
            busy = _processor_seconds(family) - before
            percent = 100 * busy / (time.monotonic() - began)
            megabytes = sum(memory_of(process.pid) for process in family)
        finally:
            up.terminate()
            up.wait()
    conditions = {"work": f"`billhook up` on {HOST}, nothing to do", "database": database, "processes": len(family)}
    yield Figure("rest.memory", megabytes, "MB", None, Aim("value", "at most", MOST_MB), conditions)
    yield Figure("rest.processor", percent, "% of a core", None, Aim("value", "at most", MOST_PERCENT), conditions)


def _processor_seconds(family: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)
