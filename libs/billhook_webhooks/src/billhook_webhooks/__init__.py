"""Verify the webhooks that billhook sends (Standard Webhooks, `v1` and `v1a`), and read them as typed events."""

from billhook_webhooks.event import KNOWN_TYPES, Event, EventType
from billhook_webhooks.refusal import Reason, WebhookVerificationError
from billhook_webhooks.webhook import Headers, Webhook

__all__ = ["KNOWN_TYPES", "Event", "EventType", "Headers", "Reason", "Webhook", "WebhookVerificationError"]
