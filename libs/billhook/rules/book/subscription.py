"""Subscriptions, and the schedules that change them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from billhook.rules.book.objects import DELETED, BookObject, Count, Ref, Time


class SubscriptionItem(msgspec.Struct, frozen=True, kw_only=True):
    external_id: Ref
    price: Ref | None = None
    product: Ref | None = None
    quantity: Count | None = None


SubscriptionStatus = Literal[
    "incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"
]


_SUBSCRIPTION_RANK: dict[str, int] = {
    "incomplete": 0,
    "trialing": 1,
    "active": 2,
    "past_due": 3,
    "unpaid": 4,
    "paused": 5,
    "incomplete_expired": 6,
    "canceled": 7,
}


class Subscription(BookObject, frozen=True, kw_only=True):
    kind = "subscription"
    prefix = "sub"

    customer: Ref | None = None
    status: Annotated[str, Meta(examples=[*get_args(SubscriptionStatus)])]
    currency: str | None = None
    current_period_start: Time | None = None
    current_period_end: Time | None = None
    cancel_at_period_end: bool = False
    cancel_at: Time | None = None
    canceled_at: Time | None = None
    ended_at: Time | None = None
    trial_end: Time | None = None
    latest_invoice: Ref | None = None
    default_payment_method: Ref | None = None
    items: tuple[SubscriptionItem, ...] = ()
    items_complete: bool = True
    """False when the provider's event carried only the first items, and nobody could be asked for the rest."""
    schedule: Ref | None = None
    """The subscription schedule that changes it."""
    collection_paused: str | None = None
    """What becomes of its invoices while payments are not collected: keep_as_draft, mark_uncollectible or void."""
    collection_resumes_at: Time | None = None

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else _SUBSCRIPTION_RANK.get(self.status, _SUBSCRIPTION_RANK["paused"])


class ScheduledItem(msgspec.Struct, frozen=True, kw_only=True):
    price: Ref | None = None
    quantity: Count | None = None


class SchedulePhase(msgspec.Struct, frozen=True, kw_only=True):
    start: Time | None = None
    end: Time | None = None
    items: tuple[ScheduledItem, ...] = ()


ScheduleStatus = Literal["not_started", "active", "completed", "released", "canceled"]


class SubscriptionSchedule(BookObject, frozen=True, kw_only=True):
    """What a subscription will change to, and when."""

    kind = "subscription_schedule"
    prefix = "sched"

    customer: Ref | None = None
    subscription: Ref | None = None
    """The one it changes, or changed until it was released."""
    status: Annotated[str, Meta(examples=[*get_args(ScheduleStatus)])]
    end_behavior: str | None = None
    """What the subscription does when the last phase ends: release or cancel."""
    current_phase_start: Time | None = None
    current_phase_end: Time | None = None
    phases: tuple[SchedulePhase, ...] = ()
    canceled_at: Time | None = None
    completed_at: Time | None = None
    released_at: Time | None = None

    @property
    def rank(self) -> int:
        order = {"not_started": 0, "active": 1, "completed": 2, "released": 3, "canceled": 4}
        return DELETED if self.deleted else order.get(self.status, 1)
