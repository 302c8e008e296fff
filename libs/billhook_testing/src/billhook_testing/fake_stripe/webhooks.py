"""The sender: signed POSTs from a thread of its own, in order, each tried again until a 2xx or given up."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from billhook_testing.fake_stripe.faults import Switches
from billhook_testing.fake_stripe.world import Json, encode

ATTEMPTS = 8
FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 2.0
GATHER_SECONDS = 0.5
"""How long webhooks wait for enough others to be put out of order with."""


@dataclass(frozen=True)
class Endpoint:
    url: str
    secret: str


@dataclass(frozen=True)
class Sent:
    """One attempt and what came of it: a status, or an error where no answer came."""

    event_id: str
    event_type: str
    url: str
    attempt: int
    sent_at: int
    signature: str
    status: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(eq=False)
class _Delivery:
    event: Json
    body: bytes
    endpoint: Endpoint
    not_before: float
    attempts: int = 0
    counts: bool = True
    """False for a duplicate and a resend: the event's `pending_webhooks` has forgotten or still counts the first."""


@dataclass
class Sender:
    switches: Switches
    timeout_seconds: float = 10.0
    wall: Callable[[], float] = time.time
    """The real time: receivers compare the signature's timestamp with their own clock."""
    endpoints: list[Endpoint] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    """Ids of the events that an endpoint refused to the last attempt."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[_Delivery] = []
        self._gathered: list[_Delivery] = []
        self._gather_until = 0.0
        self._bodies: dict[str, bytes] = {}
        self._in_flight = 0
        self._paused = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    # life

    def start(self) -> None:
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fake-stripe-webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What was not delivered stays queued and goes out after another start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def pause(self) -> None:
        """Keep what comes; `deliver_pending` still sends it."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    # what comes in

    def add(self, url: str, secret: str) -> None:
        with self._changed:
            self.endpoints.append(Endpoint(url, secret))

    def post(self, event: Json) -> None:
        """Queue a new event for every endpoint; the faults that befall it are decided here, in event order."""
        with self._changed:
            event["pending_webhooks"] = len(self.endpoints)
            if not self.endpoints:
                return
            body = self._bodies[event["id"]] = encode(event)
            for endpoint in self.endpoints:
                self._queue_one(event, body, endpoint)
            self._changed.notify_all()

    def resend(self, event: Json) -> None:
        """Send an event once more, byte for byte, whatever became of it."""
        with self._changed:
            body = self._bodies.setdefault(event["id"], encode(event))
            for endpoint in self.endpoints:
                self._queue.append(_Delivery(event, body, endpoint, 0.0, counts=event["pending_webhooks"] > 0))
            self._changed.notify_all()

    def _queue_one(self, event: Json, body: bytes, endpoint: Endpoint) -> None:
        delivery = _Delivery(event, body, endpoint, 0.0)
        fault = self.switches.take(event["type"], ("duplicate", "drop", "delay", "reorder"))
        if fault is None:
            self._queue.append(delivery)
        elif fault.kind == "delay":
            delivery.not_before = time.monotonic() + fault.seconds
            self._queue.append(delivery)
        elif fault.kind == "duplicate":
            self._queue += [delivery, _Delivery(event, body, endpoint, 0.0, counts=False)]
        elif fault.kind == "reorder":
            self._gathered.append(delivery)
            self._gather_until = time.monotonic() + GATHER_SECONDS
            if len(self._gathered) >= fault.window:
                self._release()

    def _release(self) -> None:
        """Queue what was gathered in an order that is certainly another one."""
        gathered, self._gathered = self._gathered, []
        shuffled = _another_order(gathered, self.switches.dice)
        self._queue += shuffled

    # what goes out

    def deliver_pending(self) -> int:
        """Try everything that waits once, now, in this thread. Says how much is left undelivered."""
        with self._changed:
            self._release()
            batch, self._queue = self._queue, []
            self._in_flight += len(batch)
        for delivery in batch:
            self._attempt(delivery)
        with self._changed:
            return len(self._queue) + self._in_flight

    def wait_until_delivered(self, timeout_seconds: float = 10.0) -> None:
        """Return when nothing waits any more: all of it delivered, or given up. Raises `TimeoutError`."""
        with self._changed:
            self._release()
            self._changed.notify_all()

            def quiet() -> bool:
                return not (self._queue or self._gathered or self._in_flight)

            if not self._changed.wait_for(quiet, timeout_seconds):
                raise TimeoutError(f"{len(self._queue) + self._in_flight} webhooks are still undelivered")

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            self._attempt(delivery)

    def _next(self) -> _Delivery | None:
        """The first delivery in line whose time has come; waits for one, and answers None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if self._gathered and now >= self._gather_until:
                    self._release()
                due = [] if self._paused else [one for one in self._queue if one.not_before <= now]
                if due:
                    self._queue.remove(due[0])
                    self._in_flight += 1
                    return due[0]
                waiting = [] if self._paused else [one.not_before for one in self._queue]
                if self._gathered:
                    waiting.append(self._gather_until)
                self._changed.wait(min(waiting) - now if waiting else None)
        return None

    def _attempt(self, delivery: _Delivery) -> None:
        delivery.attempts += 1
        result = self._send(delivery)
        with self._changed:
            self.sent.append(result)
            if result.delivered:
                if delivery.counts:
                    delivery.event["pending_webhooks"] -= 1
            elif delivery.attempts >= ATTEMPTS:
                self.given_up.append(delivery.event["id"])
            else:
                pause = FIRST_RETRY_SECONDS * 2 ** (delivery.attempts - 1)
                delivery.not_before = time.monotonic() + min(pause, LONGEST_RETRY_SECONDS)
                self._queue.append(delivery)
            self._in_flight -= 1
            self._changed.notify_all()

    def _send(self, delivery: _Delivery) -> Sent:
        sent_at = int(self.wall())
        signature = sign(delivery.body, delivery.endpoint.secret, sent_at)
        status, error = None, None
        try:
            status = _post(delivery.endpoint.url, delivery.body, signature, self.timeout_seconds)
        except (OSError, http.client.HTTPException) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return Sent(
            delivery.event["id"],
            delivery.event["type"],
            delivery.endpoint.url,
            delivery.attempts,
            sent_at,
            signature,
            status,
            error,
        )


def sign(body: bytes, secret: str, timestamp: int) -> str:
    """The `Stripe-Signature` header for these bytes."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={mac}"


def _post(url: str, body: bytes, signature: str, timeout_seconds: float) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
    headers = {
        "content-type": "application/json; charset=utf-8",
        "user-agent": "Stripe/1.0 (fake)",
        "stripe-signature": signature,
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _another_order(deliveries: list[_Delivery], dice: random.Random) -> list[_Delivery]:
    shuffled = list(deliveries)
    dice.shuffle(shuffled)
    if len(deliveries) > 1 and all(a is b for a, b in zip(shuffled, deliveries, strict=True)):
        shuffled.reverse()
    return shuffled
