"""Refunds of charges, whole or in part."""

from __future__ import annotations

from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/refunds"


def refund_charge(world: World, charge: Json, amount: int | None, reason: str | None = None, **fields: Json) -> Json:
    """Give back `amount`, or all that is left; refuse more than that."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if not charge["paid"]:
        raise invalid(f"Charge {charge['id']} was not paid.", param="charge")
    if left == 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    given = left if amount is None else amount
    if not 0 < given <= left:
        raise invalid(f"Refund amount ({given}) is greater than unrefunded amount ({left}).", param="amount")
    refund: Json = {
        "id": world.new_id("re"),
        "object": "refund",
        "amount": given,
        "balance_transaction": world.new_id("txn"),
        "charge": charge["id"],
        "created": world.now(),
        "currency": charge["currency"],
        "destination_details": {
            "card": {
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
        **fields,
    }
    world.add("refund", refund, under=charge["id"])
    world.emit("refund.created", refund)
    before = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["amount_refunded"] += given
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    # The one event that carries previous attributes without being called `updated`.
    world.emit("charge.refunded", charge, {name: old for name, old in before.items() if charge[name] != old})
    return refund


def charge_of(world: World, params: Params) -> Json:
    if charge_id := params.text("charge"):
        return world.named("charge", charge_id, "charge")
    intent = world.named("payment_intent", params.required("payment_intent"), "payment_intent")
    if intent["status"] != "succeeded":
        raise invalid("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
    return world.get("charge", intent["latest_charge"])


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    return refund_charge(
        world,
        charge_of(world, params),
        params.integer("amount"),
        params.text("reason"),
        metadata=params.merged("metadata", {}),
    )


ROUTES = [
    Route("POST", PATH, _create, "charge payment_intent amount reason metadata"),
    retrieve("refund", PATH),
    listing("refund", PATH, charge=by("charge"), payment_intent=by("payment_intent")),
]
