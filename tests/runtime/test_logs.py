"""Lines of the log: one for each unit of work, an outage once, for machines and for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from billhook.logs import STILL_SECONDS, JsonLines, Outage, Readable

ALERT = Path("/of/any/type")


class Line(logging.Handler):
    """What the process would print."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.formatter = formatter
        self.printed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.printed.append(self.format(record))


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("billhook.test")
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()


def test_lines_are_json_for_machines_and_text_for_people(log: logging.Logger) -> None:
    machine, terminal = Line(JsonLines("courier")), Line(Readable("courier"))
    for handler in (machine, terminal):
        log.addHandler(handler)
    try:
        raise ValueError("of what was done")
    except ValueError as error:
        log.error("delivered", extra={"id": "dlv_1", "attempt": 2}, exc_info=error)
    line = json.loads(machine.printed[0])
    assert (line["level"], line["service"], line["event"]) == ("error", "courier", "delivered")
    assert (line["id"], line["attempt"]) == ("dlv_1", 2)
    assert line["ts"].endswith("+00:00")
    assert "ValueError: of what was done" in line["error"]
    log.warning("dead", extra={"reason": "half a pair: \ud800", "at": ALERT})
    line = json.loads(machine.printed[1])
    assert (line["reason"], line["at"]) == ("half a pair: \ud800", str(ALERT))
    assert "courier" in terminal.printed[0]
    assert "dlv_1" in terminal.printed[0]
    assert "{" not in terminal.printed[0]


class Ticking:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_said_once_then_counted_and_its_end_is_said(log: logging.Logger) -> None:
    said, clock = Line(JsonLines("relay")), Ticking()
    log.addHandler(said)
    outage = Outage(log, "the database", clock)
    outage.worked()
    for _ in range(50):
        outage.failed("connection refused")
    clock.now += STILL_SECONDS
    outage.failed("connection refused")
    outage.failed("connection refused")
    clock.now += 2
    outage.worked()
    outage.worked()
    lines = [json.loads(line) for line in said.printed]
    assert [line["event"] for line in lines] == [
        "the database is away",
        "the database is still away",
        "the database is back",
    ]
    assert lines[0]["reason"] == "connection refused"
    assert (lines[1]["failures"], lines[1]["after_seconds"]) == (51, STILL_SECONDS)
    assert (lines[2]["failures"], lines[2]["after_seconds"]) == (52, STILL_SECONDS + 2)
    for _ in range(20):  # some connections of many come back before others
        outage.failed("again")
        outage.worked()
    assert len(said.printed) == 3
    clock.now += STILL_SECONDS
    outage.failed("again")
    assert json.loads(said.printed[-1])["event"] == "the database is away"
