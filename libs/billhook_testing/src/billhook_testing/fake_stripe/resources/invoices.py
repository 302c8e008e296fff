"""Invoices and the payments applied to them."""

from __future__ import annotations

from billhook_testing.fake_stripe import cards, collection, invoices
from billhook_testing.fake_stripe.errors import ApiError, card_declined, invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import PAGING, Includes, Route, by, listing, page, retrieve, within
from billhook_testing.fake_stripe.standing import subscription_of
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/invoices"
FIELDS = "auto_advance collection_method days_until_due default_payment_method description footer metadata"


def _apply(world: World, invoice: Json, params: Params) -> None:
    for name in ("description", "footer"):
        if name in params:
            invoice[name] = params.text(name)
    if chosen := params.text("default_payment_method"):
        invoice["default_payment_method"] = cards.payment_method(world, chosen, "default_payment_method")["id"]
    if params.flag("auto_advance", invoice["auto_advance"]) and not invoice["auto_advance"]:
        at = world.now() + world.policy.draft_seconds
        if invoice["status"] == "draft":
            invoice["automatically_finalizes_at"] = at
            world.schedule(at, "finalize", invoice["id"])
    invoice["auto_advance"] = params.flag("auto_advance", invoice["auto_advance"])
    if not invoice["auto_advance"]:
        invoice.update(automatically_finalizes_at=None, next_payment_attempt=None)
    days = params.integer("days_until_due")
    if days is not None:
        invoice["due_date"] = invoice["created"] + days * invoices.DAY
    invoice["collection_method"] = params.text("collection_method") or invoice["collection_method"]
    invoice["metadata"] = params.merged("metadata", invoice["metadata"])


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    customer = world.named("customer", params.required("customer"), "customer")
    owner = params.text("subscription")
    subscription = world.named("subscription", owner, "subscription") if owner else None
    currency = (params.text("currency") or customer["currency"] or "usd").lower()
    invoice = invoices.new_draft(world, customer, currency, subscription=subscription)
    behavior = params.choice("pending_invoice_items_behavior", ("exclude", "include"), "exclude")
    if behavior == "include" or subscription:
        invoices.take_pending(world, invoice, owner)
    _apply(world, invoice, params)
    world.emit("invoice.created", invoice)
    return invoice


def _update(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    with world.changing(invoice, "invoice.updated"):
        _apply(world, invoice, params)
    return invoice


def _delete(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    if invoice["status"] != "draft":
        raise invalid("Only draft invoices can be deleted.", code="invoice_not_editable")
    for item in world.under("invoiceitem", invoice["customer"]):
        if item["invoice"] == invoice["id"]:
            world.remove("invoiceitem", item["id"], under=invoice["customer"])
    world.remove("invoice", invoice["id"], under=subscription_of(invoice))
    world.emit("invoice.deleted", invoice)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def _finalize(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    if "auto_advance" in params:
        invoice["auto_advance"] = params.flag("auto_advance")
    collection.finalize(world, invoice)
    by_card = invoice["collection_method"] == "charge_automatically"
    if invoice["status"] == "open" and invoice["auto_advance"] and by_card:
        collection.collect(world, invoice, collection.method_for(world, invoice))
    return invoice


def _pay(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    if invoice["status"] == "draft":
        collection.finalize(world, invoice)
        if invoice["status"] == "paid":
            return invoice
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(f"Invoice is already {invoice['status']}.")
    if params.flag("paid_out_of_band"):
        collection.mark_paid(world, invoice)
        return invoice
    chosen = params.text("payment_method")
    method = cards.payment_method(world, chosen, "payment_method") if chosen else collection.method_for(world, invoice)
    if method is None:
        raise invalid("There is no default payment method for this invoice, its subscription or its customer.")
    if not collection.collect(world, invoice, method):
        raise _declined(world, invoice)
    return invoice


def _declined(world: World, invoice: Json) -> ApiError:
    found = collection.open_payment(world, invoice)
    error = found[1]["last_payment_error"] if found else {"message": "Your card was declined.", "type": "card_error"}
    if found and found[1]["status"] == "requires_action":
        error = {
            "code": "invoice_payment_intent_requires_action",
            "message": "Payment for this invoice requires additional user action before it can be completed.",
            "payment_intent": found[1],
            "type": "card_error",
        }
    return card_declined(error)


def _void(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    collection.void(world, invoice)
    return invoice


def _mark_uncollectible(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.get("invoice", ids["id"])
    collection.mark_uncollectible(world, invoice)
    return invoice


def _lines(world: World, params: Params, ids: dict[str, str]) -> Json:
    """An invoice's lines come in the invoice's own order, unlike every other list."""
    invoice = world.get("invoice", ids["id"])
    return page(invoices.lines_of(world, invoice["id"]), params, f"{PATH}/{invoice['id']}/lines")


def _payments(world: World, invoice: Json) -> Json:
    found = list(reversed(world.under("invoice_payment", invoice["id"])))
    return {"object": "list", "data": found, "has_more": False, "url": "/v1/invoice_payments"}


def _list_payments(world: World, params: Params, ids: dict[str, str]) -> Json:
    wanted = params.within("payment").text("payment_intent")
    found = [
        payment
        for payment in reversed(world.all("invoice_payment"))
        if within(params, "created", payment.get("created", 0))
        and payment["invoice"] == (params.text("invoice") or payment["invoice"])
        and payment["status"] == (params.text("status") or payment["status"])
        and payment["payment"]["payment_intent"] == (wanted or payment["payment"]["payment_intent"])
    ]
    return page(found, params, "/v1/invoice_payments")


ROUTES = [
    Route("POST", PATH, _create, f"{FIELDS} customer currency subscription pending_invoice_items_behavior"),
    retrieve("invoice", PATH),
    Route("POST", f"{PATH}/{{id}}", _update, FIELDS),
    Route("DELETE", f"{PATH}/{{id}}", _delete),
    Route("POST", f"{PATH}/{{id}}/finalize", _finalize, "auto_advance"),
    Route("POST", f"{PATH}/{{id}}/pay", _pay, "payment_method paid_out_of_band off_session"),
    Route("POST", f"{PATH}/{{id}}/void", _void),
    Route("POST", f"{PATH}/{{id}}/mark_uncollectible", _mark_uncollectible),
    Route("GET", f"{PATH}/{{id}}/lines", _lines, PAGING),
    listing(
        "invoice",
        PATH,
        customer=by("customer"),
        status=by("status"),
        collection_method=by("collection_method"),
        subscription=lambda world, invoice: subscription_of(invoice),
    ),
    retrieve("invoice_payment", "/v1/invoice_payments"),
    Route("GET", "/v1/invoice_payments", _list_payments, f"{PAGING} invoice payment status"),
]
INCLUDES: Includes = {("invoice", "payments"): _payments}
