"""Changing what a subscription bills in the middle of a period, and what that costs."""

from __future__ import annotations

from billhook_testing.fake_stripe import collection, invoices, subscriptions
from billhook_testing.fake_stripe.world import Json, World


def change_item(world: World, subscription: Json, item: Json, price: Json, quantity: int, prorate: bool) -> bool:
    """Set an item's price and quantity, inside `changing`. Says whether a new billing cycle began with it."""
    old_price, old_quantity = item["price"], item["quantity"]
    if (price["id"], quantity) == (old_price["id"], old_quantity):
        return False
    recurring = ("interval", "interval_count")
    fresh_cycle = [old_price["recurring"][key] for key in recurring] != [price["recurring"][key] for key in recurring]
    running = subscription["status"] in ("active", "past_due")
    if prorate and running:
        _prorate(world, subscription, item, old_price, -old_quantity)
    item.update(price=price, plan=subscriptions.plan_of(price), quantity=quantity)
    if fresh_cycle and running:
        subscription["billing_cycle_anchor"] = world.now()
        subscriptions.move_period(world, subscription, world.now())
        return True
    if prorate and running:
        _prorate(world, subscription, item, price, quantity)
    return False


def _prorate(world: World, subscription: Json, item: Json, price: Json, quantity: int) -> None:
    """An invoice item for the rest of the period, by the second; a negative quantity gives back."""
    start, end = subscriptions.current_period(subscription)
    full = price["unit_amount"] * abs(quantity)
    share = (2 * full * (end - world.now()) + (end - start)) // (2 * (end - start))
    name = world.get("product", price["product"])["name"]
    word = "Unused" if quantity < 0 else "Remaining"
    invoices.new_item(
        world,
        subscription["customer"],
        subscription["currency"],
        -share if quantity < 0 else share,
        f"{word} time on {abs(quantity)} × {name}",
        price=price,
        quantity=abs(quantity),
        period=(world.now(), end),
        proration=True,
        parent={
            "subscription_details": {"subscription": subscription["id"], "subscription_item": item["id"]},
            "type": "subscription_details",
        },
    )


def invoice_now(world: World, subscription: Json, *, bill_items: bool) -> None:
    """Bill what a change has cost at once."""
    invoice = subscriptions.draft_invoice(
        world, subscription, "subscription_update", auto_advance=True, bill_items=bill_items
    )
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["latest_invoice"] = invoice["id"]
    world.emit("invoice.created", invoice)
    collection.finalize(world, invoice)
    if invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically":
        collection.collect(world, invoice, collection.method_for(world, invoice))
