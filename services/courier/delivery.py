"""One delivery: what is needed to send it, the request it becomes, and what is written about its attempt."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.outlets.webhooks.exchange import Request
from billhook.outlets.webhooks.response import Response, retry_after_seconds
from billhook.queue.handler import Rings
from billhook.rules.delivery import (
    CANCELED,
    DEADLINE_SECONDS,
    HELD,
    LONGEST_SCHEDULE,
    SCHEDULE_SECONDS,
    after_attempt,
    as_told,
    patience,
)
from billhook.rules.retry import Dead, Done, Outcome, Retry, after_failure
from billhook.rules.signing import signed_headers
from billhook.store.database import Tx
from billhook.store.deliveries import (
    Attempt,
    OutboundMessage,
    add_attempts,
    cut_attempts,
    deliveries,
    outbound_messages,
    to_retry_lane,
)
from billhook.store.endpoints import Endpoint
from billhook.store.ordering import release
from billhook.store.queues import lane_name
from billhook.store.vault import Vault
from billhook.store.work import Row
from services.courier.endpoint_health import record_health

log = logging.getLogger(__name__)

NOT_KEPT: Final = "(not kept)"
"""Stands for the value of a merchant's own header in what is shown of an attempt: it may be a token."""


@dataclass(frozen=True, slots=True)
class DeliveryJob:
    """One claimed delivery."""

    message: OutboundMessage

    @property
    def id(self) -> str:
        return self.message.delivery_id

    @property
    def merchant_id(self) -> str:
        return self.message.merchant_id

    @property
    def attempts(self) -> int:
        return self.message.attempts

    @property
    def endpoint(self) -> Endpoint:
        return self.message.endpoint

    @property
    def timeout_seconds(self) -> float:
        return self.endpoint.timeout_seconds or DEADLINE_SECONDS


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, and what is shown of its headers."""

    request: Request
    shown: Mapping[str, str]


class Tried(msgspec.Struct, frozen=True):
    """What an attempt brought: the attempt to record, and how long the receiver asked to be left alone."""

    attempt: Attempt
    pause_seconds: float | None
    connected: bool


Result = tuple[DeliveryJob, Outcome, Tried | None]


class Delivery:
    """The handler of the deliveries. Many are under way at once, so `Dispatcher` performs them."""

    table: sa.Table = deliveries
    batch = 128
    # Renewed while a request is under way, so it is only what a delivery waits for when its courier was killed.
    lease = timedelta(seconds=8)
    max_attempts = LONGEST_SCHEDULE + 1

    def __init__(self, vault: Vault) -> None:
        # Opening a sealed secret takes as long as signing; the sealed bytes change when the secret does.
        self._open = lru_cache(maxsize=10_000)(vault.open)

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[DeliveryJob]:
        add_attempts(tx, cut_attempts(rows))
        return [DeliveryJob(message) for message in outbound_messages(tx, rows)]

    def perform(self, jobs: Sequence[DeliveryJob]) -> Sequence[Result]:
        raise TypeError("deliveries are performed many at a time, by Dispatcher")

    def request(self, job: DeliveryJob, now: datetime) -> Outgoing | Outcome:
        """One attempt: a fresh timestamp and signature, always the same `webhook-id`; or how it ends without one."""
        message, endpoint = job.message, job.endpoint
        if ended := _ended(message):
            return ended
        try:
            own, written = self._headers(message, now)
        except Exception as error:  # a secret that does not open: nothing was sent, so there is no attempt to record
            return after_failure(error, attempts=message.attempts, now=now, jitter=random.random())
        request = Request(
            endpoint.url, {**own, **written}, message.body, job.timeout_seconds, retry=message.attempts > 1
        )
        return Outgoing(request, {**dict.fromkeys(own, NOT_KEPT), **written})

    def result(
        self, job: DeliveryJob, response: Response, started: datetime, sent: Mapping[str, str] = MappingProxyType({})
    ) -> Result:
        """What follows from a response to a request that began at `started`; `sent` are its headers, to be shown."""
        message = job.message
        outcome_told, error = as_told(message.endpoint.url, response.outcome, response.error)
        if error != response.error:
            log.info("not connected", extra={"endpoint": message.endpoint.id, "reason": response.error})
            response = msgspec.structs.replace(response, outcome=outcome_told, error=error)
        ended_at = started + timedelta(milliseconds=response.duration_ms)
        pause = patience(response.status_code, retry_after_seconds(response.retry_after, ended_at))
        outcome = after_attempt(
            status_code=response.status_code,
            error=response.error,
            retry_after_seconds=pause,
            attempts=message.attempts,
            now=ended_at,
            jitter=random.random(),
            schedule=SCHEDULE_SECONDS if message.endpoint.schedule is None else message.endpoint.schedule,
        )
        return job, outcome, Tried(_attempt(message, response, started, sent), pause, response.connected)

    def _headers(self, message: OutboundMessage, now: datetime) -> tuple[dict[str, str], dict[str, str]]:
        """The merchant's own headers, and those that billhook writes."""
        endpoint = message.endpoint
        own = json.loads(self._open(endpoint.headers)) if endpoint.headers else {}
        secrets = [self._open(secret) for secret in endpoint.secrets(now)]
        return own, {
            **signed_headers(secrets, message.message_id, now, message.body),
            "Content-Type": "application/json",
            "User-Agent": "billhook",
        }

    def about(self, job: DeliveryJob, tried: Tried | None) -> dict[str, Any]:
        message = job.message
        line = {"event_id": message.event_id, "message_id": message.message_id, "type": message.type}
        line |= {"endpoint_id": job.endpoint.id, "lane": message.lane}
        if tried is None:
            return line
        attempt = tried.attempt
        return {**line, "outcome": attempt.outcome, "status": attempt.status_code, "duration_ms": attempt.duration_ms}

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        tried = [(job.endpoint, result.attempt) for job, _, result in results if result is not None]
        add_attempts(tx, [attempt for _, attempt in tried])
        to_retry_lane(tx, [job.id for job, outcome, _ in results if isinstance(outcome, Retry)])
        over = {
            job.id: (job.endpoint.id, job.message.subject)
            for job, outcome, _ in results
            if job.message.subject is not None and isinstance(outcome, (Done, Dead))
        }
        rings: dict[str, list[str]] = {}
        for head in release(tx, over, now):
            rings.setdefault(lane_name(head.lane), []).append(head.delivery_id)
        for queue, ids in record_health(tx, tried, now).items():
            rings.setdefault(queue, []).extend(ids)
        return rings


def _ended(message: OutboundMessage) -> Outcome | None:
    """How a delivery ends that is not to be sent."""
    if message.endpoint.deleted_at is not None:
        return Done(CANCELED)
    if message.endpoint.disabled_at is not None:
        return Done(HELD)
    if message.pruned:
        return Dead("the message's body was pruned when its retention was over; it cannot be sent again")
    return None


def _attempt(message: OutboundMessage, response: Response, started: datetime, sent: Mapping[str, str]) -> Attempt:
    return Attempt(
        message.merchant_id,
        message.delivery_id,
        message.number,
        started,
        response.duration_ms,
        response.outcome,
        response.status_code,
        response.error,
        response.body,
        response.headers,
        message.endpoint.url,
        tuple(sent.items()),
    )
