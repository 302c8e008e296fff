"""One delivery: what is needed to send it, the request it becomes, and what is written about its attempt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import sqlalchemy as sa

from billhook.outlets.http import DEADLINE_SECONDS, Poster, Response, retry_after_seconds
from billhook.queue.consumer import Rings
from billhook.rules.delivery import MAX_ATTEMPTS, after_attempt
from billhook.rules.retry import Dead, Outcome, after_failure
from billhook.rules.signing import signed_headers
from billhook.store.database import Tx
from billhook.store.deliveries import Attempt, Letter, add_attempts, deliveries, letters
from billhook.store.vault import Vault
from billhook.store.work import Row


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
        return self.letter.number


Result = tuple[Errand, Outcome, Attempt | None]


class Delivery:
    """The handler of the deliveries. Sending is asynchronous, so `Rounds` performs them one by one."""

    table: sa.Table = deliveries
    batch = 100
    # Longer than a request may take and its result may wait for the settler, so that no lease ends under a request.
    lease = timedelta(seconds=DEADLINE_SECONDS + 5)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, vault: Vault) -> None:
        # Opening a sealed secret takes as long as signing; the sealed bytes change when the secret does.
        self._secret = lru_cache(maxsize=10_000)(vault.open)

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Errand]:
        return [Errand(letter) for letter in letters(tx, rows)]

    def perform(self, jobs: Sequence[Errand]) -> Sequence[Result]:
        raise TypeError("deliveries are performed asynchronously, by Rounds")

    async def send(self, errand: Errand, poster: Poster, started: datetime) -> Result:
        """One attempt: a fresh timestamp and signature, always the same `webhook-id`."""
        letter = errand.letter
        if letter.disabled:
            return errand, Dead("the endpoint is disabled; enable it and replay"), None
        try:
            headers = signed_headers([self._secret(letter.secret)], letter.message_id, started, letter.body)
        except Exception as error:  # a secret that does not open: nothing was sent, so there is no attempt to record
            return errand, after_failure(error, attempts=letter.number, now=started, jitter=random.random()), None
        headers["Content-Type"] = "application/json"
        headers["User-Agent"] = "billhook"
        response = await poster.post(letter.url, headers, letter.body)
        return errand, _outcome(errand, response, started), _attempt(letter, response, started)

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        add_attempts(tx, [attempt for _, _, attempt in results if attempt is not None])
        return {}


def _outcome(errand: Errand, response: Response, started: datetime) -> Outcome:
    now = started + timedelta(milliseconds=response.duration_ms)
    return after_attempt(
        status_code=response.status_code,
        error=response.error,
        retry_after_seconds=retry_after_seconds(response.retry_after, now),
        attempts=errand.attempts,
        now=now,
        jitter=random.random(),
    )


def _attempt(letter: Letter, response: Response, started: datetime) -> Attempt:
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
    )
