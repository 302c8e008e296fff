"""The sender: posts events at a steady rate, and sends again what got no 2xx, as senders of webhooks do."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from billhook.rules.signing import signed_headers
from tests.chaos.ledger import Ledger
from tests.chaos.traffic import Event

AT_ONCE = 32
"""Requests under way at most. While nobody answers, the events queue up behind them: a sender that hammered at the door
would take the processor that the door needs to open again."""

PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Address:
    """Where the events of a source go, and the secret that signs them."""

    url: str
    secret: str


class Sender:
    """A thread with an event loop of its own. `failed_tries` counts what got no 2xx and was sent again."""

    def __init__(self, addresses: Mapping[str, Address], ledger: Ledger, events: Iterator[Event], rate: float) -> None:
        self._addresses = addresses
        self._ledger = ledger
        self._events = events
        self._rate = rate
        self._enough = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="sender", daemon=True)
        self.begun = 0
        self.sent_again = 0
        self.failed_tries = 0

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Begin nothing new, and wait until everything begun is accepted; False if that took too long."""
        self._enough.set()
        self._thread.join(timeout)
        done = not self._thread.is_alive()
        self._given_up.set()
        self._thread.join()
        return done

    async def _run(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()
        begin_at = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not self._enough.is_set():
                self.begun += 1
                task = asyncio.create_task(self._deliver(session, next(self._events)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                begin_at += 1 / self._rate
                await asyncio.sleep(max(0.0, begin_at - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _deliver(self, session: aiohttp.ClientSession, event: Event) -> None:
        await asyncio.sleep(event.hold_back)
        if await self._insist(session, event):
            self._ledger.accept(event, time.time())
            if event.again is not None:
                await asyncio.sleep(event.again)
                self.sent_again += await self._insist(session, event)

    async def _insist(self, session: aiohttp.ClientSession, event: Event) -> bool:
        async with self._slots:
            while not await self._post(session, event):
                self.failed_tries += 1
                if self._given_up.is_set():
                    return False
                await asyncio.sleep(PAUSE_SECONDS)
        return True

    async def _post(self, session: aiohttp.ClientSession, event: Event) -> bool:
        address = self._addresses[event.source]
        headers = {"Content-Type": "application/json", **_signed(event, address.secret, datetime.now(UTC))}
        try:
            async with session.post(address.url, data=event.body, headers=headers) as answer:
                await answer.read()
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


def _signed(event: Event, secret: str, now: datetime) -> dict[str, str]:
    if event.source == "standard":
        return signed_headers([secret], event.id, now, event.body)
    seconds = int(now.timestamp())
    digest = hmac.digest(secret.encode(), b"%d.%s" % (seconds, event.body), "sha256")
    return {"Stripe-Signature": f"t={seconds},v1={digest.hex()}"}
