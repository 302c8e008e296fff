"""The product in one process, without a queue: consumers take what is due straight from SQL, at a clock we move."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from queue import Queue
from typing import Any

import sqlalchemy as sa

from billhook.documents.engines import Engines
from billhook.metrics import Metrics
from billhook.outlets.objects import Objects
from billhook.outlets.webhooks.client import Reach, WebhookClient
from billhook.outlets.webhooks.response import Response
from billhook.queue.steps import Steps
from billhook.rules.addresses import parse_networks
from billhook.rules.delivery import outcome_class
from billhook.runtime.provider_apis import ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store import inbox, merchants, queues, sources
from billhook.store.database import Database
from billhook.store.deliveries import address
from billhook.store.endpoints import create_endpoint
from billhook.store.inbox import Arrival
from billhook.store.messages import Message, add_messages
from billhook.store.schema import metadata, new_id
from billhook.store.vault import Vault, new_key
from billhook.tracing import Tracing
from billhook_testing.clock import ManualClock
from services.bookkeeper.posting import Posting
from services.courier.admission import Admission
from services.courier.delivery import Delivery, DeliveryJob, Outgoing, Result
from services.courier.limits import EndpointLimits
from services.invoicer.rendering import Rendering

LOOPBACK = Reach(allowed=parse_networks("127.0.0.0/8"), allow_http=True)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Silence:
    """Rings for nobody: the world looks for work itself."""

    def ring_all(self, rings: Mapping[str, Sequence[str]]) -> None:
        pass


@dataclass
class World:
    """One merchant with a Stripe source and a source of its own."""

    database: Database
    clock: ManualClock
    vault: Vault
    metrics: Metrics
    merchant_id: str
    stripe_source: str
    own_source: str
    tracing: Tracing | None = None

    @classmethod
    def begin(
        cls,
        database: Database,
        *,
        api_key: str | None = None,
        api_base: str | None = None,
        livemode: bool | None = None,
    ) -> World:
        """Live, unless it is said or the key is one for tests."""
        clock, vault = ManualClock(), Vault([new_key()])
        with database.begin() as tx:
            merchant = merchants.create_merchant(tx, "Acme Ltd", clock())
            sealed = vault.seal(SECRET)
            stripe = sources.create_source(
                tx,
                merchant.id,
                "stripe",
                "Stripe",
                sealed,
                clock(),
                api_key=vault.seal(api_key) if api_key else None,
                api_base=api_base,
                livemode=not (api_key or "").startswith("sk_test_") if livemode is None else livemode,
            )
            own = sources.create_source(tx, merchant.id, "standard", "ours", sealed, clock())
        return cls(database, clock, vault, Metrics(), merchant.id, stripe.id, own.id)

    @cached_property
    def apis(self) -> ProviderApis:
        """The providers' APIs, of whose accounts nobody waits for a turn."""
        return ProviderApis(self.vault, Turns(self.database, self.clock, 1e6))

    def endpoint(self, url: str, *event_types: str, **options: Any) -> str:
        with self.database.begin() as tx:
            wanted = list(event_types or ["*"])
            sealed = self.vault.seal(SECRET)
            return create_endpoint(tx, self.merchant_id, url, wanted, sealed, self.clock(), **options).id

    def say(self, event_type: str = "order.shipped", **about: str | None) -> str:
        """Publish a message of the merchant's own; returns its id."""
        body = json.dumps({"type": event_type, "timestamp": self.clock().isoformat(), "data": {}}).encode()
        message = Message.own(self.merchant_id, event_type, "own", "", body, self.clock(), **about)
        with self.database.begin() as tx:
            address(tx, add_messages(tx, [message], self.clock()), self.clock())
        return message.id

    def arrive(self, source_id: str, event: Mapping[str, Any] | bytes, *, external_id: str | None = None) -> str:
        """Put an event into the inbox, as the ingress does; returns its id there."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        known = event if isinstance(event, Mapping) else {}
        arrival = Arrival(
            new_id("evt"),
            self.merchant_id,
            source_id,
            str(known.get("account") or ""),
            external_id or str(known["id"]),
            str(known.get("type", "")),
            b"{}",
            body,
            hashlib.sha256(body).digest(),
            self.clock(),
        )
        with self.database.begin() as tx:
            return inbox.accept(tx, [arrival], self.clock())[0].id

    def post(self) -> None:
        """Let the bookkeeper do all that is due."""
        posting = Posting(self.database, self.apis, self.clock)
        run_until_quiet(self.steps(posting))

    def render(self, engines: Engines, objects: Objects) -> None:
        """Let the invoicer do all that is due."""
        rendering = Rendering(engines, objects, self.metrics, self.clock, "https://bills.test")
        run_until_quiet(self.steps(rendering))

    def steps(self, handler: Any, **more: Any) -> Steps[Any, Any]:
        return Steps(handler, self.database, Silence(), self.metrics, self.clock, tracing=self.tracing, **more)

    def deliver(self) -> None:
        """Let a courier that knows nothing yet try everything that is due, once."""
        self.courier().deliver()

    def courier(self) -> Courier:
        return Courier(self)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """What a table holds, in the order of these columns; JSON has none on PostgreSQL."""
        chosen = [metadata.tables[table].c[name] for name in columns]
        ordered = [column for column in chosen if not isinstance(column.type, sa.JSON)]
        with self.database.read() as tx:
            return [tuple(row) for row in tx.execute(sa.select(*chosen).order_by(*ordered))]

    def state_of(self, queue: str, row_id: str) -> tuple[str, str | None]:
        """The state of a piece of work, and its last error."""
        table = queues.QUEUES[queue]
        with self.database.read() as tx:
            row = tx.execute(sa.select(table.c.state, table.c.last_error).where(table.c.id == row_id)).one()
        return row.state, row.last_error


class Courier:
    """A courier that does one claim at a time, and remembers what it learnt of the endpoints."""

    def __init__(self, world: World) -> None:
        self._delivery = Delivery(world.vault)
        self.steps = Steps(self._delivery, world.database, Silence(), world.metrics, world.clock)
        self._clock = world.clock
        self.limits = EndpointLimits(world.clock)

    def deliver(self) -> list[str]:
        """Try what is due, once; returns the ids of the messages, in the order of their turn."""
        token, jobs = self.take()
        self._send(token, jobs)
        return [job.message.message_id for job in jobs]

    def take(self, limit: int = 1000) -> tuple[str, Sequence[DeliveryJob]]:
        """Claim what the limits let through."""
        admission = Admission(self.limits, "fresh")
        token, jobs = self.steps.claim(None, limit, None, admission.admit)
        admission.settle([job.endpoint.id for job in jobs])
        return token, jobs

    def answer(self, token: str, job: DeliveryJob, status_code: int) -> None:
        """Settle as if the endpoint had answered this."""
        response = Response(outcome_class(status_code), status_code)
        result = self._delivery.result(job, response, self._clock())
        self.steps.settle({job.id: token}, [result])
        self.limits.leave(job.endpoint.id)

    def _send(self, token: str, jobs: Sequence[DeliveryJob]) -> None:
        client = WebhookClient(connections=10, reach=LOOPBACK)
        try:
            for job in jobs:
                result = self._attempt(job, client)
                if result[2] is not None:
                    attempt = result[2].attempt
                    self.limits.answered(job.endpoint.id, attempt.outcome, attempt.status_code, None, 0.01)
                self.steps.settle({job.id: token}, [result])
                self.limits.leave(job.endpoint.id)
        finally:
            client.close()

    def _attempt(self, job: DeliveryJob, client: WebhookClient) -> Result:
        started = self._clock()
        outgoing = self._delivery.request(job, started)
        if not isinstance(outgoing, Outgoing):
            return job, outgoing, None
        answered: Queue[Response] = Queue()
        client.send(outgoing.request, answered.put)
        return self._delivery.result(job, answered.get(timeout=60), started, outgoing.shown)


def run_until_quiet(steps: Steps[Any, Any]) -> None:
    """Do what is due, in batches, until nothing is."""
    while steps.run(None):
        pass


def stripe_signature(body: bytes, *, secret: str = SECRET, at: float | None = None) -> str:
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"
