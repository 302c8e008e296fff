"""Payment intents."""

from __future__ import annotations

import re

from billhook_testing.fake_stripe import cards, collection, payments
from billhook_testing.fake_stripe.errors import card_declined, invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/payment_intents"


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    amount = params.integer("amount")
    if amount is None or amount < 1:
        raise invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    currency = params.required("currency").lower()
    customer = params.text("customer")
    if customer:
        world.named("customer", customer, "customer")
    chosen = params.text("payment_method")
    method = cards.payment_method(world, chosen, "payment_method") if chosen else None
    intent = payments.new_intent(
        world,
        amount,
        currency,
        customer=customer,
        description=params.text("description"),
        metadata=params.merged("metadata", {}),
        method=method,
    )
    return _confirm_now(world, intent, method, params.flag("off_session")) if params.flag("confirm") else intent


def _confirm(world: World, params: Params, ids: dict[str, str]) -> Json:
    intent = world.get("payment_intent", ids["id"])
    chosen = params.text("payment_method") or intent["payment_method"]
    method = cards.payment_method(world, chosen, "payment_method") if chosen else None
    return _confirm_now(world, intent, method, params.flag("off_session"))


def _confirm_now(world: World, intent: Json, method: Json | None, off_session: bool = False) -> Json:
    if method is None:
        message = "You cannot confirm this PaymentIntent because it's missing a payment method."
        raise invalid(message, code="payment_intent_unexpected_state")
    invoice = world.find(intent["payment_details"]["order_reference"] or "")
    if invoice is not None and invoice["status"] in ("open", "uncollectible"):
        paid = collection.collect(world, invoice, method)
    else:
        paid = payments.confirm(world, intent, method, off_session=off_session)
    if not paid and intent["status"] != "requires_action":
        raise card_declined({**intent["last_payment_error"], "payment_intent": intent})
    return intent


def _update(world: World, params: Params, ids: dict[str, str]) -> Json:
    intent = world.get("payment_intent", ids["id"])
    intent["metadata"] = params.merged("metadata", intent["metadata"])
    if "description" in params:
        intent["description"] = params.text("description")
    return intent


def _cancel(world: World, params: Params, ids: dict[str, str]) -> Json:
    intent = world.get("payment_intent", ids["id"])
    payments.cancel(world, intent, params.text("cancellation_reason"))
    return intent


_CLAUSE = re.compile(r"""metadata\[['"](\w+)['"]\]:['"]([^'"]*)['"]""")


def _search(world: World, params: Params, ids: dict[str, str]) -> Json:
    """A search for one metadata value, which is the part of Stripe's query language that the fake knows."""
    clause = _CLAUSE.fullmatch(params.required("query").strip())
    if clause is None:
        raise invalid("The fake searches for `metadata['key']:'value'` and nothing else.", param="query")
    found = [intent for intent in world.all("payment_intent") if intent["metadata"].get(clause[1]) == clause[2]]
    shown = found[::-1][: params.integer("limit", 10)]
    return {"object": "search_result", "data": shown, "has_more": False, "next_page": None, "url": f"{PATH}/search"}


ROUTES = [
    Route("GET", f"{PATH}/search", _search, "query limit page"),
    Route(
        "POST",
        PATH,
        _create,
        "amount currency customer payment_method description metadata confirm off_session payment_method_types"
        " automatic_payment_methods return_url",
    ),
    retrieve("payment_intent", PATH),
    Route("POST", f"{PATH}/{{id}}", _update, "metadata description"),
    Route("POST", f"{PATH}/{{id}}/confirm", _confirm, "payment_method off_session return_url"),
    Route("POST", f"{PATH}/{{id}}/cancel", _cancel, "cancellation_reason"),
    listing("payment_intent", PATH, customer=by("customer")),
]
