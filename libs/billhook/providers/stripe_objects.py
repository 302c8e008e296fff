"""Stripe's objects, as far as billhook reads them: catalogue, customers, subscriptions, checkouts.

Stripe changed its shapes with API version 2025-03-31.basil. Which shape an object has is told by the fields it has,
never by a version string: endpoints, recordings and API answers name different versions for the same shape.
Every class says with `to_book()` what the book holds of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Protocol, overload

import msgspec
from msgspec import Meta

from billhook.decoding import convert
from billhook.providers import reading
from billhook.rules.book.catalog import Price as BookPrice
from billhook.rules.book.catalog import Product as BookProduct
from billhook.rules.book.checkout import CheckoutSession as BookCheckoutSession
from billhook.rules.book.customer import Address
from billhook.rules.book.customer import Customer as BookCustomer
from billhook.rules.book.objects import Amount, BookObject, Count, Ref
from billhook.rules.book.subscription import ScheduledItem as BookScheduledItem
from billhook.rules.book.subscription import SchedulePhase
from billhook.rules.book.subscription import Subscription as BookSubscription
from billhook.rules.book.subscription import SubscriptionItem as BookSubscriptionItem
from billhook.rules.book.subscription import SubscriptionSchedule as BookSubscriptionSchedule
from billhook.rules.storable import storable

Epoch = Annotated[int, Meta(ge=0, le=253_370_764_800)]
"""Seconds since 1970, before the year 9999: what every database's session time zone can still show."""

Currency = Annotated[str, Meta(pattern=r"^[a-z]{3}\Z")]


def at(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class Expanded(msgspec.Struct):
    """An object in the place of its id: any caller of the API, and any endpoint's owner, may have asked for it."""

    id: Ref


Expandable = Ref | Expanded | None


@overload
def id_of(value: str | Expanded) -> str: ...
@overload
def id_of(value: str | Expanded | None) -> str | None: ...
def id_of(value: str | Expanded | None) -> str | None:
    return value.id if isinstance(value, Expanded) else value


class StripeObject(msgspec.Struct, kw_only=True):
    """What all have. An object of which only its id and `deleted` are left is read by the same class."""

    id: Ref
    created: Epoch | None = None
    deleted: bool = False
    metadata: dict[str, str] | None = None

    def shared(self) -> dict[str, Any]:
        return {
            "external_id": self.id,
            "created": at(self.created),
            "deleted": self.deleted,
            "metadata": self.metadata or {},
        }

    def carried(self) -> tuple[BookObject, ...]:
        """Other objects that come whole with this one."""
        return ()


class Readable(Protocol):
    """An object of Stripe's that the book holds: a `StripeObject` that says how."""

    deleted: bool

    def to_book(self) -> BookObject: ...
    def carried(self) -> tuple[BookObject, ...]: ...


def entries(value: Readable, what: str) -> tuple[BookObject, ...]:
    """The object as the book holds it, and after it what came whole inside it. `what` names it in an error."""
    return tuple(reading.whole(found, what) for found in (value.to_book(), *value.carried()))


def read(kind: type[Readable], value: Any, what: str) -> BookObject:
    """An object out of an API answer. Raises `Unprocessable`."""
    try:
        found = convert(value, kind)
    except msgspec.ValidationError as error:
        raise reading.misunderstood(what, error) from None
    return storable(entries(found, what)[0], what)


class InvoiceSettings(msgspec.Struct):
    default_payment_method: Expandable = None


class Customer(StripeObject, kw_only=True):
    name: str | None = None
    email: str | None = None
    phone: str | None = None
    currency: Currency | None = None
    address: Address | None = None
    tax_exempt: str | None = None
    default_source: Expandable = None
    invoice_settings: InvoiceSettings | None = None

    def to_book(self) -> BookObject:
        chosen = self.invoice_settings or InvoiceSettings()
        return BookCustomer(
            **self.shared(),
            name=self.name,
            email=self.email,
            phone=self.phone,
            currency=self.currency,
            address=self.address,
            tax_exempt=self.tax_exempt,
            # A source is what methods were before 2018; Stripe charges it where no method is the default.
            default_payment_method=id_of(chosen.default_payment_method) or id_of(self.default_source),
        )


class Product(StripeObject, kw_only=True):
    name: str | None = None
    description: str | None = None
    active: bool = True

    def to_book(self) -> BookObject:
        return BookProduct(**self.shared(), name=self.name, description=self.description, active=self.active)


class Recurring(msgspec.Struct):
    interval: str
    interval_count: Count = 1
    usage_type: str | None = None


class Price(StripeObject, kw_only=True):
    product: Expandable = None
    currency: Currency | None = None
    unit_amount: Amount | None = None
    unit_amount_decimal: str | None = None
    recurring: Recurring | None = None
    active: bool = True
    nickname: str | None = None

    def to_book(self) -> BookObject:
        recurring = self.recurring
        return BookPrice(
            **self.shared(),
            product=id_of(self.product),
            currency=self.currency,
            unit_amount=self.unit_amount,
            unit_amount_decimal=self.unit_amount_decimal,
            interval=recurring.interval if recurring else None,
            interval_count=recurring.interval_count if recurring else None,
            usage_type=recurring.usage_type if recurring else None,
            active=self.active,
            nickname=self.nickname,
        )


class Plan(StripeObject, kw_only=True):
    """A recurring price under its name before 2020; Stripe still sends both for one object, with one id."""

    product: Expandable = None
    currency: Currency | None = None
    amount: Amount | None = None
    amount_decimal: str | None = None
    interval: str | None = None
    interval_count: Count | None = None
    usage_type: str | None = None
    active: bool = True
    nickname: str | None = None

    def to_book(self) -> BookObject:
        return BookPrice(
            **self.shared(),
            product=id_of(self.product),
            currency=self.currency,
            unit_amount=self.amount,
            unit_amount_decimal=self.amount_decimal,
            interval=self.interval,
            interval_count=self.interval_count,
            usage_type=self.usage_type,
            active=self.active,
            nickname=self.nickname,
        )


class BoughtPrice(msgspec.Struct):
    """A price or a plan inside an item or a line."""

    id: Ref
    product: Expandable = None
    unit_amount: Amount | None = None
    unit_amount_decimal: str | None = None
    amount: Amount | None = None
    amount_decimal: str | None = None


class SubscriptionItem(msgspec.Struct, kw_only=True):
    id: Ref
    price: BoughtPrice | None = None
    plan: BoughtPrice | None = None
    quantity: Count | None = None
    current_period_start: Epoch | None = None
    current_period_end: Epoch | None = None

    def to_book(self) -> BookSubscriptionItem:
        price = self.price or self.plan
        return BookSubscriptionItem(
            external_id=self.id,
            price=price.id if price else None,
            product=id_of(price.product) if price else None,
            quantity=self.quantity,
        )


class SubscriptionItems(msgspec.Struct):
    data: list[SubscriptionItem] = []
    has_more: bool = False


class PauseCollection(msgspec.Struct):
    behavior: str
    resumes_at: Epoch | None = None


class Subscription(StripeObject, kw_only=True):
    customer: Expandable = None
    customer_account: Ref | None = None
    status: str
    currency: Currency | None = None
    current_period_start: Epoch | None = None
    current_period_end: Epoch | None = None
    cancel_at_period_end: bool = False
    cancel_at: Epoch | None = None
    canceled_at: Epoch | None = None
    ended_at: Epoch | None = None
    trial_end: Epoch | None = None
    latest_invoice: Expandable = None
    default_payment_method: Expandable = None
    schedule: Expandable = None
    pause_collection: PauseCollection | None = None
    items: SubscriptionItems

    def period(self) -> tuple[datetime | None, datetime | None]:
        """Since basil every item has its own: the one that ends first is when the subscription is billed next."""
        if self.current_period_end is not None:
            return at(self.current_period_start), at(self.current_period_end)
        billed = [item for item in self.items.data if item.current_period_end is not None]
        if not billed:
            return None, None
        first = min(billed, key=lambda item: item.current_period_end or 0)
        return at(first.current_period_start), at(first.current_period_end)

    def to_book(self) -> BookObject:
        start, end = self.period()
        paused = self.pause_collection
        return BookSubscription(
            **self.shared(),
            customer=id_of(self.customer) or self.customer_account,
            status=self.status,
            currency=self.currency,
            current_period_start=start,
            current_period_end=end,
            cancel_at_period_end=self.cancel_at_period_end,
            cancel_at=at(self.cancel_at),
            canceled_at=at(self.canceled_at),
            ended_at=at(self.ended_at),
            trial_end=at(self.trial_end),
            latest_invoice=id_of(self.latest_invoice),
            default_payment_method=id_of(self.default_payment_method),
            items=tuple(item.to_book() for item in self.items.data),
            items_complete=not self.items.has_more,
            schedule=id_of(self.schedule),
            collection_paused=paused.behavior if paused else None,
            collection_resumes_at=at(paused.resumes_at) if paused else None,
        )


class ScheduledItem(msgspec.Struct):
    price: Expandable = None
    plan: Expandable = None
    quantity: Count | None = None


class Phase(msgspec.Struct):
    start_date: Epoch | None = None
    end_date: Epoch | None = None
    items: list[ScheduledItem] = []
    plans: list[ScheduledItem] = []
    """What `items` were called before 2020."""

    def to_book(self) -> SchedulePhase:
        return SchedulePhase(
            start=at(self.start_date),
            end=at(self.end_date),
            items=tuple(
                BookScheduledItem(price=id_of(item.price or item.plan), quantity=item.quantity)
                for item in self.items or self.plans
            ),
        )


class SubscriptionSchedule(StripeObject, kw_only=True):
    customer: Expandable = None
    customer_account: Ref | None = None
    subscription: Expandable = None
    released_subscription: Expandable = None
    status: str
    end_behavior: str | None = None
    current_phase: Phase | None = None
    phases: list[Phase] = []
    canceled_at: Epoch | None = None
    completed_at: Epoch | None = None
    released_at: Epoch | None = None

    def to_book(self) -> BookObject:
        current = self.current_phase or Phase()
        return BookSubscriptionSchedule(
            **self.shared(),
            customer=id_of(self.customer) or self.customer_account,
            subscription=id_of(self.subscription) or id_of(self.released_subscription),
            status=self.status,
            end_behavior=self.end_behavior,
            current_phase_start=at(current.start_date),
            current_phase_end=at(current.end_date),
            phases=tuple(phase.to_book() for phase in self.phases),
            canceled_at=at(self.canceled_at),
            completed_at=at(self.completed_at),
            released_at=at(self.released_at),
        )


class TaxId(msgspec.Struct):
    value: str | None = None


class Shipping(msgspec.Struct):
    name: str | None = None
    address: Address | None = None


class CollectedInformation(msgspec.Struct):
    shipping_details: Shipping | None = None


class CustomerDetails(msgspec.Struct):
    name: str | None = None
    email: str | None = None
    address: Address | None = None
    tax_ids: list[TaxId] | None = None


class TotalDetails(msgspec.Struct):
    amount_tax: Amount | None = None


class CheckoutSession(StripeObject, kw_only=True):
    customer: Expandable = None
    customer_account: Ref | None = None
    subscription: Expandable = None
    payment_intent: Expandable = None
    invoice: Expandable = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    currency: Currency | None = None
    amount_total: Amount | None = None
    client_reference_id: str | None = None
    customer_details: CustomerDetails | None = None
    collected_information: CollectedInformation | None = None
    shipping_details: Shipping | None = None
    """Where it was said before 2025-03-31.basil."""
    total_details: TotalDetails | None = None

    def to_book(self) -> BookObject:
        details, totals = self.customer_details or CustomerDetails(), self.total_details or TotalDetails()
        collected = self.collected_information or CollectedInformation()
        shipping = collected.shipping_details or self.shipping_details or Shipping()
        return BookCheckoutSession(
            **self.shared(),
            customer=id_of(self.customer) or self.customer_account,
            subscription=id_of(self.subscription),
            payment=id_of(self.payment_intent),
            invoice=id_of(self.invoice),
            mode=self.mode,
            status=self.status,
            payment_status=self.payment_status,
            currency=self.currency,
            amount_total=self.amount_total,
            amount_tax=totals.amount_tax,
            client_reference_id=self.client_reference_id,
            customer_name=details.name,
            customer_email=details.email,
            customer_address=details.address,
            customer_tax_ids=tuple(known.value for known in details.tax_ids or () if known.value) or None,
            shipping_name=shipping.name,
            shipping_address=shipping.address,
        )
