"""Rules of webhook delivery: who wants a message, and what a response means."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from billhook.rules.retry import Dead, Done, Outcome, Retry

SCHEDULE_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Waits after the 1st, 2nd, … failed attempt: ten attempts over 75.6 hours (Standard Webhooks' suggested schedule)."""

MAX_ATTEMPTS = len(SCHEDULE_SECONDS) + 1

RETRY_AFTER_LIMIT_SECONDS = 12 * 3600
"""A receiver may ask for patience, but not for so much that its messages never arrive."""


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Whether an endpoint with these patterns hears of an event: `*`, `invoice.*`, or the name itself."""
    return any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


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
) -> Outcome:
    """What follows from one attempt. Only a 2xx is a success; a redirect is a failure and never followed.

    `retry_after_seconds` counts with 429, 502, 503 and 504. `jitter` in 0…1 only ever adds, by at most a tenth.
    """
    if status_code is not None and 200 <= status_code < 300:
        return Done("delivered")
    reason = error or f"the endpoint answered {status_code}"
    if attempts >= MAX_ATTEMPTS:
        return Dead(f"gave up after {attempts} attempts: {reason}")
    wait = float(SCHEDULE_SECONDS[attempts - 1])
    if retry_after_seconds is not None and status_code in (429, 502, 503, 504):
        wait = max(wait, min(retry_after_seconds, RETRY_AFTER_LIMIT_SECONDS))
    return Retry(now + timedelta(seconds=wait * (1 + 0.1 * jitter)), reason)
