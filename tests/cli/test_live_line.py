"""The live line: what the processes' own metrics say, on a terminal and nowhere else."""

from __future__ import annotations

import io
import logging
import threading
from pathlib import Path

from billhook.cli.live import LiveLine, live_line
from billhook.logs import Readable
from billhook.metrics import Metrics
from billhook.runtime.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """What stands in the last line."""
        return self.getvalue().rpartition("\033[K")[2].rstrip("\r")


def test_it_says_what_came_in_and_went_out_and_how_fast() -> None:
    metrics, terminal, now = (
        {name: Metrics() for name in ("ingress", "courier", "invoicer", "relay")},
        Terminal(),
        [0.0],
    )

    def read(service: str) -> str:
        return metrics[service].exported().decode() if service in metrics else ""

    line = LiveLine(read, terminal, lambda: now[0])
    assert not line.draw()
    assert terminal.line == "in 0 events 0/s · out 0 webhooks 0/s, 0 documents 0/s · 0 dead"

    for source in ("a", "b"):
        metrics["ingress"].events_accepted.labels("stripe", source).inc(600)
    for outcome, count in (("2xx", 1500), ("5xx", 7)):
        metrics["courier"].deliveries.labels(outcome).inc(count)
    metrics["invoicer"].documents.labels("ready").inc(3)
    metrics["invoicer"].documents.labels("failed").inc()
    metrics["relay"].dead_letters.labels("inbox", "refused").set(2)
    now[0] = 2.0
    assert line.draw()
    assert terminal.line == "in 1,200 events 600/s · out 1,500 webhooks 750/s, 3 documents 2/s · 2 dead"

    # An ingress that was started again counts from 0, and one that does not answer has not lost what it counted.
    metrics["ingress"] = Metrics()
    metrics["ingress"].events_accepted.labels("stripe", "a").inc(10)
    del metrics["courier"]
    now[0] = 3.0
    line.draw()
    assert terminal.line == "in 1,210 events 10/s · out 1,500 webhooks 0/s, 3 documents 0/s · 2 dead"

    metrics["ingress"].events_accepted.labels("stripe", "a").inc(12_000_000)
    metrics["invoicer"].documents.labels("ready").inc(250_000)
    now[0] = 1003.0
    line.draw()
    assert terminal.line == "in 12.0M events 12,000/s · out 1,500 webhooks 0/s, 250k documents 250/s · 2 dead"[:79]


def test_a_log_is_no_terminal(tmp_path: Path) -> None:
    log, terminal = io.StringIO(), Terminal()
    before = threading.active_count()
    with live_line(Settings(var=tmp_path), log):
        assert threading.active_count() == before
    assert log.getvalue() == ""
    with live_line(Settings(var=tmp_path), terminal):
        assert threading.active_count() == before + 1
    assert terminal.line == "", "the line goes with the product"


def test_what_is_logged_in_a_terminal_clears_the_line_first() -> None:
    record = logging.LogRecord("billhook", logging.ERROR, "", 0, "service fell", None, None)
    assert Readable("supervisor").format(record).startswith("\033[K")
