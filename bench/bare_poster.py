"""The floor of delivering: sign and post the same bytes with the same client in the same loop, and write nothing.

As thin as it gets: everything is in memory, and so many tasks as the courier has requests under way post in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from bench.messages import body_of
from bench.processes import Child, Connection
from billhook.rules.signing import new_secret, signed_headers
from billhook.store.schema import new_id


@dataclass(frozen=True)
class Round:
    """Messages number `first` and on, to the endpoints at `urls` by turns."""

    urls: list[str]
    first: int
    count: int
    at_once: int


class BarePoster:
    """The parent's side."""

    def __init__(self) -> None:
        self._child = Child(_serve)

    def post(self, work: Round) -> int:
        """Do the round; returns when its last answer came (`time.monotonic_ns()`)."""
        ended: int = self._child.ask(work)
        return ended

    def close(self) -> None:
        self._child.close()


def _serve(parent: Connection) -> None:
    while True:
        try:
            work: Round = parent.recv()
        except EOFError:
            return
        urls = [URL(url) for url in work.urls]
        now = datetime.now(UTC)
        letters = [
            (urls[number % len(urls)], new_id("msg"), body_of(number, now))
            for number in range(work.first, work.first + work.count)
        ]
        parent.send(asyncio.run(_post(letters, work.at_once)))


async def _post(letters: list[tuple[URL, str, bytes]], at_once: int) -> int:
    secrets = [new_secret("v1")]
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post(waiting: Iterator[tuple[URL, str, bytes]]) -> None:
            for url, message_id, body in waiting:
                headers = {
                    **signed_headers(secrets, message_id, datetime.now(UTC), body),
                    "Content-Type": "application/json",
                    "User-Agent": "billhook",
                }
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()

        waiting = iter(letters)
        await asyncio.gather(*(post(waiting) for _ in range(at_once)))
        return time.monotonic_ns()
