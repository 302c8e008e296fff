"""Disputes: opened from outside, by the fake's controls."""

from __future__ import annotations

from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/disputes"
EVIDENCE_DAYS = 7
CLOSED = ("won", "lost")


def open_dispute(world: World, charge: Json, reason: str, amount: int | None) -> Json:
    if charge["disputed"] or not charge["paid"]:
        raise invalid(f"Charge {charge['id']} cannot be disputed.", param="charge")
    dispute: Json = {
        "id": world.new_id("dp"),
        "object": "dispute",
        "amount": charge["amount"] if amount is None else amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": world.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {
            "due_by": world.now() + EVIDENCE_DAYS * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": charge["payment_method_details"]["card"]["brand"],
                "case_type": "chargeback",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }
    world.add("dispute", dispute)
    charge.update(dispute=dispute["id"], disputed=True)
    world.emit("charge.dispute.created", dispute)
    world.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(world: World, dispute: Json, status: str) -> Json:
    if dispute["status"] in CLOSED or status not in CLOSED:
        raise invalid(f"This dispute is {dispute['status']} and cannot become {status}.")
    with world.changing(dispute, "charge.dispute.closed"):
        dispute["status"] = status
    if status == "won":
        world.emit("charge.dispute.funds_reinstated", dispute)
    return dispute


def _close(world: World, params: Params, ids: dict[str, str]) -> Json:
    """A merchant who closes a dispute gives in."""
    return close_dispute(world, world.get("dispute", ids["id"]), "lost")


ROUTES = [
    retrieve("dispute", PATH),
    Route("POST", f"{PATH}/{{id}}/close", _close),
    listing("dispute", PATH, charge=by("charge"), payment_intent=by("payment_intent")),
]
