"""Payment methods: the test cards, attached to customers."""

from __future__ import annotations

from billhook_testing.fake_stripe import cards
from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import PAGING, Route, by, listing, page, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/payment_methods"


def _attach(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.named("customer", params.required("customer"), "customer")
    return cards.attach(world, ids["id"], customer["id"])


def _detach(world: World, params: Params, ids: dict[str, str]) -> Json:
    method = world.get("payment_method", ids["id"])
    if method["customer"] is None:
        raise invalid("The payment method you provided is not attached to a customer.")
    customer = world.find(method["customer"])
    with world.changing(method, "payment_method.detached"):
        method["customer"] = None
    if customer and customer["invoice_settings"]["default_payment_method"] == method["id"]:
        with world.changing(customer, "customer.updated"):
            customer["invoice_settings"]["default_payment_method"] = None
    return method


def _of_customer(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.get("customer", ids["id"])
    held = [method for method in reversed(world.all("payment_method")) if method["customer"] == customer["id"]]
    return page(held, params, f"/v1/customers/{customer['id']}/payment_methods")


ROUTES = [
    retrieve("payment_method", PATH),
    Route("POST", f"{PATH}/{{id}}/attach", _attach, "customer"),
    Route("POST", f"{PATH}/{{id}}/detach", _detach),
    listing("payment_method", PATH, customer=by("customer"), type=by("type")),
    Route("GET", "/v1/customers/{id}/payment_methods", _of_customer, f"{PAGING} type"),
]
