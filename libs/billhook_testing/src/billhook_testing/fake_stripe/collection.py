"""An invoice's life after the draft: open, tried, and then paid, void or uncollectible."""

from __future__ import annotations

from billhook_testing.fake_stripe import payments, standing
from billhook_testing.fake_stripe.errors import bad_transition, invalid
from billhook_testing.fake_stripe.invoices import DAY, add_up
from billhook_testing.fake_stripe.standing import subscription_of
from billhook_testing.fake_stripe.world import Json, World


def finalize(
    world: World, invoice: Json, *, announce: tuple[str, ...] = ("invoice.finalized", "invoice.updated")
) -> None:
    """Give the invoice its number and open it; where nothing is due it is paid at once."""
    if invoice["status"] != "draft":
        raise bad_transition(f"This invoice is {invoice['status']}; only a draft can be finalized.")
    customer = world.get("customer", invoice["customer"])
    number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    with world.changing(invoice, *announce):
        invoice.update(starting_balance=customer["balance"])
        add_up(world, invoice)
        customer["next_invoice_sequence"] += 1
        customer["currency"] = customer["currency"] or invoice["currency"]
        invoice.update(
            automatically_finalizes_at=None,
            effective_at=world.now(),
            ending_balance=min(0, invoice["total"] + customer["balance"]),
            hosted_invoice_url=f"https://invoice.stripe.invalid/i/{invoice['id']}",
            invoice_pdf=f"https://pay.stripe.invalid/invoice/{invoice['id']}/pdf",
            number=number,
            status="open",
        )
        invoice["status_transitions"]["finalized_at"] = world.now()
    # What an invoice below zero gives back is the customer's credit, and lowers their next one.
    with world.changing(customer, "customer.updated"):
        customer["balance"] = invoice["ending_balance"]
    if invoice["amount_remaining"] == 0:
        mark_paid(world, invoice)
    else:
        _open_payment(world, invoice)


def _open_payment(world: World, invoice: Json) -> None:
    """The payment intent that belongs to an open invoice, and the payment that will join the two."""
    description = {"subscription_create": "Subscription creation", "subscription_cycle": "Subscription update"}
    intent = payments.new_intent(
        world,
        invoice["amount_remaining"],
        invoice["currency"],
        customer=invoice["customer"],
        description=description.get(invoice["billing_reason"], f"Payment for Invoice {invoice['number']}"),
        invoice=invoice["id"],
    )
    payment = {
        "id": world.new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_remaining"],
        "created": world.now(),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    world.add("invoice_payment", payment, under=invoice["id"])


def open_payment(world: World, invoice: Json) -> tuple[Json, Json] | None:
    """The invoice's unsettled payment and its intent."""
    for payment in world.under("invoice_payment", invoice["id"]):
        if payment["status"] == "open":
            return payment, world.get("payment_intent", payment["payment"]["payment_intent"])
    return None


def method_for(world: World, invoice: Json) -> Json | None:
    """The card to charge: the invoice's own, else its subscription's, else the customer's default."""
    subscription = world.find(subscription_of(invoice) or "")
    customer = world.get("customer", invoice["customer"])
    for chosen in (
        invoice["default_payment_method"],
        subscription and subscription["default_payment_method"],
        customer["invoice_settings"]["default_payment_method"],
    ):
        if chosen:
            return world.find(chosen)
    return None


def collect(world: World, invoice: Json, method: Json | None) -> bool:
    """Try to collect an open invoice once. Says whether it is paid now; a try that fails counts."""
    found = open_payment(world, invoice)
    if found is None:
        raise invalid("This invoice has no open payment.")
    payment, intent = found
    if method is not None and payments.confirm(world, intent, method):
        mark_paid(world, invoice, payment)
        return True
    if intent["status"] == "requires_action":
        with world.changing(invoice, "invoice.payment_action_required", "invoice.updated"):
            invoice.update(attempt_count=invoice["attempt_count"] + 1, attempted=True)
        standing.fell_behind(world, invoice)
        return False
    with world.changing(invoice, "invoice.payment_failed", "invoice.updated"):
        invoice.update(attempt_count=invoice["attempt_count"] + 1, attempted=True)
        invoice["next_payment_attempt"] = _next_attempt(world, invoice)
        if invoice["next_payment_attempt"]:
            world.schedule(invoice["next_payment_attempt"], "collect", invoice["id"])
    standing.fell_behind(world, invoice)
    return False


def authenticate(world: World, intent: Json, *, succeeds: bool) -> None:
    """The customer answers their bank; an invoice behind the payment hears of it."""
    paid = payments.authenticate(world, intent, succeeds=succeeds)
    invoice = world.find(intent["payment_details"]["order_reference"] or "")
    found = open_payment(world, invoice) if invoice is not None else None
    if invoice is None or found is None:
        return
    if paid:
        mark_paid(world, invoice, found[0])
    else:
        with world.changing(invoice, "invoice.payment_failed", "invoice.updated"):
            invoice["attempted"] = True


def _next_attempt(world: World, invoice: Json) -> int | None:
    """Tries follow one another by the account's policy, and only where the invoice advances by itself."""
    days = world.policy.retry_days
    first = invoice["billing_reason"] == "subscription_create"
    if first or not invoice["auto_advance"] or invoice["attempt_count"] > len(days):
        return None
    return world.now() + days[int(invoice["attempt_count"]) - 1] * DAY


def mark_paid(world: World, invoice: Json, payment: Json | None = None) -> None:
    """The invoice is settled, by a payment, by nothing being due, or outside of Stripe."""
    now = world.now()
    if payment is None:
        _close_payment(world, invoice)
    standing.recovered(world, invoice)
    with world.changing(invoice, "invoice.updated", "invoice.paid", "invoice.payment_succeeded"):
        if payment is not None:
            invoice["attempt_count"] += 1
        invoice.update(
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            attempted=True,
            auto_advance=False,
            next_payment_attempt=None,
            status="paid",
        )
        invoice["status_transitions"]["paid_at"] = now
    if payment is not None:
        with world.changing(payment, "invoice_payment.paid"):
            payment.update(amount_paid=payment["amount_requested"], status="paid")
            payment["status_transitions"]["paid_at"] = now


def _close_payment(world: World, invoice: Json, reason: str | None = None) -> None:
    found = open_payment(world, invoice)
    if found is None:
        return
    payment, intent = found
    payment["status"] = "canceled"
    payment["status_transitions"]["canceled_at"] = world.now()
    payments.cancel(world, intent, reason)


def void(world: World, invoice: Json) -> None:
    if invoice["status"] not in ("open", "uncollectible"):
        raise bad_transition(f"This invoice is {invoice['status']}; only an open or uncollectible one can be voided.")
    with world.changing(invoice, "invoice.updated", "invoice.voided"):
        invoice.update(auto_advance=False, next_payment_attempt=None, status="void")
        invoice["status_transitions"]["voided_at"] = world.now()
    _close_payment(world, invoice, "void_invoice")
    standing.recovered(world, invoice)


def mark_uncollectible(world: World, invoice: Json) -> None:
    if invoice["status"] != "open":
        raise bad_transition(f"This invoice is {invoice['status']}; only an open one can be marked uncollectible.")
    with world.changing(invoice, "invoice.updated", "invoice.marked_uncollectible"):
        invoice.update(auto_advance=False, next_payment_attempt=None, status="uncollectible")
        invoice["status_transitions"]["marked_uncollectible_at"] = world.now()
    standing.recovered(world, invoice)
