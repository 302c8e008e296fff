"""Endpoint health: warn the merchant of an endpoint that fails, and disable it after five days of failures.

The merchant is told three times (at the first sign, at half time, at the end): by a message to its other endpoints and
by mail, both written in the transaction that decides it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from billhook.events import EndpointNews
from billhook.queue.handler import Rings
from billhook.rules.delivery import GONE
from billhook.rules.endpoint_health import DISABLED_AFTER, EndpointHealth, Notice, health_after_failure
from billhook.rules.notices import failing_notice
from billhook.store.database import Tx
from billhook.store.deliveries import Attempt, address
from billhook.store.endpoints import Endpoint, endpoints_of, save_health, set_disabled
from billhook.store.mails import NewMail, add_mails
from billhook.store.merchants import merchants_of
from billhook.store.messages import Message, add_messages


@dataclass(frozen=True)
class Told:
    """Something a merchant has to know of an endpoint."""

    endpoint: Endpoint
    stage: str
    """first, half, disabled (it failed for too long) or gone (it answered 410)."""
    failing_since: datetime
    last_error: str

    @property
    def disables(self) -> bool:
        return self.stage in ("disabled", "gone")


STAGES = {Notice.FIRST_SIGN: "first", Notice.HALF_TIME: "half", Notice.DISABLED: "disabled"}


def record_health(tx: Tx, tried: Sequence[tuple[Endpoint, Attempt]], now: datetime) -> Rings:
    """Bring the endpoints' health up to date, and tell what is to be told; returns what to ring for."""
    concerned = {endpoint.id for endpoint, attempt in tried if concerns(endpoint, attempt)}
    if not concerned:
        return {}
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for endpoint, attempt in tried:
        attempts[endpoint.id].append(attempt)
    told: list[Told] = []
    changed: dict[str, EndpointHealth] = {}
    for endpoint in endpoints_of(tx, concerned, lock=True).values():
        if endpoint.disabled_at is not None or endpoint.deleted_at is not None:
            continue
        health, verdict = _judged(endpoint, attempts[endpoint.id])
        if health != endpoint.health:
            changed[endpoint.id] = health
        if verdict is not None:
            told.append(verdict)
    save_health(tx, changed)
    for one in told:
        if one.disables:
            set_disabled(tx, one.endpoint.id, now, _reason(one))
    return _tell(tx, told, now)


def concerns(endpoint: Endpoint, attempt: Attempt) -> bool:
    """Whether anything is to be written. Most attempts succeed at endpoints that are well: those cost nothing here."""
    if attempt.status_code == GONE:
        return True
    if arrived(attempt):
        return endpoint.failing_since is not None
    return health_after_failure(endpoint.health, attempt.started_at)[0] != endpoint.health


def begins_to_fail(endpoint: Endpoint, attempt: Attempt) -> bool:
    """Whether since when it fails is all that is to be written of its endpoint: the first failure of one that was
    well."""
    return endpoint.failing_since is None and not arrived(attempt) and attempt.status_code != GONE


def arrived(attempt: Attempt) -> bool:
    return attempt.outcome == "2xx"


def _judged(endpoint: Endpoint, attempts: Sequence[Attempt]) -> tuple[EndpointHealth, Told | None]:
    """The endpoint's new health, and what its merchant has to be told."""
    health, told = endpoint.health, None
    gone = next((attempt for attempt in attempts if attempt.status_code == GONE), None)
    if gone is not None:
        since = endpoint.failing_since or gone.started_at
        return health, Told(endpoint, "gone", since, "the endpoint answered 410 Gone")
    for attempt in sorted(attempts, key=lambda attempt: attempt.started_at):
        if arrived(attempt):
            health, told = EndpointHealth(), None
            continue
        health, notice = health_after_failure(health, attempt.started_at)
        if notice is not None and health.failing_since is not None:
            error = attempt.error or f"the endpoint answered {attempt.status_code}"
            told = Told(endpoint, STAGES[notice], health.failing_since, error)
    return health, told


def _reason(told: Told) -> str:
    if told.stage == "gone":
        return told.last_error
    return f"failing since {told.failing_since:%Y-%m-%d %H:%M} UTC: {told.last_error}"


def _tell(tx: Tx, told: Sequence[Told], now: datetime) -> Rings:
    if not told:
        return {}
    due: list[str] = []
    mails: list[NewMail] = []
    merchants = merchants_of(tx, {one.endpoint.merchant_id for one in told})
    for one in told:
        endpoint = one.endpoint
        event_type = "endpoint.disabled" if one.disables else "endpoint.failing"
        message = Message.own(
            endpoint.merchant_id, event_type, "endpoint", endpoint.id, _body(event_type, one, now), now
        )
        due += address(tx, add_messages(tx, [message], now), now, excluding=[endpoint.id])
        merchant = merchants[endpoint.merchant_id]
        if merchant.contact_email is not None:
            subject, text = failing_notice(
                merchant_name=merchant.name,
                url=endpoint.url,
                endpoint_id=endpoint.id,
                stage=one.stage,
                failing_since=one.failing_since,
                now=now,
                last_error=one.last_error,
                disables_at=one.failing_since + DISABLED_AFTER,
            )
            about = f"{event_type}:{endpoint.id}:{one.stage}:{one.failing_since.isoformat()}"
            mails.append(NewMail(endpoint.merchant_id, about, merchant.contact_email, subject, text))
    return {"deliveries": due, "mails": add_mails(tx, mails, now)}


def _body(event_type: str, told: Told, now: datetime) -> bytes:
    data = EndpointNews(
        id=told.endpoint.id,
        url=told.endpoint.url,
        failing_since=told.failing_since,
        last_error=told.last_error,
        disables_at=told.failing_since + DISABLED_AFTER,
        disabled_at=now if told.disables else None,
    )
    return msgspec.json.encode({"type": event_type, "timestamp": now, "data": data})
