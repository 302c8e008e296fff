"""Drafting invoices: their shape, their lines, and the invoice items that wait for one."""

from __future__ import annotations

from typing import Any

from billhook_testing.fake_stripe.standing import subscription_of
from billhook_testing.fake_stripe.world import Json, World

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
    return world.add("invoice", invoice, under=subscription["id"] if subscription else None)


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
    """Make the invoice agree with its lines, the customer's credit, credit notes, and what was paid."""
    lines = lines_of(world, invoice["id"])
    total = sum(line["amount"] for line in lines)
    due = max(0, total + invoice["starting_balance"] - invoice["pre_payment_credit_notes_amount"])
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


def new_item(
    world: World,
    customer: str,
    currency: str,
    amount: int,
    description: str | None,
    *,
    price: Json | None = None,
    quantity: int = 1,
    period: tuple[int, int] | None = None,
    proration: bool = False,
    parent: Json | None = None,
    metadata: dict[str, str] | None = None,
) -> Json:
    """An invoice item, waiting for an invoice."""
    start, end = period or (world.now(), world.now())
    item = {
        "id": world.new_id("ii"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "date": world.now(),
        "description": description,
        "discountable": not proration,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": dict(metadata or {}),
        "parent": parent,
        "period": {"end": end, "start": start},
        "pricing": pricing(price, amount, quantity),
        "proration": proration,
        "quantity": quantity,
        "tax_rates": [],
        "test_clock": None,
    }
    world.add("invoiceitem", item, under=customer)
    world.emit("invoiceitem.created", item)
    return item
