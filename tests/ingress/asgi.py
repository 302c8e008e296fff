"""Calls the ingress in this process, as a server would: its event loop runs in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from billhook.runtime.service import ASGIApp


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Client:
    """Sends raw requests to an ASGI app whose lifespan has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._events: asyncio.Queue[str] = asyncio.Queue()
        self._done: asyncio.Queue[str] = asyncio.Queue()

    def start(self) -> None:
        self._thread.start()
        self._run(self._begin())

    def stop(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def post(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self.posts([(path, body, headers)])[0]

    def posts(self, requests: Sequence[tuple[str, bytes, dict[str, str]]]) -> list[Answer]:
        """All at once."""
        raw = [
            (path, [body], [(n.replace("_", "-").encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()])
            for path, body, headers in requests
        ]
        return self._run(self._gather(raw))

    def send(
        self,
        path: str,
        chunks: Sequence[bytes],
        headers: Sequence[tuple[bytes, bytes]],
        *,
        method: str = "POST",
        hang_up: bool = False,
    ) -> Answer:
        """One request in pieces; `hang_up` leaves in the middle of the body."""
        return self._run(self._call(path, chunks, headers, method=method, hang_up=hang_up))

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _gather(self, requests: Sequence[tuple[str, list[bytes], Any]]) -> list[Answer]:
        return list(await asyncio.gather(*(self._call(*request) for request in requests)))

    async def _call(
        self, path: str, chunks: Sequence[bytes], headers: Any, *, method: str = "POST", hang_up: bool = False
    ) -> Answer:
        pieces = list(chunks)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces) or hang_up}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self._app(scope, receive, send)
        start = sent[0]
        found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))

    async def _begin(self) -> None:
        async def receive() -> dict[str, str]:
            return {"type": await self._events.get()}

        async def send(message: dict[str, str]) -> None:
            await self._done.put(message["type"])

        self._lifespan = asyncio.create_task(self._app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
        await self._events.put("lifespan.startup")
        assert await self._done.get() == "lifespan.startup.complete"

    async def _end(self) -> None:
        await self._events.put("lifespan.shutdown")
        assert await self._done.get() == "lifespan.shutdown.complete"
        await self._lifespan


@contextmanager
def running(app: ASGIApp) -> Iterator[Client]:
    client = Client(app)
    client.start()
    yield client
    client.stop()
