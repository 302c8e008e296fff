"""Checkout sessions: opened by the API, completed by the fake's controls in place of a person at a browser."""

from __future__ import annotations

from billhook_testing.fake_stripe import cards, payments
from billhook_testing.fake_stripe.errors import bad_transition, card_declined, invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.resources import catalog, customers, subscriptions
from billhook_testing.fake_stripe.routes import Includes, Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/checkout/sessions"
OPEN_FOR = 24 * 3600


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    mode = params.choice("mode", ("payment", "subscription"), "payment")
    customer = params.text("customer")
    if customer:
        world.named("customer", customer, "customer")
    lines = [_line(world, line) for line in params.each("line_items")]
    if not lines:
        raise invalid("Missing required param: line_items.", param="line_items", code="parameter_missing")
    if any((line["price"]["recurring"] is None) == (mode == "subscription") for line in lines):
        raise invalid("A subscription's lines are recurring prices, a payment's are not.", param="line_items")
    session = _new(world, mode, customer, lines, params)
    for line in lines:
        world.add("item", line, under=session["id"])
    # What completing it will begin with: no part of the object, so it is kept beside it.
    world.add("checkout", {"id": f"checkout:{session['id']}", "data": params.within("subscription_data").values})
    world.schedule(session["expires_at"], "close_session", session["id"])
    return session


def _line(world: World, line: Params) -> Json:
    if "price_data" in line:
        price = catalog.price_from(world, line.within("price_data"))
    else:
        price = world.named("price", line.required("price"), line.path("price"))
    quantity = line.integer("quantity", 1)
    amount = price["unit_amount"] * quantity
    return {
        "id": world.new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": world.get("product", price["product"])["name"],
        "metadata": {},
        "price": price,
        "quantity": quantity,
    }


def _new(world: World, mode: str, customer: str | None, lines: list[Json], params: Params) -> Json:
    session_id = f"cs_test_{world.new_id('cs').removeprefix('cs_')}"
    total = sum(line["amount_total"] for line in lines)
    session: Json = {
        "id": session_id,
        "object": "checkout.session",
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": params.text("cancel_url"),
        "client_reference_id": params.text("client_reference_id"),
        "client_secret": None,
        "consent": None,
        "consent_collection": None,
        "created": world.now(),
        "currency": lines[0]["currency"],
        "custom_fields": [],
        "customer": customer,
        "customer_creation": None if customer else "always",
        "customer_details": None,
        "customer_email": params.text("customer_email"),
        "discounts": [],
        "expires_at": world.now() + OPEN_FOR,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "metadata": params.merged("metadata", {}),
        "mode": mode,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "always",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "recovered_from": None,
        "setup_intent": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": params.text("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted",
        "url": f"https://checkout.stripe.invalid/c/pay/{session_id}",
    }
    return world.add("checkout.session", session)


def complete(world: World, session: Json, card: str) -> Json:
    """Do what the customer would: give a card and pay. A declined card leaves the session open."""
    if session["status"] != "open":
        raise bad_transition(f"This session is {session['status']}.")
    known = session["customer"]
    customer = world.get("customer", known) if known else _new_customer(world, session)
    method = cards.attach(world, card, customer["id"])
    session["customer"] = customer["id"]
    with world.changing(session, "checkout.session.completed"):
        if session["mode"] == "payment":
            _pay(world, session, customer, method)
        else:
            _subscribe(world, session, customer, method)
        session.update(
            customer_details={
                "address": customer["address"],
                "email": customer["email"],
                "name": customer["name"],
                "phone": customer["phone"],
                "tax_exempt": customer["tax_exempt"],
                "tax_ids": [],
            },
            payment_status="no_payment_required" if session["amount_total"] == 0 else "paid",
            status="complete",
            url=None,
        )
    return session


def _new_customer(world: World, session: Json) -> Json:
    customer = customers.new_customer(world, email=session["customer_email"] or "buyer@example.com")
    world.emit("customer.created", customer)
    return customer


def _pay(world: World, session: Json, customer: Json, method: Json) -> None:
    intent = payments.new_intent(
        world,
        session["amount_total"],
        session["currency"],
        customer=customer["id"],
        method=method,
    )
    if not payments.confirm(world, intent, method):
        raise card_declined(intent["last_payment_error"])
    session["payment_intent"] = intent["id"]


def _subscribe(world: World, session: Json, customer: Json, method: Json) -> None:
    data = world.get("checkout", f"checkout:{session['id']}")["data"]
    values = {**data, "default_payment_method": method["id"], "payment_behavior": "error_if_incomplete"}
    lines = world.under("item", session["id"])
    items = [(line["price"], line["quantity"]) for line in lines]
    subscription = subscriptions.begin_from(world, customer, Params(values), items)
    session.update(subscription=subscription["id"], invoice=subscription["latest_invoice"])


def _expire(world: World, params: Params, ids: dict[str, str]) -> Json:
    session = world.get("checkout.session", ids["id"])
    if session["status"] != "open":
        raise bad_transition(f"Only open sessions can be expired; this one is {session['status']}.")
    with world.changing(session, "checkout.session.expired"):
        session.update(status="expired", url=None)
    return session


def _line_items(world: World, session: Json) -> Json:
    lines = world.under("item", session["id"])
    return {"object": "list", "data": lines, "has_more": False, "url": f"{PATH}/{session['id']}/line_items"}


ROUTES = [
    Route(
        "POST",
        PATH,
        _create,
        "mode customer customer_email line_items success_url cancel_url client_reference_id metadata subscription_data",
    ),
    retrieve("checkout.session", PATH),
    Route("POST", f"{PATH}/{{id}}/expire", _expire),
    Route(
        "GET",
        f"{PATH}/{{id}}/line_items",
        lambda world, params, ids: _line_items(world, world.get("checkout.session", ids["id"])),
        "limit",
    ),
    listing(
        "checkout.session",
        PATH,
        customer=by("customer"),
        payment_intent=by("payment_intent"),
        subscription=by("subscription"),
        status=by("status"),
    ),
]
INCLUDES: Includes = {("checkout.session", "line_items"): _line_items}
