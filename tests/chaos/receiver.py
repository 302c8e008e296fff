"""A merchant's endpoints: they verify every webhook with the reference library and keep all that arrives."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from billhook.runtime.valkey import HOST


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    endpoint: str
    webhook_id: str
    body: bytes
    verified: bool
    taken: bool
    """False: it was refused, and is to come again."""
    at: float


class Receiver:
    """An HTTP server in a thread. `secrets` names the endpoints: each answers under `/<its name>`.

    `refuse` is the share of webhooks that get a 500 when they come for the first time, until `relent`. It is meant for
    the quiet beginning: a delivery that is refused at its second attempt waits for minutes, as its schedule says.
    """

    def __init__(self, secrets: Mapping[str, str], *, refuse: float, seed: int) -> None:
        self._webhooks = {name: Webhook(secret) for name, secret in secrets.items()}
        self._refuse = refuse
        self._rng = random.Random(seed)
        self._known: set[tuple[str, str]] = set()
        self._arrivals: list[Arrival] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.port}/{name}"

    def relent(self) -> None:
        self._refuse = 0.0

    @property
    def arrivals(self) -> list[Arrival]:
        return list(self._arrivals)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/{endpoint}", self._take)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, HOST, 0)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _take(self, request: web.Request) -> web.Response:
        endpoint, webhook_id = request.match_info["endpoint"], request.headers.get("webhook-id", "")
        body = await request.read()
        try:
            self._webhooks[endpoint].verify(body, dict(request.headers))
            verified = True
        except (WebhookVerificationError, KeyError):
            verified = False
        fresh = (endpoint, webhook_id) not in self._known
        self._known.add((endpoint, webhook_id))
        taken = not (fresh and self._rng.random() < self._refuse)
        self._arrivals.append(Arrival(endpoint, webhook_id, body, verified, taken, time.time()))
        return web.Response(status=204 if taken else 500)


def name_of(url: str) -> str:
    """The endpoint's name in an address that `Receiver.url` made."""
    return url.rpartition("/")[2]
