"""Paddle Billing's objects, as far as billhook reads them: catalogue, customers, subscriptions.

Every object says itself when it last changed, to the microsecond, and two events of one change carry the same object.
So the object's own time orders its versions, and not the event's: of a new subscription, `subscription.activated` is
stamped before `subscription.created`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from billhook.rules.book.catalog import Price as BookPrice
from billhook.rules.book.catalog import Product as BookProduct
from billhook.rules.book.customer import Customer as BookCustomer
from billhook.rules.book.objects import BookObject, Count, Ref, Time
from billhook.rules.book.subscription import Subscription as BookSubscription
from billhook.rules.book.subscription import SubscriptionItem as BookSubscriptionItem
from billhook.rules.book.subscription import SubscriptionStatus

Digits = Annotated[str, Meta(pattern=r"^-?[0-9]{1,18}\Z")]
"""An amount in minor units, as text; 18 digits always fit a 64-bit column."""

CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]


class PaddleObject(msgspec.Struct, kw_only=True):
    """What all have."""

    id: Ref
    created_at: Time | None = None
    updated_at: Time | None = None
    custom_data: dict[str, Any] | None = None

    def shared(self) -> dict[str, Any]:
        return {"external_id": self.id, "created": self.created_at, "metadata": metadata(self.custom_data)}

    def changed_at(self) -> datetime | None:
        """When the object came to be as it is here; None where it does not say."""
        return self.updated_at

    def to_book(self) -> tuple[BookObject, ...]:
        raise NotImplementedError

    def confirmed(self, facts: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the facts that its event may announce which the object confirms."""
        return facts


def metadata(custom_data: dict[str, Any] | None) -> dict[str, str]:
    """Custom data may be any JSON; the book holds text. What is none is written as JSON."""
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()
        for key, value in (custom_data or {}).items()
        if value is not None
    }


class Customer(PaddleObject, kw_only=True):
    name: str | None = None
    email: str | None
    """Always there: what has none is of a shape that is not known here, and must not empty the book's."""

    def to_book(self) -> tuple[BookObject, ...]:
        return (BookCustomer(**self.shared(), name=self.name, email=self.email),)


class Product(PaddleObject, kw_only=True):
    name: str
    description: str | None = None
    status: str = "active"

    def to_book(self) -> tuple[BookObject, ...]:
        active = self.status == "active"
        return (BookProduct(**self.shared(), name=self.name, description=self.description, active=active),)


class Money(msgspec.Struct):
    amount: Digits
    currency_code: CurrencyCode


class Interval(msgspec.Struct):
    interval: str
    frequency: Count = 1


class Price(PaddleObject, kw_only=True):
    product_id: Ref | None = None
    unit_price: Money
    billing_cycle: Interval | None = None
    name: str | None = None
    description: str | None = None
    status: str = "active"

    def to_book(self) -> tuple[BookObject, ...]:
        cycle = self.billing_cycle
        return (
            BookPrice(
                **self.shared(),
                product=self.product_id,
                currency=self.unit_price.currency_code.lower(),
                unit_amount=int(self.unit_price.amount),
                unit_amount_decimal=self.unit_price.amount,
                interval=cycle.interval if cycle else None,
                interval_count=cycle.frequency if cycle else None,
                usage_type="licensed" if cycle else None,
                active=self.status == "active",
                nickname=self.name or self.description,
            ),
        )


class BoughtPrice(msgspec.Struct):
    """A price inside an item."""

    id: Ref
    product_id: Ref | None = None


class Span(msgspec.Struct):
    starts_at: Time | None = None
    ends_at: Time | None = None


class SubscriptionItem(msgspec.Struct, kw_only=True):
    price: BoughtPrice
    quantity: Count | None = None
    trial_dates: Span | None = None

    def to_book(self) -> BookSubscriptionItem:
        # An item has no id of its own; a price is in a subscription once.
        return BookSubscriptionItem(
            external_id=self.price.id, price=self.price.id, product=self.price.product_id, quantity=self.quantity
        )


class ScheduledChange(msgspec.Struct):
    action: str
    effective_at: Time | None = None


class Subscription(PaddleObject, kw_only=True):
    customer_id: Ref | None = None
    status: SubscriptionStatus
    currency_code: CurrencyCode | None = None
    current_billing_period: Span | None = None
    scheduled_change: ScheduledChange | None = None
    canceled_at: Time | None = None
    items: list[SubscriptionItem] = []

    def to_book(self) -> tuple[BookObject, ...]:
        period = self.current_billing_period or Span()
        change = self.scheduled_change
        ends = change if change and change.action == "cancel" else None
        trials = [item.trial_dates.ends_at for item in self.items if item.trial_dates and item.trial_dates.ends_at]
        return (
            BookSubscription(
                **self.shared(),
                customer=self.customer_id,
                status=self.status,
                currency=self.currency_code.lower() if self.currency_code else None,
                current_period_start=period.starts_at,
                current_period_end=period.ends_at,
                cancel_at_period_end=ends is not None,
                cancel_at=ends.effective_at if ends else None,
                canceled_at=self.canceled_at,
                ended_at=self.canceled_at if self.status == "canceled" else None,
                trial_end=max(trials, default=None),
                items=tuple(item.to_book() for item in self.items),
            ),
        )
