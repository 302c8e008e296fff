"""The test cards: which payment method ids exist without being created, and what each does when charged."""

from __future__ import annotations

from dataclasses import dataclass

from billhook_testing.fake_stripe.errors import card_declined
from billhook_testing.fake_stripe.world import Json, World


@dataclass(frozen=True)
class Card:
    brand: str = "visa"
    last4: str = "4242"
    decline: str | None = None
    """The decline code of every charge; None where charges succeed."""
    attaches: bool = True


def _declining(last4: str, decline: str) -> Card:
    return Card(last4=last4, decline=decline, attaches=False)


CARDS: dict[str, Card] = {
    "pm_card_visa": Card(),
    "pm_card_mastercard": Card("mastercard", "4444"),
    "pm_card_amex": Card("amex", "8431"),
    "pm_card_discover": Card("discover", "9424"),
    # The one declining card that a customer can hold.
    "pm_card_chargeCustomerFail": Card(last4="0341", decline="generic_decline"),
    "pm_card_visa_chargeDeclined": _declining("0002", "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": _declining("9995", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": _declining("9987", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": _declining("9979", "stolen_card"),
    "pm_card_chargeDeclined": _declining("0002", "generic_decline"),
    "pm_card_chargeDeclinedExpiredCard": _declining("0069", "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": _declining("0127", "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": _declining("0119", "processing_error"),
    # Every payment needs the customer, also one off session that they agreed to before.
    "pm_card_authenticationRequired": Card(last4="3184", decline="authentication_required"),
}

# These declines are error codes of their own; any other is `card_declined` with the reason as decline code.
_OWN_CODES = ("expired_card", "incorrect_cvc", "processing_error", "authentication_required")


def new_payment_method(world: World, card: Card, customer: str | None) -> Json:
    method: Json = {
        "id": world.new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": blank_billing_details(),
        "card": {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": 12,
            "exp_year": world.clock.now().year + 1,
            "fingerprint": world.token("fingerprint", 16),
            "funding": "credit",
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": world.now(),
        "customer": customer,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }
    return world.add("payment_method", method)


def blank_billing_details() -> Json:
    address = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    return {"address": address, "email": None, "name": None, "phone": None, "tax_id": None}


def payment_method(world: World, method_id: str, param: str) -> Json:
    """The payment method, made on the spot where the id is a test card's."""
    if method_id in CARDS and world.find(method_id) is None:
        return new_payment_method(world, CARDS[method_id], None)
    return world.named("payment_method", method_id, param)


def attach(world: World, method_id: str, customer: str) -> Json:
    card = CARDS.get(method_id)
    if card is not None and not card.attaches:
        raise card_declined(decline_error(card.decline or "generic_decline"))
    method = payment_method(world, method_id, "id")
    with world.changing(method, "payment_method.attached"):
        method["customer"] = customer
    return method


def decline_code(world: World, method: Json, customer: str | None) -> str | None:
    """What charging this card now answers: None for yes. The customer's switch overrules the card."""
    if customer in world.outcomes:
        return world.outcomes[customer]
    return next((card.decline for card in CARDS.values() if card.last4 == method["card"]["last4"]), None)


def decline_error(decline: str) -> Json:
    code = decline if decline in _OWN_CODES else "card_declined"
    return {
        "code": code,
        "decline_code": decline,
        "message": "Your card was declined." if code == "card_declined" else f"Your card failed: {decline}.",
        "type": "card_error",
    }
