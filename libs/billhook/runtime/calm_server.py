"""uvicorn's server, but for looking ten times a second whether it is to end: at rest that is most of what it does."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Final

import uvicorn

TICK_SECONDS: Final = 1.0
"""How often the date in the headers is renewed. Whoever sets `should_exit` from a thread is heard after so long."""


class CalmServer(uvicorn.Server):
    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop, self._signalled = asyncio.get_running_loop(), asyncio.Event()
        seconds = 0
        while not await self.on_tick(10 * seconds):  # of which there are ten to a second
            seconds += 1
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._signalled.wait()
            except TimeoutError:
                continue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled.set)
