"""Credit notes: they lower what is due on an open invoice, or give back part of a paid one."""

from __future__ import annotations

from dataclasses import dataclass

from billhook_testing.fake_stripe import collection, invoices
from billhook_testing.fake_stripe.errors import bad_transition, invalid
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.resources.refunds import refund_charge
from billhook_testing.fake_stripe.routes import Route, by, listing, retrieve
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/credit_notes"
REASONS = ("duplicate", "fraudulent", "order_change", "product_unsatisfactory")


@dataclass(frozen=True)
class _Line:
    amount: int
    description: str | None
    quantity: int
    invoice_line: str | None


def _lines(world: World, invoice: Json, params: Params) -> list[_Line]:
    lines = []
    for line in params.each("lines"):
        quantity = line.integer("quantity", 1)
        unit = line.integer("unit_amount")
        amount = line.integer("amount", unit * quantity if unit is not None else None)
        billed = line.text("invoice_line_item")
        original = world.named("line_item", billed, line.path("invoice_line_item")) if billed else None
        if amount is None and original is not None:
            amount = original["amount"]
        if amount is None:
            raise invalid("Missing required param: amount.", param=line.path("amount"), code="parameter_missing")
        description = line.text("description") or (original["description"] if original else None)
        lines.append(_Line(amount, description, quantity, billed))
    if not lines:
        amount = params.integer("amount")
        if amount is None:
            raise invalid("You must give an amount or lines.", param="amount", code="parameter_missing")
        lines.append(_Line(amount, "Credit", 1, None))
    return lines


def _create(world: World, params: Params, ids: dict[str, str]) -> Json:
    invoice = world.named("invoice", params.required("invoice"), "invoice")
    lines = _lines(world, invoice, params)
    amount = sum(line.amount for line in lines)
    if amount < 1:
        raise invalid("The credit note's amount must be positive.", param="amount")
    reason = params.text("reason")
    if reason is not None and reason not in REASONS:
        raise invalid(f"Invalid reason: must be one of {', '.join(REASONS)}", param="reason")
    if invoice["status"] == "open":
        if amount > invoice["amount_remaining"]:
            raise invalid(f"The invoice has only {invoice['amount_remaining']} left to credit.", param="amount")
        note = _new(world, invoice, lines, amount, params, refunds=[], out_of_band=None)
        _lower(world, invoice, amount)
        return note
    if invoice["status"] != "paid":
        raise bad_transition(f"A {invoice['status']} invoice cannot be credited.")
    left = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"]
    if amount > left:
        raise invalid(f"The invoice has only {left} left to credit.", param="amount")
    refunds, out_of_band = _given_back(world, invoice, params, amount)
    note = _new(world, invoice, lines, amount, params, refunds=refunds, out_of_band=out_of_band)
    with world.changing(invoice, "invoice.updated"):
        invoice["post_payment_credit_notes_amount"] += amount
    return note


def _given_back(world: World, invoice: Json, params: Params, amount: int) -> tuple[list[Json], int | None]:
    """How a paid invoice's credit reaches the customer; the parts must make up the whole."""
    refund_amount = params.integer("refund_amount", 0)
    out_of_band = params.integer("out_of_band_amount")
    parts = [(world.named("refund", p.required("refund"), p.path("refund")), p) for p in params.each("refunds")]
    existing = [(refund, part.integer("amount_refunded", refund["amount"])) for refund, part in parts]
    if refund_amount + (out_of_band or 0) + sum(given for _, given in existing) != amount:
        message = "refund_amount, out_of_band_amount and refunds must add up to the credit note's amount."
        raise invalid(message, param="refund_amount")
    if refund_amount:
        existing.append((refund_charge(world, _charge_of(world, invoice), refund_amount), refund_amount))
    shown = [
        {"amount_refunded": given, "payment_record_refund": None, "refund": refund["id"], "type": "refund"}
        for refund, given in existing
    ]
    return shown, out_of_band


def _charge_of(world: World, invoice: Json) -> Json:
    for payment in world.under("invoice_payment", invoice["id"]):
        if payment["status"] == "paid":
            intent = world.get("payment_intent", payment["payment"]["payment_intent"])
            return world.get("charge", intent["latest_charge"])
    raise invalid("This invoice was not paid by a payment that can be refunded.", param="refund_amount")


def _lower(world: World, invoice: Json, amount: int) -> None:
    """Lower (or raise again, with a negative amount) what an open invoice asks for."""
    with world.changing(invoice, "invoice.updated"):
        invoice["pre_payment_credit_notes_amount"] += amount
        invoices.add_up(world, invoice)
    found = collection.open_payment(world, invoice)
    if found is not None and invoice["amount_remaining"]:
        payment, intent = found
        payment["amount_requested"] = intent["amount"] = invoice["amount_remaining"]
    if invoice["amount_remaining"] == 0:
        collection.mark_paid(world, invoice)


def _new(
    world: World,
    invoice: Json,
    lines: list[_Line],
    amount: int,
    params: Params,
    *,
    refunds: list[Json],
    out_of_band: int | None,
) -> Json:
    before_payment = invoice["status"] == "open"
    note_id = world.new_id("cn")
    nth = len(world.under("credit_note", invoice["id"])) + 1
    note: Json = {
        "id": note_id,
        "object": "credit_note",
        "amount": amount,
        "amount_shipping": 0,
        "created": world.now(),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": world.now(),
        "invoice": invoice["id"],
        "lines": {
            "object": "list",
            "data": [_shown(world, line) for line in lines],
            "has_more": False,
            "url": f"{PATH}/{note_id}/lines",
        },
        "livemode": False,
        "memo": params.text("memo"),
        "metadata": params.merged("metadata", {}),
        "number": f"{invoice['number']}-CN-{nth:02d}",
        "out_of_band_amount": out_of_band,
        "pdf": f"https://pay.stripe.invalid/credit_notes/{note_id}/pdf",
        "post_payment_amount": 0 if before_payment else amount,
        "pre_payment_amount": amount if before_payment else 0,
        "pretax_credit_amounts": [],
        "reason": params.text("reason"),
        "refunds": refunds,
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "pre_payment" if before_payment else "post_payment",
        "voided_at": None,
    }
    world.add("credit_note", note, under=invoice["id"])
    world.emit("credit_note.created", note)
    return note


def _shown(world: World, line: _Line) -> Json:
    unit = line.amount // line.quantity if line.amount % line.quantity == 0 else None
    shown: Json = {
        "id": world.new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": line.amount,
        "description": line.description,
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "pretax_credit_amounts": [],
        "quantity": line.quantity,
        "tax_rates": [],
        "taxes": [],
        "type": "invoice_line_item" if line.invoice_line else "custom_line_item",
        "unit_amount": unit,
        "unit_amount_decimal": None if unit is None else str(unit),
    }
    if line.invoice_line:
        shown["invoice_line_item"] = line.invoice_line
    return shown


def _void(world: World, params: Params, ids: dict[str, str]) -> Json:
    note = world.get("credit_note", ids["id"])
    invoice = world.get("invoice", note["invoice"])
    if note["status"] == "void" or note["type"] != "pre_payment" or invoice["status"] != "open":
        raise bad_transition("Only a credit note on an open invoice can be voided.")
    with world.changing(note, "credit_note.voided"):
        note.update(status="void", voided_at=world.now())
    _lower(world, invoice, -note["amount"])
    return note


ROUTES = [
    Route(
        "POST",
        PATH,
        _create,
        "invoice amount lines memo metadata reason refund_amount out_of_band_amount refunds",
    ),
    retrieve("credit_note", PATH),
    Route("POST", f"{PATH}/{{id}}/void", _void),
    listing("credit_note", PATH, customer=by("customer"), invoice=by("invoice")),
]
