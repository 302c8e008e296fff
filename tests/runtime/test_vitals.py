"""What every process tells of itself."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from store.databases import lay_ledger

from billhook.runtime import vitals
from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings


def until(happened: Any) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_process_tells_of_its_connections_its_collector_its_log_and_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_ledger(tmp_path / "billhook.db")
    env = Env(read_settings(var=tmp_path))

    def told(series: str) -> float | None:
        lines = env.metrics.exported().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"billhook_{series}")), None)

    skews = [0.0, 7.5]
    monkeypatch.setattr(vitals, "EVERY_SECONDS", 0.005)
    monkeypatch.setattr(vitals, "clock_skew", lambda database, clock: skews[-1] / bool(skews[-1]))
    with vitals.exporting_vitals(env, "courier"):
        assert told('build_info{python="') == 1.0
        until(lambda: told("database_clock_skew_seconds") == 7.5)
        with env.database.read():
            assert told('database_pool_connections{pool="transactions",state="in_use"}') == 1.0
        assert told('database_pool_connections{pool="transactions",state="in_use"}') == 0.0
        assert (told('database_pool_limit{pool="transactions"}') or 0) >= 1
        before = told("gc_seconds_total") or 0.0
        gc.collect()
        assert (told("gc_seconds_total") or 0.0) > before
        assert told('log_errors_total{level="error"}') == 0.0, "so that a first one is an increase"
        logging.getLogger("billhook.test").error("something broke")
        assert told('log_errors_total{level="error"}') == 1.0
        skews.pop()  # the next comparison fails
        until(lambda: told("database_clock_skew_seconds") is None)
    env.close()
