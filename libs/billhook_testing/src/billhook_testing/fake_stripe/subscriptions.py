"""A subscription's life: begun, renewed at each period's end, changed with proration, ended."""

from __future__ import annotations

from typing import Any

from billhook_testing.fake_stripe import collection, invoices, standing
from billhook_testing.fake_stripe.clock import period_end
from billhook_testing.fake_stripe.errors import card_declined, invalid
from billhook_testing.fake_stripe.world import Json, World

TRIAL_WARNING = 3 * invoices.DAY
INCOMPLETE_FOR = 23 * 3600
"""How long a first payment may be outstanding before the subscription expires."""


def begin(
    world: World,
    customer: Json,
    items: list[tuple[Json, int]],
    *,
    trial_end: int | None = None,
    behavior: str = "allow_incomplete",
    collection_method: str = "charge_automatically",
    days_until_due: int | None = None,
    **fields: Any,
) -> Json:
    """Create a subscription and its first invoice, and collect that at once."""
    now = world.now()
    subscription = _new(world, customer, items, trial_end, collection_method, days_until_due, fields)
    world.schedule(current_period(subscription)[1], "renew", subscription["id"])
    if subscription["cancel_at"]:
        world.schedule(subscription["cancel_at"], "cancel", subscription["id"])
    invoice = draft_invoice(world, subscription, "subscription_create", auto_advance=True)
    subscription["latest_invoice"] = invoice["id"]
    world.emit("customer.subscription.created", subscription)
    world.emit("invoice.created", invoice)
    if trial_end is not None:
        world.schedule(max(now, trial_end - TRIAL_WARNING), "warn", subscription["id"])
    if collection_method == "send_invoice" and trial_end is None:
        return subscription
    collection.finalize(world, invoice, announce=("invoice.finalized",))
    if invoice["status"] == "open" and behavior != "default_incomplete":
        collection.collect(world, invoice, collection.method_for(world, invoice))
    if subscription["status"] == "incomplete":
        if behavior == "error_if_incomplete":
            _take_back(world, subscription, invoice)
        world.schedule(now + INCOMPLETE_FOR, "expire", subscription["id"])
    return subscription


def _take_back(world: World, subscription: Json, invoice: Json) -> None:
    """The caller wanted a paid subscription or none: end this one, and answer with the card's refusal."""
    found = collection.open_payment(world, invoice)
    error = found[1]["last_payment_error"] if found else None
    expire(world, subscription)
    raise card_declined(error) if error else invalid("This customer has no default payment method.")


def _new(
    world: World,
    customer: Json,
    items: list[tuple[Json, int]],
    trial_end: int | None,
    collection_method: str,
    days_until_due: int | None,
    fields: dict[str, Any],
) -> Json:
    now = world.now()
    subscription_id = world.new_id("sub")
    status = "trialing" if trial_end else "active" if collection_method == "send_invoice" else "incomplete"
    subscription: Json = {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or now,
        "billing_cycle_anchor_config": None,
        "billing_mode": {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": now,
        },
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": collection_method,
        "created": now,
        "currency": items[0][0]["currency"],
        "customer": customer["id"],
        "days_until_due": days_until_due,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {"object": "list", "data": [], "has_more": False, "total_count": 0},
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": now,
        "status": status,
        "test_clock": None,
        "transfer_data": None,
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": now if trial_end else None,
        **fields,
    }
    subscription["items"]["url"] = f"/v1/subscription_items?subscription={subscription_id}"
    end = trial_end or _period_after(now, now, items[0][0])
    for price, quantity in items:
        add_item(world, subscription, price, quantity, (now, end))
    if subscription["cancel_at_period_end"]:
        subscription.update(cancel_at=end, canceled_at=now)
    return world.add("subscription", subscription)


def add_item(world: World, subscription: Json, price: Json, quantity: int, period: tuple[int, int]) -> Json:
    item = {
        "id": world.new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": world.now(),
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "plan": plan_of(price),
        "price": price,
        "quantity": quantity,
        "subscription": subscription["id"],
        "tax_rates": [],
    }
    subscription["items"]["data"].append(item)
    subscription["items"]["total_count"] = len(subscription["items"]["data"])
    return item


def plan_of(price: Json) -> Json:
    """The older name of a price, which subscription items still carry beside it."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": None,
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": price["recurring"]["usage_type"],
    }


def current_period(subscription: Json) -> tuple[int, int]:
    first = subscription["items"]["data"][0]
    return first["current_period_start"], first["current_period_end"]


def _period_after(anchor: int, start: int, price: Json) -> int:
    """The first period end after `start`, counted from the anchor and never from a clamped date."""
    recurring, k = price["recurring"], 1
    while (end := period_end(anchor, recurring["interval"], recurring["interval_count"], k)) <= start:
        k += 1
    return end


def draft_invoice(
    world: World, subscription: Json, reason: str, *, auto_advance: bool, bill_items: bool = True
) -> Json:
    """A draft with a line for each item's current period, and whatever waited for the next invoice."""
    customer = world.get("customer", subscription["customer"])
    invoice = invoices.new_draft(
        world,
        customer,
        subscription["currency"],
        auto_advance=auto_advance,
        collection_method=subscription["collection_method"],
        days_until_due=subscription["days_until_due"],
        subscription=subscription,
        reason=reason,
    )
    invoices.take_pending(world, invoice, subscription["id"])
    for item in subscription["items"]["data"] if bill_items else ():
        _bill(world, subscription, item, invoice)
    invoices.add_up(world, invoice)
    return invoice


def _bill(world: World, subscription: Json, item: Json, invoice: Json) -> None:
    trial = subscription["status"] == "trialing"
    name = world.get("product", item["price"]["product"])["name"]
    origin = {
        "invoice_item": None,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    invoices.add_line(
        world,
        invoice,
        0 if trial else item["price"]["unit_amount"] * item["quantity"],
        f"{'Free trial for ' if trial else ''}{item['quantity']} × {name}",
        {
            "invoice_item_details": None,
            "subscription_item_details": origin,
            "type": "subscription_item_details",
        },
        quantity=item["quantity"],
        period=(item["current_period_start"], item["current_period_end"]),
        price=item["price"],
    )


# duties of time


def renew(world: World, subscription: Json, at: int) -> None:
    """A period is over: the next one begins, and its invoice is drafted, to be finalized a little later."""
    start, end = current_period(subscription)
    if end != at or subscription["status"] not in ("trialing", "active", "past_due", "unpaid"):
        return
    if subscription["cancel_at"] and subscription["cancel_at"] <= at:
        standing.end(world, subscription, "cancellation_requested")
        return
    with world.changing(subscription, "customer.subscription.updated"):
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        move_period(world, subscription, at)
        advances = subscription["status"] != "unpaid"
        invoice = draft_invoice(world, subscription, "subscription_cycle", auto_advance=advances)
        invoice.update(period_start=start, period_end=end)
        subscription["latest_invoice"] = invoice["id"]
        world.emit("invoice.created", invoice)


def move_period(world: World, subscription: Json, start: int) -> None:
    items = subscription["items"]["data"]
    end = _period_after(subscription["billing_cycle_anchor"], start, items[0]["price"])
    for item in items:
        item.update(current_period_start=start, current_period_end=end)
    world.schedule(end, "renew", subscription["id"])


def warn(world: World, subscription: Json) -> None:
    if subscription["status"] == "trialing":
        world.emit("customer.subscription.trial_will_end", subscription)


def expire(world: World, subscription: Json) -> None:
    """The first payment never came."""
    if subscription["status"] != "incomplete":
        return
    with world.changing(subscription, "customer.subscription.updated"):
        subscription.update(ended_at=world.now(), status="incomplete_expired")
    invoice = world.get("invoice", subscription["latest_invoice"])
    if invoice["status"] == "open":
        collection.void(world, invoice)
