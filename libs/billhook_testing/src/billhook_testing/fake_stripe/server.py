"""The fake as one object: the server's thread, the webhook sender's, and every control."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import stripe
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from billhook_testing.fake_stripe import agenda, collection
from billhook_testing.fake_stripe.api import TRANSPORT, Api
from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.faults import Faults
from billhook_testing.fake_stripe.resources import checkout, disputes
from billhook_testing.fake_stripe.webhooks import Sender, Sent
from billhook_testing.fake_stripe.world import Json, Policy, World
from billhook_testing.prompt_server import PromptServer

HOST = "127.0.0.1"


class FakeStripe:
    """A stateful Stripe on a loopback port.

        with FakeStripe(webhook_url="http://127.0.0.1:8000/hooks/stripe") as fake:
            customer = fake.client().v1.customers.create({"email": "ada@example.com"})
            fake.advance(days=31)

    It may be stopped and started again: it keeps its state, its port, and the webhooks it could not deliver. Nothing
    listens before `start` (or `with`). The same seed and the same calls give the same ids, times and faults.
    """

    def __init__(
        self,
        *,
        webhook_secret: str = "whsec_fake",
        webhook_url: str | None = None,
        clock: FakeClock | None = None,
        seed: int = 0,
        api_key: str = "sk_test_fake",
        port: int = 0,
        policy: Policy | None = None,
    ) -> None:
        self.clock = clock or FakeClock.standing()
        self.api_key = api_key
        self.webhook_secret = webhook_secret
        self.faults = Faults(seed)
        self.webhooks = Sender(self.faults.for_webhooks)
        self.world = self._world_of("", seed, policy or Policy())
        self._worlds = {"": self.world}
        self._api = Api(self._worlds, api_key, self.faults.for_api, self._controls())
        self._port = port
        self._server: PromptServer | None = None
        self._thread: threading.Thread | None = None
        if webhook_url is not None:
            self.add_webhook(webhook_url)

    def _world_of(self, account: str, seed: int, policy: Policy) -> World:
        return World(self.clock, seed, account, policy, on_event=self.webhooks.post)

    def connect(self, account: str) -> Json:
        """Another account that the key may read, by the header `Stripe-Account`. Its objects are a world of their own
        in which ids are made by the same seed, so that they are those of the platform's again; its events say whose
        they are, and go to the same endpoints."""
        with self._api.lock:
            self._worlds[account] = self._world_of(account, self.world.seed, self.world.policy)
            return {"account": account}

    def disconnect(self, account: str) -> Json:
        """Take the key's access to it away."""
        with self._api.lock:
            del self._worlds[account]
            return {"account": account}

    # life

    def start(self) -> Self:
        """Listen, and send webhooks. Starting twice is starting once."""
        if self._thread is not None:
            return self
        # The protocol is named so that asyncio turns Nagle's delay off: 40 ms a call otherwise.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self._port))
        # From here on a client can connect; it is answered once the thread runs.
        listener.listen(128)
        self._port = listener.getsockname()[1]
        self._api.closing.clear()
        config = uvicorn.Config(
            self._api.app,
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        self._server = PromptServer(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="fake-stripe-api", daemon=True
        )
        self._thread.start()
        self.webhooks.start()
        return self

    def stop(self) -> None:
        """Stop listening and sending. Stopping what never started, or twice, does nothing."""
        self._api.closing.set()
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join()
        self._server = self._thread = None
        self.webhooks.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # talking to it

    @property
    def url(self) -> str:
        """The API's address. Known once the fake has been started."""
        return f"http://{HOST}:{self._port}"

    def client(self, max_network_retries: int = 0) -> stripe.StripeClient:
        """The real SDK, pointed here."""
        return stripe.StripeClient(
            self.api_key, base_addresses={"api": self.url}, max_network_retries=max_network_retries
        )

    @property
    def events(self) -> list[Json]:
        """Every event of the platform's own, oldest first."""
        return self.events_of("")

    def events_of(self, account: str) -> list[Json]:
        """Every event of a connected account, oldest first."""
        with self._api.lock:
            return self._worlds[account].all("event")

    @property
    def sent(self) -> list[Sent]:
        """Every attempt to deliver a webhook, with its outcome, in the order they ended."""
        return list(self.webhooks.sent)

    # time

    def now(self) -> datetime:
        return self.clock.now()

    def advance(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> Json:
        """Move time forward and do what falls due on the way, each at its own time."""
        with self._api.lock:
            step = timedelta(days=days, hours=hours, seconds=seconds)
            until = self.world.now() + int(step.total_seconds())
            agenda.advance_all(self._worlds.values(), until)
            return {"now": self.world.now()}

    # webhooks

    def add_webhook(self, url: str, secret: str | None = None) -> Json:
        """Send every event from now on to one more endpoint."""
        self.webhooks.add(url, secret or self.webhook_secret)
        return {"url": url}

    def deliver_pending(self) -> int:
        """Try each waiting webhook once, now. Says how many are still undelivered."""
        return self.webhooks.deliver_pending()

    def wait_until_delivered(self, timeout_seconds: float = 10.0) -> None:
        """Wait until no webhook waits any more, delivered or given up. Raises `TimeoutError`."""
        self.webhooks.wait_until_delivered(timeout_seconds)

    def resend(self, event_id: str) -> Json:
        """Send an event's same bytes once more."""
        with self._api.lock:
            event = self.world.get("event", event_id)
            self.webhooks.resend(event)
            return event

    # the world outside of the API

    def decline(
        self,
        customer: str,
        code: str = "generic_decline",
        advice_code: str | None = None,
        network_advice_code: str | None = None,
    ) -> None:
        """Decline this customer's every card with a decline code, and advice, until told otherwise."""
        advice = {"advice_code": advice_code, "network_advice_code": network_advice_code}
        self._set_outcome(customer, code, {name: one for name, one in advice.items() if one is not None})

    def accept(self, customer: str) -> None:
        """Accept this customer's every card, until told otherwise."""
        self._set_outcome(customer, None)

    def _set_outcome(self, customer: str, code: str | None, advice: Json | None = None) -> None:
        with self._api.lock:
            known = self.world.get("customer", customer)["id"]
            self.world.outcomes[known] = code
            self.world.advice[known] = advice or {}

    def obey_card(self, customer: str) -> None:
        """Let the card decide again."""
        with self._api.lock:
            self.world.outcomes.pop(customer, None)

    def authenticate(self, payment_intent: str, succeeds: bool = True) -> Json:
        """The customer does what their bank wants (3-D Secure), or fails to."""
        with self._api.lock:
            intent = self.world.get("payment_intent", payment_intent)
            collection.authenticate(self.world, intent, succeeds=succeeds)
            return intent

    def retry_by_itself(self, days: list[int]) -> Json:
        """Switch the account's own retries: the days between them, and none to switch them off."""
        with self._api.lock:
            self.world.policy = replace(self.world.policy, retry_days=tuple(days))
            return {"retry_days": days}

    def open_dispute(self, charge: str, reason: str = "fraudulent", amount: int | None = None) -> Json:
        """The customer's bank disputes a charge."""
        with self._api.lock:
            return disputes.open_dispute(self.world, self.world.get("charge", charge), reason, amount)

    def close_dispute(self, dispute: str, status: str = "lost") -> Json:
        """The bank decides a dispute: won or lost."""
        with self._api.lock:
            return disputes.close_dispute(self.world, self.world.get("dispute", dispute), status)

    def complete_checkout(self, session: str, card: str = "pm_card_visa") -> Json:
        """The customer pays at the checkout. Raises `ApiError` where the card is declined; the session stays open."""
        with self._api.lock:
            return checkout.complete(self.world, self.world.get("checkout.session", session), card)

    def _controls(self) -> dict[str, Any]:
        """What `POST /_fake/<name>` calls, with the JSON body as arguments."""
        return {
            "advance": self.advance,
            "add_webhook": self.add_webhook,
            "deliver_pending": self.deliver_pending,
            "wait_until_delivered": self.wait_until_delivered,
            "pause_webhooks": self.webhooks.pause,
            "resume_webhooks": self.webhooks.resume,
            "resend": self.resend,
            "sent": lambda: [asdict(attempt) for attempt in self.sent],
            "connect": self.connect,
            "disconnect": self.disconnect,
            "decline": self.decline,
            "accept": self.accept,
            "obey_card": self.obey_card,
            "authenticate": self.authenticate,
            "retry_by_itself": self.retry_by_itself,
            "open_dispute": self.open_dispute,
            "close_dispute": self.close_dispute,
            "complete_checkout": self.complete_checkout,
            "api_fault": self.faults.api,
            "webhook_fault": self.faults.webhooks,
            "clear_faults": self.faults.clear,
        }


class _Protocol(HttpToolsProtocol):
    """uvicorn's own protocol, which also tells the app its transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport
