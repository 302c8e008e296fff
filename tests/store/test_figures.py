"""What the overview shows of large tables: counted where there is little, worked out where there is much."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from store.databases import NOW
from store.events import accept, arrival
from store.history import made, tried

from billhook.store import figures
from billhook.store.database import Database
from billhook.store.deliveries import delivery_attempts
from billhook.store.figures import SAMPLE, Rate

SPAN = timedelta(minutes=2)
STARTS = [NOW - place * SPAN for place in (3, 2, 1)]


def test_spans_are_asked_for_together_and_each_counts_its_own(database: Database) -> None:
    asked: list[str] = []
    with database.begin() as tx:
        for ago in (7, 3, 3, 1):
            tried(tx, "dlv_1", NOW - timedelta(minutes=ago))
        good = tried(tx, "dlv_1", NOW - timedelta(minutes=1))
        tx.execute(sa.update(delivery_attempts).where(delivery_attempts.c.id == good).values(outcome="2xx"))
    sa.event.listen(database.engine, "before_cursor_execute", lambda *event: asked.append(event[2]))
    with database.read() as tx:
        found = figures.attempted(tx, STARTS, SPAN)
        assert figures.received(tx, [], SPAN) == []
    assert found == [Rate(STARTS[0], 0, 0, True), Rate(STARTS[1], 2, 2, True), Rate(STARTS[2], 2, 1, True)]
    assert len([statement for statement in asked if "delivery_attempts" in statement]) == 1


def test_of_many_the_first_say_how_many(database: Database) -> None:
    """A thousand in the first half of the span, and the same again in the second, which nobody counts."""
    start, step = STARTS[2], SPAN / (2 * SAMPLE)
    events = [arrival(f"e{number}") for number in range(2 * SAMPLE)]
    accept(database, *(replace(each, id=made("evt", start + number * step)) for number, each in enumerate(events)))
    with database.read() as tx:
        [rate] = figures.received(tx, [start], SPAN)
    assert not rate.exact
    assert rate.count == pytest.approx(2 * SAMPLE, rel=0.01)
