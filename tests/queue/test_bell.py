"""Rings are heard once, in batches; and when they cannot be, SQL is looked into instead."""

from __future__ import annotations

from pathlib import Path

from queue_line import Line, until

from billhook.queue.bell import PENDING_LIMIT
from billhook_testing.servers import valkey_server


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
    line.listener.start()
    assert line.listener.take(10, timeout=5) is None


def test_a_listener_may_be_started_and_closed_by_each_who_shares_it(line: Line) -> None:
    line.open()
    line.listener.start()
    line.bell.ring("inbox", ["evt_a"])
    assert heard(line, 1) == ["evt_a"]
    line.listener.close()
    line.listener.close()
    assert line.listener.take(10, timeout=5) == []


def test_what_is_rung_for_is_heard_once_in_batches(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", some_ids(450))
    until(lambda: line.broker.waiting("inbox") == 0)
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
    until(lambda: line.broker.waiting("inbox") == 0 and not line.broker.do_qsize("inbox"))
    assert heard(line, 3) == ["evt_a", "evt_b", "evt_c"]
    assert line.listener.take(10, timeout=0) == []


def test_a_look_into_sql_finds_what_was_rung_for_before_it(line: Line) -> None:
    line.open()
    line.bell.ring("inbox", ["evt_a", "evt_b"])
    until(lambda: line.broker.waiting("inbox") == 0 and not line.broker.do_qsize("inbox"))
    line.listener.look()
    assert line.listener.take(10, timeout=5) is None
    assert line.listener.take(10, timeout=0) == []


def test_a_listener_with_too_much_in_hand_looks_into_sql(line: Line) -> None:
    line.open()
    for prefix in ("evt", "dlv", "doc"):
        line.bell.ring("inbox", some_ids(PENDING_LIMIT // 2, prefix))
        until(lambda: not line.broker.do_qsize("inbox"))
    until(lambda: line.listener.take(1, timeout=0) is None)


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


def test_without_redis_work_is_looked_for_in_sql_until_redis_is_back(tmp_path: Path) -> None:
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


def test_a_redis_that_lost_its_memory_is_rung_again(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey, Line(valkey.url) as line:
        line.open()
        valkey.restart(keep_data=False)

        def rung() -> bool:
            line.bell.ring("inbox", ["evt_a"])
            return line.listener.take(10, timeout=1) == ["evt_a"]

        until(rung)
