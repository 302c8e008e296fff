"""What becomes of requests that a server has no time left for."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from billhook.runtime.service import ASGIApp

_ANSWER: Final = json.dumps(
    {"error": {"code": "stopping", "message": "This process ends before the request is done. Send again."}}
).encode()
_HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
    (b"retry-after", b"1"),
    (b"connection", b"close"),
]


class Draining:
    """An ASGI application whose requests, when the time to drain is over, are told to come again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.cut = 0
        """How many were. Nobody but the server that ends cancels a request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def watched(message: Any) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            self.cut += 1
            if answering:
                raise
            await send({"type": "http.response.start", "status": 503, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _ANSWER})
