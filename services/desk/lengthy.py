"""Routes that take long: at most so many at once, whoever asks, so that all others find a thread.

A desk has forty threads for its routes. A template that loops, a preview of ten thousand lines or an export holds one
for seconds; forty of them would leave none for a look at an endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

AT_ONCE: Final = 8

OF_ONE_MERCHANT: Final = 2
"""The rest of its own wait, and nobody else's for them."""


class Turns:
    """Who is at it, of one event loop."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(AT_ONCE)
        self._waiting: dict[str | None, int] = {}
        self._of: dict[str | None, asyncio.Semaphore] = {}

    async def take(self, whose: str | None, do: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        own = self._of.setdefault(whose, asyncio.Semaphore(OF_ONE_MERCHANT))
        self._waiting[whose] = self._waiting.get(whose, 0) + 1
        try:
            async with own, self._all:
                return await do()
        finally:
            self._waiting[whose] -= 1
            if not self._waiting[whose]:
                del self._waiting[whose], self._of[whose]


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


class Lengthy(APIRoute):
    """A route that takes its turn. The operator's requests are one merchant's, so to say."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def in_turn(request: Request) -> Response:
            turns = _TURNS.setdefault(asyncio.get_running_loop(), Turns())
            caller = getattr(request.state, "caller", None)
            return await turns.take(None if caller is None else caller.merchant_id, lambda: handle(request))

        return in_turn
