"""Invoice items: what waits for a customer's next invoice, or is put on a draft."""

from __future__ import annotations

from billhook_testing.fake_stripe import invoices
from billhook_testing.fake_stripe.errors import invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.resources import catalog
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/invoiceitems"


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.named("customer", params.required("customer"), "customer")
    quantity = params.integer("quantity", 1)
    price = _price(world, params)
    draft = params.text("invoice")
    invoice = world.named("invoice", draft, "invoice") if draft else None
    if invoice and invoice["status"] != "draft":
        raise invalid("This invoice is no longer editable.", param="invoice", code="invoice_not_editable")
    if price is not None:
        amount, currency = price["unit_amount"] * quantity, price["currency"]
        description = params.text("description") or world.get("product", price["product"])["name"]
    else:
        amount, currency = params.integer("amount"), (params.text("currency") or "usd").lower()
        description = params.text("description")
    if amount is None:
        raise invalid("You must give an amount, a price or price_data.", param="amount", code="parameter_missing")
    if invoice and invoice["currency"] != currency:
        raise invalid(f"The invoice's currency is {invoice['currency']}.", param="currency")
    item = invoices.new_item(
        world,
        customer["id"],
        currency,
        amount,
        description,
        price=price,
        quantity=quantity,
        parent=_parent(world, params),
        metadata=params.merged("metadata", {}),
    )
    if invoice:
        with world.changing(invoice, "invoice.updated"):
            invoices.place_item(world, item, invoice)
    return item


def _price(world: World, params: Params) -> Json | None:
    pricing = params.within("pricing")
    if price_id := pricing.text("price"):
        return world.named("price", price_id, "pricing[price]")
    return catalog.price_from(world, params.within("price_data")) if "price_data" in params else None


def _parent(world: World, params: Params) -> Json | None:
    subscription = params.text("subscription")
    if not subscription:
        return None
    world.named("subscription", subscription, "subscription")
    details = {"subscription": subscription, "subscription_item": None}
    return {"subscription_details": details, "type": "subscription_details"}


def _delete(world: World, params: Params, ids: dict[str, str]) -> Json:
    item = world.get("invoiceitem", ids["id"])
    if item["invoice"] is not None:
        raise invalid("This invoice item is already on an invoice.", code="invoice_not_editable")
    world.remove("invoiceitem", item["id"], under=item["customer"])
    world.emit("invoiceitem.deleted", item)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


ROUTES = [
    Route(
        "POST",
        PATH,
        _create,
        "customer amount currency description invoice metadata price_data pricing quantity subscription",
    ),
    retrieve("invoiceitem", PATH),
    Route("DELETE", f"{PATH}/{{id}}", _delete),
    listing("invoiceitem", PATH, customer=by("customer"), invoice=by("invoice")),
]
