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
from typing import Final

import msgspec
import sqlalchemy as sa

from billhook.outlets.webhooks.exchange import Request
from billhook.outlets.webhooks.response import Response, retry_after_seconds
from billhook.queue.consumer import Rings
from billhook.rules.delivery import (
    CANCELED,
    DEADLINE_SECONDS,
    HELD,
    LONGEST_SCHEDULE,
    SCHEDULE_SECONDS,
    after_attempt,
    as_told,
)
from billhook.rules.retry import Dead, Done, Outcome, Retry, after_failure
from billhook.rules.signing import signed_headers
from billhook.store.database import Tx
from billhook.store.deliveries import (
    Attempt,
    Letter,
    add_attempts,
    cut_attempts,
    deliveries,
    letters,
    to_retry_lane,
)
from billhook.store.endpoints import Endpoint
from billhook.store.ordering import release
from billhook.store.queues import lane_name
from billhook.store.vault import Vault
from billhook.store.work import Row
from services.courier.wellbeing import look_after

log = logging.getLogger(__name__)

NOT_KEPT: Final = "(not kept)"
"""Stands for the value of a merchant's own header in what is shown of an attempt: it may be a token."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One claimed delivery."""

    letter: Letter

    @property
    def id(self) -> str:
        return self.letter.delivery_id

    @property
    def merchant_id(self) -> str:
        return self.letter.merchant_id

    @property
    def attempts(self) -> int:
        return self.letter.attempts

    @property
    def endpoint(self) -> Endpoint:
        return self.letter.endpoint

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


Result = tuple[Errand, Outcome, Tried | None]


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

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Errand]:
        add_attempts(tx, cut_attempts(rows))
        return [Errand(letter) for letter in letters(tx, rows)]

    def perform(self, jobs: Sequence[Errand]) -> Sequence[Result]:
        raise TypeError("deliveries are performed many at a time, by Dispatcher")

    def request(self, errand: Errand, now: datetime) -> Outgoing | Outcome:
        """One attempt: a fresh timestamp and signature, always the same `webhook-id`; or how it ends without one."""
        letter, endpoint = errand.letter, errand.endpoint
        if ended := _ended(letter):
            return ended
        try:
            own, written = self._headers(letter, now)
        except Exception as error:  # a secret that does not open: nothing was sent, so there is no attempt to record
            return after_failure(error, attempts=letter.attempts, now=now, jitter=random.random())
        request = Request(
            endpoint.url, {**own, **written}, letter.body, errand.timeout_seconds, retry=letter.attempts > 1
        )
        return Outgoing(request, {**dict.fromkeys(own, NOT_KEPT), **written})

    def result(
        self, errand: Errand, response: Response, started: datetime, sent: Mapping[str, str] = MappingProxyType({})
    ) -> Result:
        """What follows from a response to a request that began at `started`; `sent` are its headers, to be shown."""
        letter = errand.letter
        outcome_told, error = as_told(letter.endpoint.url, response.outcome, response.error)
        if error != response.error:
            log.info("not connected", extra={"endpoint": letter.endpoint.id, "reason": response.error})
            response = msgspec.structs.replace(response, outcome=outcome_told, error=error)
        ended_at = started + timedelta(milliseconds=response.duration_ms)
        pause = retry_after_seconds(response.retry_after, ended_at)
        outcome = after_attempt(
            status_code=response.status_code,
            error=response.error,
            retry_after_seconds=pause,
            attempts=letter.attempts,
            now=ended_at,
            jitter=random.random(),
            schedule=SCHEDULE_SECONDS if letter.endpoint.schedule is None else letter.endpoint.schedule,
        )
        return errand, outcome, Tried(_attempt(letter, response, started, sent), pause, response.connected)

    def _headers(self, letter: Letter, now: datetime) -> tuple[dict[str, str], dict[str, str]]:
        """The merchant's own headers, and those that billhook writes."""
        endpoint = letter.endpoint
        own = json.loads(self._open(endpoint.headers)) if endpoint.headers else {}
        secrets = [self._open(secret) for secret in endpoint.secrets(now)]
        return own, {
            **signed_headers(secrets, letter.message_id, now, letter.body),
            "Content-Type": "application/json",
            "User-Agent": "billhook",
        }

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        tried = [(errand.endpoint, result.attempt) for errand, _, result in results if result is not None]
        add_attempts(tx, [attempt for _, attempt in tried])
        to_retry_lane(tx, [errand.id for errand, outcome, _ in results if isinstance(outcome, Retry)])
        over = {
            errand.id: (errand.endpoint.id, errand.letter.subject)
            for errand, outcome, _ in results
            if errand.letter.subject is not None and isinstance(outcome, (Done, Dead))
        }
        rings: dict[str, list[str]] = {}
        for head in release(tx, over, now):
            rings.setdefault(lane_name(head.lane), []).append(head.delivery_id)
        for queue, ids in look_after(tx, tried, now).items():
            rings.setdefault(queue, []).extend(ids)
        return rings


def _ended(letter: Letter) -> Outcome | None:
    """How a delivery ends that is not to be sent."""
    if letter.endpoint.deleted_at is not None:
        return Done(CANCELED)
    if letter.endpoint.disabled_at is not None:
        return Done(HELD)
    if letter.pruned:
        return Dead("the message's body was pruned when its retention was over; it cannot be sent again")
    return None


def _attempt(letter: Letter, response: Response, started: datetime, sent: Mapping[str, str]) -> Attempt:
    return Attempt(
        letter.merchant_id,
        letter.delivery_id,
        letter.number,
        started,
        response.duration_ms,
        response.outcome,
        response.status_code,
        response.error,
        response.body,
        response.headers,
        letter.endpoint.url,
        tuple(sent.items()),
    )
