"""Subscriptions."""

from __future__ import annotations

from billhook_testing.fake_stripe import cards, proration, standing, subscriptions
from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.invoices import DAY
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import PAGING, Route, by, listing, page, retrieve, within
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/subscriptions"
BEHAVIORS = ("allow_incomplete", "default_incomplete", "error_if_incomplete")
PRORATIONS = ("create_prorations", "always_invoice", "none")
FIELDS = (
    "cancel_at cancel_at_period_end default_payment_method description items metadata off_session"
    " pause_collection payment_behavior proration_behavior"
)


def _price(world: World, item: Params) -> Json:
    price = world.named("price", item.required("price"), item.path("price"))
    if price["recurring"] is None:
        raise invalid("The price must be recurring for a subscription.", param=item.path("price"))
    return price


def _same(items: list[tuple[Json, int]]) -> None:
    def kind(price: Json) -> tuple[str, str, int]:
        return price["currency"], price["recurring"]["interval"], price["recurring"]["interval_count"]

    if len({kind(price) for price, _ in items}) > 1:
        raise invalid("All items of a subscription must share one currency and one interval.", param="items")


def begin_from(world: World, customer: Json, params: Params, items: list[tuple[Json, int]]) -> Json:
    """Begin a subscription as the parameters say; checkout sends the same ones."""
    if not items:
        raise invalid("Missing required param: items.", param="items", code="parameter_missing")
    _same(items)
    days, ends = params.integer("trial_period_days"), params.text("trial_end")
    trial_end = world.now() + days * DAY if days else params.integer("trial_end") if ends and ends != "now" else None
    chosen = params.text("default_payment_method")
    method = cards.payment_method(world, chosen, "default_payment_method")["id"] if chosen else None
    collection = params.choice("collection_method", ("charge_automatically", "send_invoice"), "charge_automatically")
    behavior = params.choice("payment_behavior", BEHAVIORS, BEHAVIORS[0])
    held = method or customer["invoice_settings"]["default_payment_method"]
    if collection == "charge_automatically" and behavior != "default_incomplete" and not (held or trial_end):
        message = "This customer has no attached payment source or default payment method."
        raise invalid(message, code="resource_missing")
    return subscriptions.begin(
        world,
        customer,
        items,
        trial_end=trial_end,
        behavior=behavior,
        collection_method=collection,
        days_until_due=params.integer("days_until_due"),
        default_payment_method=method,
        description=params.text("description"),
        metadata=params.merged("metadata", {}),
        cancel_at_period_end=params.flag("cancel_at_period_end"),
        cancel_at=params.integer("cancel_at"),
    )


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.named("customer", params.required("customer"), "customer")
    items = [(_price(world, item), item.integer("quantity", 1)) for item in params.each("items")]
    return begin_from(world, customer, params, items)


def _update(world: World, params: Params, ids: dict[str, str]) -> Json:
    subscription = world.get("subscription", ids["id"])
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise invalid("A canceled subscription can only update its cancellation_details and metadata.")
    behavior = params.choice("proration_behavior", PRORATIONS, PRORATIONS[0])
    fresh_cycle = False
    with world.changing(subscription, "customer.subscription.updated"):
        _apply(world, subscription, params)
        for change in params.each("items"):
            fresh_cycle |= _change(world, subscription, change, prorate=behavior != "none")
    if fresh_cycle or ("items" in params and behavior == "always_invoice"):
        proration.invoice_now(world, subscription, bill_items=fresh_cycle)
    return subscription


def _apply(world: World, subscription: Json, params: Params) -> None:
    if chosen := params.text("default_payment_method"):
        method = cards.payment_method(world, chosen, "default_payment_method")
        subscription["default_payment_method"] = method["id"]
    if "description" in params:
        subscription["description"] = params.text("description")
    subscription["metadata"] = params.merged("metadata", subscription["metadata"])
    if "pause_collection" in params:
        behavior = params.within("pause_collection").text("behavior")
        subscription["pause_collection"] = {"behavior": behavior, "resumes_at": None} if behavior else None
    if "cancel_at" in params:
        at = params.integer("cancel_at")
        subscription.update(cancel_at=at, canceled_at=world.now() if at else None)
        if at:
            world.schedule(at, "cancel", subscription["id"])
    if "cancel_at_period_end" in params:
        ends = params.flag("cancel_at_period_end")
        subscription.update(
            cancel_at_period_end=ends,
            cancel_at=subscriptions.current_period(subscription)[1] if ends else None,
            canceled_at=world.now() if ends else None,
        )
        subscription["cancellation_details"]["reason"] = "cancellation_requested" if ends else None


def _change(world: World, subscription: Json, change: Params, *, prorate: bool) -> bool:
    items = subscription["items"]["data"]
    item_id = change.text("id")
    if item_id is None:
        price = _price(world, change)
        _same([(item["price"], 1) for item in items] + [(price, 1)])
        period = subscriptions.current_period(subscription)
        item = subscriptions.add_item(world, subscription, price, 0, period)
        return proration.change_item(world, subscription, item, price, change.integer("quantity", 1), prorate)
    found = [item for item in items if item["id"] == item_id]
    if not found:
        raise invalid(f"No such subscription item: '{item_id}'", param=change.path("id"), code="resource_missing")
    item = found[0]
    if change.flag("deleted"):
        if len(items) == 1:
            raise invalid("A subscription must have at least one active plan.", param=change.path("deleted"))
        proration.change_item(world, subscription, item, item["price"], 0, prorate)
        items.remove(item)
        subscription["items"]["total_count"] = len(items)
        return False
    price = _price(world, change) if "price" in change else item["price"]
    quantity = change.integer("quantity", item["quantity"])
    return proration.change_item(world, subscription, item, price, quantity, prorate)


def _cancel(world: World, params: Params, ids: dict[str, str]) -> Json:
    subscription = world.get("subscription", ids["id"])
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise invalid(f"No such subscription: '{subscription['id']}'", param="id", code="resource_missing", status=404)
    standing.end(world, subscription, "cancellation_requested")
    return subscription


def _list(world: World, params: Params, ids: dict[str, str]) -> Json:
    """Canceled ones are left out unless asked for by `status=canceled` or `all`."""
    status, customer, price = params.text("status"), params.text("customer"), params.text("price")
    found = [
        subscription
        for subscription in reversed(world.all("subscription"))
        if (
            status == "all" or subscription["status"] == status or (not status and subscription["status"] != "canceled")
        )
        and customer in (None, subscription["customer"])
        and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))
        and within(params, "created", subscription["created"])
    ]
    return page(found, params, PATH)


def _list_items(world: World, params: Params, ids: dict[str, str]) -> Json:
    """In the order in which they were added, unlike what other lists do."""
    items = world.named("subscription", params.required("subscription"), "subscription")["items"]["data"]
    return page(items, params, "/v1/subscription_items")


ROUTES = [
    listing("subscription_schedule", "/v1/subscription_schedules", customer=by("customer")),  # there are none
    Route("GET", "/v1/subscription_items", _list_items, f"{PAGING} subscription"),
    Route(
        "POST",
        PATH,
        _create,
        f"{FIELDS} customer collection_method days_until_due trial_end trial_period_days payment_settings",
    ),
    retrieve("subscription", PATH),
    Route("POST", f"{PATH}/{{id}}", _update, FIELDS),
    Route("DELETE", f"{PATH}/{{id}}", _cancel),
    Route("GET", PATH, _list, f"{PAGING} status customer price"),
]
