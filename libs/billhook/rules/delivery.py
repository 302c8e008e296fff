"""Rules of webhook delivery: who wants a message, what a response means, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from billhook.rules.addresses import literal
from billhook.rules.retry import GAVE_UP, Dead, Done, Outcome, Retry

SCHEDULE_SECONDS: Final = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Waits after the 1st, 2nd, … failed attempt: ten attempts over 75.6 hours (Standard Webhooks' suggested schedule)."""

LONGEST_SCHEDULE: Final = 20
"""Waits an endpoint's own schedule may have."""

LONGEST_WAIT_SECONDS: Final = 48 * 3600

DEADLINE_SECONDS: Final = 15.0
"""For name resolution, connecting, TLS, sending, headers and body together (Standard Webhooks advises 15 to 30 s)."""

LONGEST_TIMEOUT_SECONDS: Final = 30.0
"""The upper end of what Standard Webhooks advises."""

RETRY_AFTER_LIMIT_SECONDS: Final = 12 * 3600
"""A receiver may ask for patience, but not for so much that its messages never arrive."""

PATIENT: Final = (429, 502, 503, 504)
"""Statuses whose `Retry-After` counts: too many requests, and what says that it will pass."""

GONE: Final = 410
"""Standard Webhooks: the receiver wants nothing more, so the endpoint is disabled."""

DELIVERED: Final = "delivered"
HELD: Final = "held"
"""Kept for an endpoint that is disabled, until somebody replays it or its payload is pruned."""
CANCELED: Final = "canceled"
"""Its endpoint was deleted first."""

FRESH: Final = "fresh"
RETRY: Final = "retry"
REPLAY: Final = "replay"
LANES: Final = (FRESH, RETRY, REPLAY)
"""First attempts, later ones, and what people asked for again: each with its own room, so that no backlog of one holds
up another."""


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Whether these patterns of an endpoint's filter match an event: `*`, `invoice.*`, or the name itself."""
    return any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def subject_of(ordering: str, customer: str | None, subscription: str | None) -> str | None:
    """What a delivery must stay in order with at an endpoint of this ordering (`none`, `customer`, `subscription`);
    None where it need not."""
    return {"customer": customer, "subscription": subscription}.get(ordering)


def patience(status_code: int | None, retry_after_seconds: float | None) -> float | None:
    """For how long an endpoint asks to be left alone: `Retry-After` counts with the statuses in `PATIENT`."""
    return retry_after_seconds if status_code in PATIENT else None


def outcome_class(status_code: int) -> str:
    return f"{status_code // 100}xx"


def after_attempt(
    *,
    status_code: int | None,
    error: str | None,
    retry_after_seconds: float | None,
    attempts: int,
    now: datetime,
    jitter: float,
    schedule: Sequence[float] = SCHEDULE_SECONDS,
) -> Outcome:
    """What follows from one attempt. Only a 2xx in time is a success; a redirect is a failure and never followed; after
    410 the message is held, for its endpoint wants no more.

    An `error` beside a status is an answer that broke off: the status is for information, and no success.
    `jitter` in 0…1 only ever adds, by at most a tenth.
    """
    if error is None and status_code is not None and 200 <= status_code < 300:
        return Done(DELIVERED)
    if status_code == GONE:
        return Done(HELD)
    reason = error or f"the endpoint answered {status_code}"
    if attempts > len(schedule):
        return Dead(f"{GAVE_UP} {attempts} attempts: {reason}")
    wait = float(schedule[attempts - 1])
    if (asked := patience(status_code, retry_after_seconds)) is not None:
        wait = max(wait, min(asked, RETRY_AFTER_LIMIT_SECONDS))
    return Retry(now + timedelta(seconds=wait * (1 + 0.1 * jitter)), reason)


NOT_FOUND: Final = "billhook found no address under this name that it connects to"


def as_told(url: str, outcome: str, error: str | None) -> tuple[str, str | None]:
    """The outcome and the error of an attempt as its merchant reads them. A name that nobody knows and one that leads
    to an inner address read alike, or merchants could find out which names there are in billhook's own network."""
    if outcome in ("dns", "refused") and literal(urlsplit(url).hostname or "") is None:
        return "dns", NOT_FOUND
    return outcome, error


def answers(outcome: str, status_code: int | None) -> bool:
    """Whether an endpoint is up, as far as one attempt can tell: a refusal (4xx) or a redirect is an answer of somebody
    who is there; an overload (429), a server's error and every failure to get an answer are not."""
    return outcome in ("2xx", "3xx", "4xx") and status_code != 429
