"""Rings are heard once, in batches; and when they cannot be, SQL is looked into instead."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from queue_line import Line, until

from billhook.queue import broker
from billhook.queue.bell import GATHER_SECONDS_LIMIT, PENDING_LIMIT
from billhook.queue.broker import RINGS_KEPT
from billhook_testing.proxy import proxy
from billhook_testing.servers import valkey_server


@pytest.fixture(autouse=True)
def waits_in_redis_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of these stories are about what happens when one has ended."""
    monkeypatch.setattr("billhook.queue.broker.IDLE_SECONDS", 0.2)


def heard(line: Line, count: int, limit: int = 1000) -> list[str]:
    """What the listener hands out until there are `count` ids."""
    ids: list[str] = []

    def enough() -> bool:
        ids.extend(line.listener.take(limit, timeout=1) or [])
        return len(ids) >= count

    until(enough)
    return ids


def some_ids(count: int, prefix: str = "evt") -> list[str]:
    return [f"{prefix}_{number:032x}" for number in range(count)]


def test_a_listener_looks_into_sql_first(line: Line) -> None:
    assert line.listener.take(10, timeout=5) is None


def test_a_listener_may_be_closed_by_each_who_shares_it(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", ["evt_a"])
    assert heard(line, 1) == ["evt_a"]
    line.listener.close()
    line.listener.close()
    assert line.listener.take(10, timeout=5) == []


def test_what_is_rung_for_is_heard_once_in_batches(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", some_ids(450))
    first = line.listener.take(100, timeout=5)
    assert first is not None
    assert 0 < len(first) <= 100
    rest = heard(line, 450 - len(first), limit=100)
    assert sorted([*first, *rest]) == some_ids(450)
    assert line.listener.take(100, timeout=0) == []


def test_an_id_that_waits_already_is_not_heard_twice(line: Line) -> None:
    line.open()
    for _ in range(5):
        line.bell.ring("inbox", ["evt_a", "evt_b"])
    line.bell.ring_all({"inbox": ["evt_c"], "documents": [], "deliveries": ["dlv_a"]})
    until(lambda: line.broker.waiting("deliveries") == 1)
    assert line.broker.waiting("documents") == 0
    assert heard(line, 3) == ["evt_a", "evt_b", "evt_c"]
    assert line.listener.take(10, timeout=0) == []


def test_a_look_into_sql_finds_what_was_rung_for_before_it(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", ["evt_a", "evt_b"])
    assert heard(line, 1, limit=1) == ["evt_a"]
    line.listener.look()
    assert line.listener.take(10, timeout=5) is None
    assert line.listener.take(10, timeout=0) == []


def test_where_it_is_asked_for_what_was_rung_for_goes_before_a_look_once(line: Line) -> None:
    line.listener.take(10, 0)
    line.bell.ring("inbox", ["a", "b", "c"])
    assert line.listener.take(1, 5, rung_first=True) == ["a"]
    line.listener.look()
    assert line.listener.take(1, 5, rung_first=True) == ["b"]
    assert line.listener.take(1, 5, rung_first=True) is None
    assert line.listener.take(1, 0, rung_first=True) == []  # it is among what is due


def test_more_rings_than_are_kept_are_a_look_into_sql(line: Line) -> None:
    line.open()
    for event in some_ids(RINGS_KEPT + 2):
        line.broker.ring("inbox", [event])
    until(lambda: line.listener.take(1, timeout=1) is None)
    assert line.broker.waiting("inbox") == 0
    assert line.listener.take(1, timeout=0) == []
    line.bell.ring("inbox", ["evt_a"])
    assert heard(line, 1) == ["evt_a"]


def test_what_is_rung_for_while_nobody_listens_is_heard_later(line: Line) -> None:
    line.open()
    for event in some_ids(100):
        line.broker.ring("inbox", [event])
    time.sleep(2 * broker.IDLE_SECONDS)  # the wait in Redis has ended meanwhile
    assert sorted(heard(line, 100)) == some_ids(100)
    assert line.metric("degraded_mode") == 0
    assert line.broker.waiting("inbox") == 0


def test_whoever_waits_is_woken_by_a_look_and_by_the_end(line: Line) -> None:
    line.open()
    taken: list[list[str] | None] = []
    waiting = [threading.Thread(target=lambda: taken.append(line.listener.take(1, timeout=60))) for _ in range(2)]
    for thread in waiting:
        thread.start()
    line.listener.look()
    until(lambda: taken == [None])
    line.listener.close()
    until(lambda: taken == [None, []])


def test_a_ring_is_heard_by_one_of_those_who_listen(line: Line) -> None:
    with Line(line.url) as other:
        line.open()
        other.open()
        ids: list[str] = []

        def heard_so_far() -> int:
            for listener in (line.listener, other.listener):
                ids.extend(listener.take(9, timeout=0.01) or [])
            return len(ids)

        for count, event in enumerate(some_ids(20), start=1):
            line.bell.ring("inbox", [event])
            until(lambda count=count: heard_so_far() >= count)
        assert ids == some_ids(20)


def test_dramatiqs_own_programs_hear_rings_and_ring(line: Line) -> None:
    theirs = RedisBroker(url=line.url)  # type: ignore[no-untyped-call]
    heard_there: list[list[str]] = []
    actor = dramatiq.actor(heard_there.append, broker=theirs, actor_name="inbox", queue_name="inbox")
    line.open()
    actor.send(["evt_a", "evt_b"])
    assert heard(line, 2) == ["evt_a", "evt_b"]
    actor.send("no ring")
    until(lambda: line.listener.take(1, timeout=1) is None)

    line.bell.ring("inbox", ["evt_c"])
    worker = dramatiq.Worker(theirs, queues={"inbox"}, worker_threads=1, worker_timeout=10)
    worker.start()
    until(lambda: heard_there == [["evt_c"]])
    worker.stop()
    theirs.close()


def test_look_is_answered_by_the_next_take(line: Line) -> None:
    line.open()
    line.listener.look()
    assert line.listener.take(10, timeout=5) is None
    assert line.listener.take(10, timeout=0) == []


def test_a_ring_without_ids_is_a_look_into_sql(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", ["evt_a"])
    assert heard(line, 1) == ["evt_a"]
    line.bell.look("inbox")
    until(lambda: line.listener.take(10, timeout=1) is None)
    assert line.listener.take(10, timeout=0) == []


def test_a_closed_listener_hands_out_nothing(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", ["evt_a"])
    line.listener.close()
    assert line.listener.take(10, timeout=30) == []


def test_a_quiet_bell_rings_by_itself_and_leaves_what_goes_wrong_to_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        line.bell.ring("inbox", ["evt_a"])
        assert heard(line, 1) == ["evt_a"]
        with monkeypatch.context() as patch:
            patch.setattr(line.broker, "ring", lambda *_: pytest.fail("the thread was woken"))
            for event in ("evt_b", "evt_c"):
                time.sleep(2 * GATHER_SECONDS_LIMIT)
                line.bell.ring("inbox", [event])
                assert heard(line, 1) == [event]
            assert line.metric("ring_send_failures_total") == 0
        time.sleep(2 * GATHER_SECONDS_LIMIT)
        valkey.kill()
        line.bell.ring("inbox", ["evt_lost"])
        until(lambda: line.metric("ring_send_failures_total") == 1)


def test_what_the_bell_holds_is_sent_before_it_closes(line: Line) -> None:
    line.bell.ring("inbox", some_ids(1000))
    line.bell.close()
    assert line.broker.waiting("inbox") == 5


def test_two_listeners_of_one_process_hear_their_own(line: Line) -> None:
    with Line(line.url, "documents") as other:
        line.open()
        other.open()
        line.bell.ring_all({"inbox": ["evt_a"], "documents": ["doc_a"]})
        assert heard(line, 1) == ["evt_a"]
        assert heard(other, 1) == ["doc_a"]


def test_without_redis_work_is_looked_for_in_sql_until_redis_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        assert line.metric("degraded_mode") == 0
        valkey.kill()
        assert line.listener.take(10, timeout=20) is None
        assert line.metric("degraded_mode") == 1
        assert line.listener.take(10, timeout=20) is None
        line.bell.ring("inbox", ["evt_lost"])
        until(lambda: line.metric("ring_send_failures_total") == 1)
        valkey.start()
        until(lambda: line.listener.take(10, timeout=1) == [])
        assert line.metric("degraded_mode") == 0
        line.bell.ring("inbox", ["evt_a"])
        assert heard(line, 1) == ["evt_a"]
    said = [record.getMessage() for record in caplog.records if "the queue" in record.getMessage()]
    assert [words.rpartition(" is ")[2] for words in said] == ["away", "back"]


def test_a_frozen_redis_holds_nobody_up(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        valkey.freeze()
        for number in range(10):
            line.bell.ring("inbox", some_ids(PENDING_LIMIT, str(number)))
        # All of them came back before the first one was found not to be taken.
        assert line.metric("ring_send_failures_total") == 0
        assert line.listener.take(10, timeout=20) is None
        assert line.metric("degraded_mode") == 1
        until(lambda: line.metric("ring_send_failures_total") >= 1)
        valkey.thaw()
        until(lambda: line.listener.take(PENDING_LIMIT, timeout=1) is not None and line.metric("degraded_mode") == 0)
        line.bell.ring("inbox", ["evt_a"])
        until(lambda: "evt_a" in (line.listener.take(PENDING_LIMIT, timeout=1) or []))


def test_a_way_to_redis_that_swallows_or_cuts_holds_nobody_up(tmp_path: Path) -> None:
    with (
        valkey_server(tmp_path) as valkey,
        proxy(valkey.port) as way,
        Line(valkey.url.replace(f":{valkey.port}/", f":{way.port}/")) as line,
    ):
        line.open()
        for harm in (way.swallow, way.cut):
            harm()
            line.bell.ring("inbox", ["evt_lost"])  # comes back, whatever becomes of it
            until(lambda: line.listener.take(10, timeout=1) is None)
            assert line.metric("degraded_mode") == 1
            way.open()
            until(lambda: line.listener.take(10, timeout=1) is not None and line.metric("degraded_mode") == 0)
            line.bell.ring("inbox", ["evt_a"])
            until(lambda: "evt_a" in (line.listener.take(10, timeout=1) or []))


def test_over_a_slow_way_to_redis_rings_are_late_and_heard(line: Line) -> None:
    port = urlsplit(line.url).port
    assert port is not None
    with proxy(port) as way, Line(line.url.replace(f":{port}/", f":{way.port}/")) as far:
        far.open()
        for how in (partial(way.delay, 0.2), partial(way.trickle, 0.0002)):
            how()
            for event in some_ids(20):
                far.bell.ring("inbox", [event])
            assert sorted(heard(far, 20)) == some_ids(20)
        assert far.metric("degraded_mode") == 0
        assert far.metric("ring_send_failures_total") == 0


def test_a_redis_that_takes_nothing_more_is_as_good_as_none(tmp_path: Path) -> None:
    """Its memory is full, or it was made a replica: it answers, and nobody can ring."""
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        for harm, mend in (
            ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
            ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ):
            line.broker.client.execute_command(*harm.split())
            line.bell.ring("inbox", ["evt_lost"])
            until(lambda: line.listener.take(10, timeout=1) is None and line.metric("degraded_mode") == 1)
            assert line.listener.take(10, timeout=1) is None, "and goes on to look, in time"
            line.broker.client.execute_command(*mend.split())
            until(lambda: line.listener.take(10, timeout=1) is not None and line.metric("degraded_mode") == 0)
            line.bell.ring("inbox", ["evt_a"])
            until(lambda: "evt_a" in (line.listener.take(10, timeout=1) or []))


def test_a_redis_that_lost_its_memory_is_rung_again(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        valkey.restart(keep_data=False)

        def rung() -> bool:
            line.bell.ring("inbox", ["evt_a"])
            return line.listener.take(10, timeout=1) == ["evt_a"]

        until(rung)
