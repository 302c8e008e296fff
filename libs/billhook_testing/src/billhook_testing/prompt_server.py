"""uvicorn's server, but for how it ends: it waits for its tick, a tenth of a second, and another tenth whether or not
there is a connection that could go on. Tests start and end hundreds of them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Final

import uvicorn

TICK_SECONDS: Final = 1.0
"""How often the date in the headers is renewed."""

PATIENCE: Final = 50
"""Turns of the loop, a few milliseconds each, that connections are given to end by themselves."""


class PromptServer(uvicorn.Server):
    """Run it in a thread, and call `end` from another one."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK_SECONDS)

    def end(self) -> None:
        """Take nothing more, and end once what was begun is answered."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ended.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(PATIENCE):
            if not (self.server_state.connections or self.server_state.tasks):
                break
            await asyncio.sleep(0.002)
        else:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await self.lifespan.shutdown()
