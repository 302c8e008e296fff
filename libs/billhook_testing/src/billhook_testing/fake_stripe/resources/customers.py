"""Customers."""

from __future__ import annotations

from typing import Any

from billhook_testing.fake_stripe import cards, standing
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import Route, by, listing
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/customers"
TEXTS = ("description", "email", "name", "phone", "tax_exempt")
FIELDS = f"{' '.join(TEXTS)} address invoice_prefix invoice_settings metadata shipping"
ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")


def new_customer(world: World, **fields: Any) -> Json:
    customer: Json = {
        "id": world.new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": world.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": world.token("invoice_prefix", 8),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
        **fields,
    }
    return world.add("customer", customer)


def _apply(world: World, customer: Json, params: Params) -> None:
    for name in (*TEXTS, "invoice_prefix"):
        if name in params:
            customer[name] = params.text(name) or ("none" if name == "tax_exempt" else None)
    if "address" in params:
        address = params.within("address")
        customer["address"] = {name: address.text(name) for name in ADDRESS} if address.values else None
    if "shipping" in params:
        customer["shipping"] = params.values["shipping"] or None
    settings = params.within("invoice_settings")
    if "default_payment_method" in settings:
        chosen = settings.text("default_payment_method")
        param = "invoice_settings[default_payment_method]"
        method = cards.payment_method(world, chosen, param) if chosen else None
        customer["invoice_settings"]["default_payment_method"] = method["id"] if method else None
    if "footer" in settings:
        customer["invoice_settings"]["footer"] = settings.text("footer")
    customer["metadata"] = params.merged("metadata", customer["metadata"])


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = new_customer(world)
    if held := params.text("payment_method"):
        cards.attach(world, held, customer["id"])
    _apply(world, customer, params)
    world.emit("customer.created", customer)
    return customer


def _retrieve(world: World, params: Params, ids: dict[str, str]) -> Json:
    gone = world.find(f"deleted:{ids['id']}")
    return gone["answer"] if gone else world.get("customer", ids["id"])


def _update(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.get("customer", ids["id"])
    with world.changing(customer, "customer.updated"):
        _apply(world, customer, params)
    return customer


def _delete(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.get("customer", ids["id"])
    for subscription in world.all("subscription"):
        over = subscription["status"] in ("canceled", "incomplete_expired")
        if subscription["customer"] == customer["id"] and not over:
            standing.end(world, subscription)
    world.remove("customer", customer["id"])
    answer = {"id": customer["id"], "object": "customer", "deleted": True}
    world.add("deleted", {"id": f"deleted:{customer['id']}", "answer": answer})
    world.emit("customer.deleted", customer)
    return answer


ROUTES = [
    Route("POST", PATH, _create, f"{FIELDS} payment_method"),
    Route("GET", f"{PATH}/{{id}}", _retrieve),
    Route("POST", f"{PATH}/{{id}}", _update, FIELDS),
    Route("DELETE", f"{PATH}/{{id}}", _delete),
    listing("customer", PATH, email=by("email")),
]
