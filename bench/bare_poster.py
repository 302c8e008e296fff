"""The floor of delivering: sign and post the same bytes with the same libcurl in one loop, and write nothing.

As thin as it gets: everything is in memory, and so many handles as the courier has requests under way post in turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pycurl

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
        now = datetime.now(UTC)
        messages = [
            (work.urls[number % len(work.urls)], new_id("msg"), body_of(number, now))
            for number in range(work.first, work.first + work.count)
        ]
        parent.send(_post(messages, work.at_once))


def _post(messages: list[tuple[str, str, bytes]], at_once: int) -> int:
    secrets = [new_secret("v1")]
    multi = pycurl.CurlMulti()
    waiting = iter(messages)

    def begin(curl: pycurl.Curl) -> int:
        found = next(waiting, None)
        if found is None:
            return 0
        url, message_id, body = found
        headers = {
            **signed_headers(secrets, message_id, datetime.now(UTC), body),
            "Content-Type": "application/json",
            "User-Agent": "billhook",
        }
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
        curl.setopt(pycurl.POSTFIELDS, body)
        multi.add_handle(curl)
        return 1

    curls = [pycurl.Curl() for _ in range(at_once)]
    for curl in curls:
        curl.setopt(pycurl.WRITEFUNCTION, len)
    under_way = sum(begin(curl) for curl in curls)
    while under_way:
        multi.perform()
        _, well, ill = multi.info_read(at_once)
        if ill:
            raise RuntimeError(f"the floor's request failed: {ill[0][2]}")
        for curl in well:
            multi.remove_handle(curl)
            under_way += begin(curl) - 1
        if not well:
            multi.select(1.0)
    multi.close()
    return time.monotonic_ns()
