"""What a webhook says: the envelope `{"type", "timestamp", "data"}`, and the names that `type` has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from billhook_webhooks.refusal import WebhookVerificationError

EventType = Literal[
    "ping",
    "endpoint.failing",
    "endpoint.disabled",
    "mail.refused",
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "product.created",
    "product.updated",
    "product.deleted",
    "price.created",
    "price.updated",
    "price.deleted",
    "subscription.created",
    "subscription.updated",
    "subscription.canceled",
    "subscription.paused",
    "subscription.resumed",
    "subscription.trial_ending",
    "invoice.created",
    "invoice.updated",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.overdue",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.deleted",
    "payment.created",
    "payment.processing",
    "payment.action_required",
    "payment.succeeded",
    "payment.failed",
    "payment.canceled",
    "charge.succeeded",
    "charge.failed",
    "charge.refunded",
    "invoice_payment.paid",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "credit_note.created",
    "credit_note.updated",
    "credit_note.voided",
    "dispute.created",
    "dispute.updated",
    "dispute.closed",
    "checkout.completed",
    "checkout.expired",
    "checkout.payment_succeeded",
    "checkout.payment_failed",
    "customer.standing_changed",
    "subscription_schedule.created",
    "subscription_schedule.updated",
    "subscription_schedule.released",
    "subscription_schedule.canceled",
    "subscription_schedule.completed",
    "subscription_schedule.aborted",
    "subscription_schedule.expiring",
    "dunning.case_opened",
    "dunning.attempt_scheduled",
    "dunning.attempt_failed",
    "dunning.recovered",
    "dunning.exhausted",
    "dunning.canceled",
    "reconciliation.finding_confirmed",
    "reconciliation.run_completed",
]
"""All that this version knows of. A newer billhook may send more: names are added, and never change their meaning."""

KNOWN_TYPES: Final[frozenset[EventType]] = frozenset(get_args(EventType))


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    id: str
    """The header `webhook-id`: the same each time this event is sent, so remember it to handle the event once."""
    type: str
    """One of `EventType`, or a name that came later."""
    timestamp: datetime
    """When it happened; with its zone, which is UTC."""
    data: dict[str, Any]
    """The object as it was then."""


def read(message_id: str, body: bytes) -> Event:
    """The event in a body that was verified. Raises `WebhookVerificationError` if it holds none."""
    try:
        # json would guess at other encodings if it were given bytes.
        envelope = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise _malformed("is not JSON in UTF-8") from None
    if not isinstance(envelope, dict):
        raise _malformed("is not a JSON object")
    event_type, data = envelope.get("type"), envelope.get("data")
    if not isinstance(event_type, str) or not event_type:
        raise _malformed("has no `type`")
    if not isinstance(data, dict):
        raise _malformed("has no object in `data`")
    return Event(message_id, event_type, _instant(envelope.get("timestamp")), data)


def _instant(text: object) -> datetime:
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise _malformed("has no `timestamp` with a zone, such as 2026-03-01T12:00:00Z")
    return instant


def _malformed(what: str) -> WebhookVerificationError:
    return WebhookVerificationError(
        "body_malformed", f"The signature is good, but the body {what}; is the sender billhook?"
    )
