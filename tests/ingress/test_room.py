"""The door while the database has no room for another event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from ingress.sender import Door, stripe_event

from billhook.store.database import Database
from services.ingress import room


@contextmanager
def full(database: Database) -> Iterator[None]:
    """SQLite's own limit, which is its answer to a full disk; PostgreSQL's words when a table cannot grow."""
    if database.sqlite:
        with database.statement() as run:
            run("VACUUM", ())  # what others left free in the file would be room

        def limit(connection: Any, *_: object) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        def lift(connection: Any, *_: object) -> None:
            connection.execute("PRAGMA max_page_count = 1000000")

        sa.event.listen(database.engine, "checkout", limit)
        yield
        sa.event.remove(database.engine, "checkout", limit)
        sa.event.listen(database.engine, "checkout", lift)
        return
    refuse = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END"
    with database.begin() as tx:
        tx.exec_driver_sql(f"CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$")
        tx.exec_driver_sql("CREATE TRIGGER no_room BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION no_room()")
    yield
    with database.begin() as tx:
        tx.exec_driver_sql("DROP FUNCTION no_room CASCADE")


def ready(door: Door) -> tuple[int, str]:
    answer = door.client.send("/readyz", [b""], [], method="GET")
    return answer.status, json.loads(answer.body).get("reason", "")


def eventually(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_room_events_are_503_and_the_ingress_is_not_ready_until_there_is(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "EVERY_SECONDS", 0.1)
    assert door.stripe(stripe_event("evt_1")).status == 200
    assert ready(door) == (200, "")
    large = stripe_event("evt_2", data={"object": {"text": "x" * 300_000}})
    with full(door.env.database):
        answer = door.stripe(large)
        assert (answer.status, answer.code) == (503, "store_unavailable")
        status, reason = ready(door)
        assert status == 503
        assert reason.startswith("the database takes no more: ")
        assert "full" in reason or "No space left" in reason
        assert door.client.send("/livez", [b""], [], method="GET").status == 200
    eventually(lambda: ready(door)[0] == 200)
    assert [row[0] for row in door.stored("external_id")] == ["evt_1", "evt_2"], "what found no room was kept meanwhile"
    assert json.loads(door.stripe(large).body)["status"] == "duplicate"
