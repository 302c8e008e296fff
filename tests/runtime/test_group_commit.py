"""All that waits shares the next call; and a thread that dies does not die in silence."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from billhook.errors import StoreAway
from billhook.runtime.group_commit import WAITING_BYTES_LIMIT, GroupCommit, LineEnded, LineFull


def answers(line: GroupCommit[Any, Any], items: Sequence[Any]) -> list[Any]:
    """What each of the items is answered with, when all come at once."""

    async def ask() -> list[Any]:
        return await asyncio.gather(*(line.submit(item) for item in items), return_exceptions=True)

    return asyncio.run(ask())


def test_what_comes_while_a_call_is_under_way_shares_the_next() -> None:
    calls: list[int] = []
    busy, go_on = threading.Event(), threading.Event()

    def do(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        busy.set()
        go_on.wait(30)
        return [item * 2 for item in items]

    line = GroupCommit("double", do, largest=4)

    async def ask() -> list[int]:
        first = asyncio.create_task(line.submit(1))
        await asyncio.to_thread(busy.wait, 30)
        rest = [asyncio.create_task(line.submit(item)) for item in range(2, 8)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask()) == [2, 4, 6, 8, 10, 12, 14]
    assert calls == [1, 4, 2]
    line.stop()


def test_what_lies_in_the_sockets_when_a_call_ends_shares_the_next() -> None:
    calls: list[int] = []
    busy, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def do(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        busy.set()
        go_on.wait(30)
        ended.set()
        return list(items)

    line = GroupCommit("sockets", do, largest=4)

    async def ask() -> None:
        first = asyncio.create_task(line.submit(1))
        await asyncio.to_thread(busy.wait, 30)
        ours, theirs = socket.socketpair()
        asked: list[asyncio.Task[int]] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, lambda: asked.append(asyncio.create_task(line.submit(int(ours.recv(1))))))
        second = asyncio.create_task(line.submit(2))
        await asyncio.sleep(0)
        theirs.send(b"3")
        go_on.set()
        ended.wait(30)
        threading.Event().wait(0.05)  # the loop is busy: a thread that begins the next call at once does so now
        assert await asyncio.gather(first, second) == [1, 2]
        assert await asked[0] == 3
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    asyncio.run(ask())
    assert calls == [1, 2]
    line.stop()


@pytest.mark.parametrize("ends", ["before it is told", "when it was told"])
def test_a_loop_that_ends_with_answers_to_give_out_holds_up_no_other(ends: str) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def do(items: Sequence[int]) -> list[int]:
        busy.set()
        go_on.wait(30)
        return list(items)

    line: GroupCommit[int, int] = GroupCommit("left", do, largest=4)
    loop = asyncio.new_event_loop()
    asked = loop.create_task(line.submit(1))
    loop.run_until_complete(asyncio.to_thread(busy.wait, 30))
    if ends == "before it is told":
        loop.close()
    go_on.set()
    while ends == "when it was told" and line._lags is None:
        threading.Event().wait(0.001)
    loop.close()
    assert answers(line, [2]) == [2]
    assert not asked.done()
    line.stop()


def test_each_is_answered_for_itself_and_one_that_left_holds_up_nobody() -> None:
    line: GroupCommit[int, int] = GroupCommit("odd", lambda items: [_odd(item) for item in items], largest=10)
    one, two, three = answers(line, [1, 2, 3])
    assert (one, three) == (1, 3)
    assert isinstance(two, ValueError)

    async def leave() -> int:
        gone = asyncio.create_task(line.submit(5))
        await asyncio.sleep(0)
        gone.cancel()
        return await line.submit(7)

    assert asyncio.run(leave()) == 7
    line.stop()


def _odd(item: int) -> int | Exception:
    return item if item % 2 else ValueError(item)


def test_what_the_call_raises_is_the_answer_of_all_and_the_thread_goes_on() -> None:
    calls: list[Callable[[Sequence[int]], list[int]]] = [_away, list]
    line: GroupCommit[int, int] = GroupCommit("away", lambda items: calls.pop(0)(items), largest=10)
    assert [type(answer) for answer in answers(line, [1])] == [ConnectionError]
    assert answers(line, [2]) == [2]
    assert line.problem is None
    line.stop()


def _away(items: Sequence[int]) -> list[int]:
    raise ConnectionError("away")


@pytest.mark.parametrize("fault", ["ends", "forgets"])
def test_a_thread_that_dies_says_so_and_leaves_nobody_waiting(fault: str) -> None:
    def do(items: Sequence[int]) -> list[int]:
        if fault == "ends":
            raise SystemExit("out of memory")
        return []

    line = GroupCommit("doomed", do, largest=1)
    assert [type(answer) for answer in answers(line, [1, 2, 3])] == [LineEnded] * 3
    assert line.problem is not None
    assert "doomed" in line.problem
    assert [type(answer) for answer in answers(line, [4])] == [LineEnded]
    line.stop()


def test_bodies_that_are_too_many_bytes_together_are_refused() -> None:
    go_on = threading.Event()

    def do(items: Sequence[int]) -> list[int]:
        go_on.wait(30)
        return list(items)

    line = GroupCommit("large", do, largest=1, size=lambda item: item)

    async def ask() -> list[Any]:
        tasks: list[asyncio.Task[int]] = []
        for size in (1, WAITING_BYTES_LIMIT, 1, 1):
            tasks.append(asyncio.create_task(_submit(line, size)))
            await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(ask())
    assert found[:2] == [1, WAITING_BYTES_LIMIT]
    assert LineFull in [type(answer) for answer in found[2:]]
    assert answers(line, [WAITING_BYTES_LIMIT]) == [WAITING_BYTES_LIMIT]  # what was taken weighs nothing any more
    line.stop()


def test_what_waited_while_the_database_was_away_weighs_nothing_afterwards() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def do(items: Sequence[int]) -> list[int]:
        if begun.is_set():
            return list(items)
        begun.set()
        go_on.wait(30)
        raise StoreAway("away")

    line = GroupCommit("away", do, largest=1, size=lambda item: item)

    async def ask() -> list[Any]:
        first = asyncio.create_task(_submit(line, 1))
        await asyncio.to_thread(begun.wait, 30)
        second = asyncio.create_task(_submit(line, WAITING_BYTES_LIMIT + 1))
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(ask())] == [StoreAway] * 2
    assert answers(line, [7]) == [7]
    line.stop()


def _submit(line: GroupCommit[int, int], item: int) -> Coroutine[Any, Any, int]:
    return line.submit(item)
