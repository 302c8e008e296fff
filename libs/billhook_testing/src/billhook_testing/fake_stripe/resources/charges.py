"""Charges: made by payments, never by hand."""

from __future__ import annotations

from billhook_testing.fake_stripe.routes import Includes, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/charges"


def _refunds(world: World, charge: Json) -> Json:
    refunds = list(reversed(world.under("refund", charge["id"])))
    url = f"/v1/charges/{charge['id']}/refunds"
    return {"object": "list", "data": refunds, "has_more": False, "total_count": len(refunds), "url": url}


ROUTES = [
    retrieve("charge", PATH),
    listing("charge", PATH, customer=by("customer"), payment_intent=by("payment_intent")),
]
INCLUDES: Includes = {("charge", "refunds"): _refunds}
