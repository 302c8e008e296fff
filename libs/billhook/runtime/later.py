"""What a process serves that takes long to import, behind what nobody should wait for: probes, and its own first duty.

FastAPI, routes and all that they need take seconds on a busy machine. They are imported in a thread, and what is asked
of them meanwhile waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import Route, Router

from billhook.runtime.service import ASGIApp

log = logging.getLogger(__name__)


class Later:
    """An ASGI app that answers the probes, and everything else when it has been made."""

    def __init__(
        self, make: Callable[[Sequence[Route]], ASGIApp], probes: Sequence[Route], close: Callable[[], None]
    ) -> None:
        """`make` is given the probes for those who ask for them in a way they do not answer; `close` is called when the
        server ends."""
        self._make = make
        self._probes = probes
        self._close = close
        self._by_path = {probe.path: probe.app for probe in probes}
        self._ends = Router(lifespan=self._lifespan)
        self._begun = threading.Lock()
        self._made: Future[ASGIApp] = Future()
        self.problem: str | None = None
        """Why it could not be made: the process has to end."""

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self._begin()
        yield
        self._close()

    def _begin(self) -> None:
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._run, name="routes", daemon=True).start()

    def _run(self) -> None:
        try:
            self._made.set_result(self._make(self._probes))
        except BaseException as error:
            self.problem = f"its routes could not be made: {type(error).__name__}: {error}"
            log.critical("the routes could not be made", exc_info=error)
            self._made.set_exception(error)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._ends(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in self._by_path:
            await self._by_path[scope["path"]](scope, receive, send)
        else:
            if not self._made.done():
                self._begin()
                # Whoever gives up waiting must not cancel it for the others.
                await asyncio.shield(asyncio.wrap_future(self._made))
            await self._made.result()(scope, receive, send)
