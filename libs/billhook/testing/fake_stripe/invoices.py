"""An invoice's life: draft, open, and then paid, void or uncollectible; and the tries to collect it."""

from __future__ import annotations

from typing import Any

from billhook.testing.fake_stripe import payments, standing
from billhook.testing.fake_stripe.errors import bad_transition, invalid
from billhook.testing.fake_stripe.standing import subscription_of
from billhook.testing.fake_stripe.world import Json, World

SHOWN_LINES = 10
"""How many lines an invoice carries itself; the rest is paged."""
DAY = 86_400


def new_draft(
    world: World,
    customer: Json,
    currency: str,
    *,
    auto_advance: bool = False,
    collection_method: str = "charge_automatically",
    days_until_due: int | None = None,
    subscription: Json | None = None,
    reason: str = "manual",
    **fields: Any,
) -> Json:
    """A draft without lines; no event yet, since lines usually come with it."""
    now = world.now()
    due = now + days_until_due * DAY if days_until_due is not None else None
    parent: Json | None = None
    if subscription is not None:
        details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
        parent = {"quote_details": None, "subscription_details": details, "type": "subscription_details"}
    invoice: Json = {
        "id": world.new_id("in"),
        "object": "invoice",
        "account_country": "US",
        "account_name": "Fake account",
        "account_tax_ids": None,
        "amount_due": 0,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": auto_advance,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": now + world.policy.draft_seconds if auto_advance else None,
        "billing_reason": reason,
        "collection_method": collection_method,
        "created": now,
        "currency": currency,
        "custom_fields": None,
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": due,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": {"object": "list", "data": [], "has_more": False, "total_count": 0, "url": ""},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": parent,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": now,
        "period_start": now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        "subtotal": 0,
        "subtotal_excluding_tax": 0,
        "test_clock": None,
        "total": 0,
        "total_discount_amounts": [],
        "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": now,
        **fields,
    }
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    if auto_advance:
        world.schedule(now + world.policy.draft_seconds, "finalize", invoice["id"])
    return world.add("invoice", invoice, under=subscription and subscription["id"])


def lines_of(world: World, invoice_id: str) -> list[Json]:
    return world.under("line_item", invoice_id)


def add_line(
    world: World,
    invoice: Json,
    amount: int,
    description: str | None,
    parent: Json,
    *,
    quantity: int = 1,
    period: tuple[int, int] | None = None,
    price: Json | None = None,
    metadata: dict[str, str] | None = None,
) -> Json:
    start, end = period or (world.now(), world.now())
    line = {
        "id": world.new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": invoice["currency"],
        "description": description,
        "discount_amounts": [],
        "discountable": amount >= 0,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": dict(metadata or {}),
        "parent": parent,
        "period": {"end": end, "start": start},
        "pretax_credit_amounts": [],
        "pricing": pricing(price, amount, quantity),
        "quantity": quantity,
        "taxes": [],
    }
    world.add("line_item", line, under=invoice["id"])
    add_up(world, invoice)
    return line


def pricing(price: Json | None, amount: int, quantity: int) -> Json:
    details = None if price is None else {"price": price["id"], "product": price["product"]}
    unit = amount // quantity if quantity and amount % quantity == 0 else None
    return {
        "price_details": details,
        "type": "price_details",
        "unit_amount_decimal": None if unit is None else str(unit),
    }


def add_up(world: World, invoice: Json) -> None:
    """Make the invoice agree with its lines, what was paid, and the credit notes before payment."""
    lines = lines_of(world, invoice["id"])
    total = sum(line["amount"] for line in lines)
    due = max(0, total - invoice["pre_payment_credit_notes_amount"])
    invoice["lines"].update(data=lines[:SHOWN_LINES], has_more=len(lines) > SHOWN_LINES, total_count=len(lines))
    invoice.update(
        amount_due=due,
        amount_remaining=0 if invoice["status"] == "paid" else max(0, due - invoice["amount_paid"]),
        subtotal=total,
        subtotal_excluding_tax=total,
        total=total,
        total_excluding_tax=total,
    )


def take_pending(world: World, invoice: Json, subscription: str | None) -> None:
    """Turn the customer's waiting invoice items of this subscription (or of none) into lines."""
    for item in world.under("invoiceitem", invoice["customer"]):
        waits = item["invoice"] is None and item["currency"] == invoice["currency"]
        if waits and subscription_of(item) == subscription:
            place_item(world, item, invoice)


def place_item(world: World, item: Json, invoice: Json) -> None:
    item["invoice"] = invoice["id"]
    subscription = subscription_of(item)
    origin = {
        "invoice_item": item["id"],
        "proration": item["proration"],
        "proration_details": {"credited_items": None},
        "subscription": subscription,
    }
    kind, other = "invoice_item_details", "subscription_item_details"
    if item["proration"]:
        kind, other = other, kind
        origin["subscription_item"] = item["parent"]["subscription_details"]["subscription_item"]
    details = (item["pricing"] or {}).get("price_details")
    price = world.find(details["price"]) if details else None
    add_line(
        world,
        invoice,
        item["amount"],
        item["description"],
        {kind: origin, other: None, "type": kind},
        quantity=item["quantity"],
        period=(item["period"]["start"], item["period"]["end"]),
        price=price,
        metadata=item["metadata"],
    )


def finalize(world: World, invoice: Json, *, announce: tuple[str, ...] = ("invoice.finalized", "invoice.updated")) -> None:
    """Give the invoice its number and open it; where nothing is due it is paid at once."""
    if invoice["status"] != "draft":
        raise bad_transition(f"This invoice is {invoice['status']}; only a draft can be finalized.")
    customer = world.get("customer", invoice["customer"])
    number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    with world.changing(invoice, *announce):
        customer["next_invoice_sequence"] += 1
        customer["currency"] = customer["currency"] or invoice["currency"]
        invoice.update(
            automatically_finalizes_at=None,
            effective_at=world.now(),
            ending_balance=0,
            hosted_invoice_url=f"https://invoice.stripe.invalid/i/{invoice['id']}",
            invoice_pdf=f"https://pay.stripe.invalid/invoice/{invoice['id']}/pdf",
            number=number,
            status="open",
        )
        invoice["status_transitions"]["finalized_at"] = world.now()
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
    with world.changing(invoice, "invoice.payment_failed", "invoice.updated"):
        invoice.update(attempt_count=invoice["attempt_count"] + 1, attempted=True)
        invoice["next_payment_attempt"] = _next_attempt(world, invoice)
        if invoice["next_payment_attempt"]:
            world.schedule(invoice["next_payment_attempt"], "collect", invoice["id"])
    standing.fell_behind(world, invoice)
    return False


def _next_attempt(world: World, invoice: Json) -> int | None:
    """Tries follow one another by the account's policy, and only where the invoice advances by itself."""
    days = world.policy.retry_days
    first = invoice["billing_reason"] == "subscription_create"
    if first or not invoice["auto_advance"] or invoice["attempt_count"] > len(days):
        return None
    return int(world.now()) + days[invoice["attempt_count"] - 1] * DAY


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
