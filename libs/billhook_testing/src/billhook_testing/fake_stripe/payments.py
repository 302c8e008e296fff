"""Payment intents, and the charges that confirming one makes."""

from __future__ import annotations

from billhook_testing.fake_stripe import cards
from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.world import Json, World, copied

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")


def new_intent(
    world: World,
    amount: int,
    currency: str,
    *,
    customer: str | None = None,
    description: str | None = None,
    invoice: str | None = None,
    metadata: dict[str, str] | None = None,
    method: Json | None = None,
) -> Json:
    intent_id = world.new_id("pi")
    intent: Json = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None if invoice else {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": f"{intent_id}_secret_{world.token('secret', 24)}",
        "confirmation_method": "automatic",
        "created": world.now(),
        "currency": currency,
        "customer": customer,
        "description": description,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": dict(metadata or {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_details": {"customer_reference": None, "order_reference": invoice},
        "payment_method": method["id"] if method else None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": "off_session" if invoice else None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_confirmation" if method else "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }
    world.add("payment_intent", intent)
    world.emit("payment_intent.created", intent)
    return intent


def confirm(world: World, intent: Json, method: Json, *, off_session: bool = False) -> bool:
    """Charge the card. The events of one try come in Stripe's order: the charge's, then the intent's.

    A card that wants its customer makes the intent wait for them; off session, where nobody is there, it is declined.
    """
    if intent["status"] not in CONFIRMABLE:
        message = f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}."
        raise invalid(message, code="payment_intent_unexpected_state")
    decline = cards.decline_code(world, method, intent["customer"])
    if decline == "authentication_required" and not off_session:
        with world.changing(intent, "payment_intent.requires_action"):
            url = f"https://hooks.stripe.invalid/3d_secure/{intent['id']}"
            intent.update(
                next_action={"redirect_to_url": {"return_url": None, "url": url}, "type": "redirect_to_url"},
                payment_method=method["id"],
                status="requires_action",
            )
        return False
    charge = _new_charge(world, intent, method, decline)
    if decline is None:
        with world.changing(intent, "payment_intent.succeeded"):
            intent.update(
                amount_received=intent["amount"],
                last_payment_error=None,
                latest_charge=charge["id"],
                payment_method=method["id"],
                status="succeeded",
            )
        return True
    with world.changing(intent, "payment_intent.payment_failed"):
        intent.update(
            last_payment_error={
                "charge": charge["id"],
                **cards.decline_error(decline),
                **world.advice.get(intent["customer"], {}),
                "payment_method": copied(method),
            },
            latest_charge=charge["id"],
            payment_method=None,
            status="requires_payment_method",
        )
    return False


def authenticate(world: World, intent: Json, *, succeeds: bool) -> bool:
    """The customer does what their bank wants (3-D Secure), or fails to; says whether it is paid now."""
    if intent["status"] != "requires_action":
        raise invalid(f"This PaymentIntent has a status of {intent['status']}: nobody waits for the customer.")
    method = world.get("payment_method", intent["payment_method"])
    charge = _new_charge(world, intent, method, None) if succeeds else None
    with world.changing(intent, "payment_intent.succeeded" if succeeds else "payment_intent.payment_failed"):
        intent["next_action"] = None
        if charge is not None:
            intent.update(
                amount_received=intent["amount"],
                last_payment_error=None,
                latest_charge=charge["id"],
                status="succeeded",
            )
        else:
            error = {
                "code": "payment_intent_authentication_failure",
                "message": "The provided payment method has failed authentication.",
                "type": "card_error",
            }
            intent.update(last_payment_error=error, payment_method=None, status="requires_payment_method")
    return succeeds


def cancel(world: World, intent: Json, reason: str | None) -> None:
    if intent["status"] in ("succeeded", "canceled"):
        message = f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
        raise invalid(message, code="payment_intent_unexpected_state")
    with world.changing(intent, "payment_intent.canceled"):
        intent.update(canceled_at=world.now(), cancellation_reason=reason, status="canceled")


def _new_charge(world: World, intent: Json, method: Json, decline: str | None) -> Json:
    paid = decline is None
    error = {} if decline is None else cards.decline_error(decline)
    advice = world.advice.get(intent["customer"], {})
    amount = intent["amount"]
    card = method["card"]
    charge_id = world.new_id("ch")
    charge: Json = {
        "id": charge_id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount if paid else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": world.new_id("txn") if paid else None,
        "billing_details": copied(method["billing_details"]),
        "calculated_statement_descriptor": "FAKE",
        "captured": paid,
        "created": world.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "destination": None,
        "dispute": None,
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": error.get("code"),
        "failure_message": error.get("message"),
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "on_behalf_of": None,
        "order": None,
        "outcome": {
            "advice_code": None,
            "network_advice_code": None,
            **({} if paid else advice),
            "network_decline_code": None,
            "network_status": "approved_by_network" if paid else "declined_by_network",
            "reason": decline,
            "risk_level": "normal",
            "risk_score": 10,
            "seller_message": "Payment complete." if paid else "The bank declined the payment.",
            "type": "authorized" if paid else "issuer_declined",
        },
        "paid": paid,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "brand": card["brand"],
                "checks": dict(card["checks"]),
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "last4": card["last4"],
                "network": card["brand"],
                "three_d_secure": None,
                "wallet": None,
            },
            "type": "card",
        },
        "radar_options": {},
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": f"https://pay.stripe.invalid/receipts/{charge_id}" if paid else None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded" if paid else "failed",
        "transfer_data": None,
        "transfer_group": None,
    }
    world.add("charge", charge)
    world.emit("charge.succeeded" if paid else "charge.failed", charge)
    return charge
