"""Engines that threads share, with engines that only count."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from billhook.documents.pool import Pool

SIZE = 2


class Counting:
    """An engine for which drawing is to call `draw`."""

    def __init__(self, draw: Callable[[str], str], closed: threading.Event | None = None) -> None:
        self._draw = draw
        self._closed = closed or threading.Event()
        self._pages: deque[str] = deque()
        self._names: set[str] = set()
        self._added = 0

    @property
    def fit(self) -> bool:
        return not self.worn

    @property
    def worn(self) -> bool:
        return self._added >= 4

    def takes(self, page: str) -> bool:
        return not self._names or page[0] in self._names

    def add(self, page: str) -> None:
        self._names.add(page[0])
        assert len(self._names) == 1
        assert self._added < 4
        self._added += 1
        self._pages.append(page)

    def take(self) -> str:
        return self._draw(self._pages.popleft())

    def close(self) -> None:
        self._closed.set()


def pages(count: int, name: str = "p") -> Iterator[str]:
    return (f"{name}{number}" for number in range(count))


def pool(draw: Callable[[str], str], closed: threading.Event | None = None) -> Pool[str, str]:
    return Pool(SIZE, lambda: Counting(draw, closed), lambda error: f"failed: {error}")


def test_both_engines_draw_one_batch_and_what_they_make_comes_in_order() -> None:
    others, together = threading.Lock(), threading.Event()

    def draw(page: str) -> str:
        if others.acquire(blocking=False):
            assert together.wait(30)  # until the other engine is at a page, too
        else:
            together.set()
        return page.upper()

    with closing(pool(draw)) as shared:
        assert list(shared.draw(pages(6))) == ["P0", "P1", "P2", "P3", "P4", "P5"]


def test_the_oldest_batch_goes_first() -> None:
    drawn: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def draw(page: str) -> str:
        begun.set()
        go.wait(30)
        drawn.append(page)
        return page

    with closing(Pool(1, lambda: Counting(draw), str)) as shared, ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: list(shared.draw(pages(9, "a"))))
        assert begun.wait(30)
        second = threads.submit(lambda: list(shared.draw(pages(3, "b"))))
        while len(shared._waiting) < 4:  # a2, and all of b
            time.sleep(0.001)
        go.set()
        assert len(first.result(30) + second.result(30)) == 12
    assert drawn[:3] == ["a0", "a1", "a2"]  # what was there before the later batch's next page could be


def test_what_an_engine_dies_of_is_told_and_the_next_batch_has_another() -> None:
    def draw(page: str) -> str:
        if page == "p1":
            raise RuntimeError("a fault of ours")
        if page == "x1":
            raise OSError("no room")
        return page

    with closing(pool(draw)) as shared:
        with pytest.raises(RuntimeError, match="a fault of ours"):
            list(shared.draw(pages(5)))
        assert "failed: no room" in list(shared.draw(pages(2, "x")))
        assert list(shared.draw(pages(3, "y"))) == ["y0", "y1", "y2"]


def test_what_may_not_be_drawn_together_is_drawn_by_engines_one_after_the_other() -> None:
    """No engine gets pages of two names, whatever lies before it (it would refuse)."""
    with closing(pool(str.upper)) as shared, ThreadPoolExecutor(2) as threads:
        mixed = [f"{name}{number}" for number in range(6) for name in ("a", "a", "b", "c")]
        drawn = [threads.submit(lambda: list(shared.draw(iter(mixed)))) for _ in range(2)]
        assert [one.result(30) for one in drawn] == [[page.upper() for page in mixed]] * 2


def test_an_engine_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billhook.documents.pool._IDLE_SECONDS", 0.01)
    closed = threading.Event()
    shared = pool(str.upper, closed)
    assert list(shared.draw(pages(1))) == ["P0"]
    assert closed.wait(30)
    assert list(shared.draw(pages(1))) == ["P0"]


def test_who_stops_asking_leaves_nothing_behind() -> None:
    with closing(pool(str.upper)) as shared:
        some = shared.draw(pages(100))
        assert next(some) == "P0"
        del some
        assert list(shared.draw(pages(2, "q"))) == ["Q0", "Q1"]
