"""A subscription's life as Stripe tells it: twenty events over a renewal, several to a second."""

from __future__ import annotations

from typing import Any

BEGAN = 1_772_366_400
MONTH = 2_678_400


def event(number: int, kind: str, value: dict[str, Any], created: int) -> dict[str, Any]:
    return {"id": f"evt_{number}", "object": "event", "created": created, "type": kind, "data": {"object": value}}


def customer(**fields: Any) -> dict[str, Any]:
    return {"id": "cus_1", "object": "customer", "name": "Ada", "email": "ada@example.com", **fields}


def subscription(status: str, **fields: Any) -> dict[str, Any]:
    item = {"id": "si_1", "price": {"id": "price_1", "product": "prod_1"}, "quantity": 1}
    value = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": status, "items": {"data": [item]}}
    return {**value, **fields}


def invoice(name: str, status: str, *, paid: int = 0, attempts: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "object": "invoice",
        "number": None if status == "draft" else f"A-{name}",
        "customer": "cus_1",
        "customer_name": "Ada",
        "status": status,
        "currency": "eur",
        "subtotal": 1000,
        "total": 1190,
        "amount_due": 1190,
        "amount_paid": paid,
        "amount_remaining": 1190 - paid,
        "attempt_count": attempts,
        "parent": {"subscription_details": {"subscription": "sub_1"}},
        "lines": {"data": [{"id": f"il_{name}", "amount": 1000, "description": "Plan"}], "has_more": False},
        **fields,
    }


def payment(name: str, status: str, **fields: Any) -> dict[str, Any]:
    value = {"id": name, "object": "payment_intent", "customer": "cus_1", "currency": "eur", "amount": 1190}
    return {**value, "status": status, **fields}


def life() -> list[dict[str, Any]]:
    """In the order in which it happened."""
    at, renewal = BEGAN, BEGAN + MONTH
    declined = {"last_payment_error": {"code": "card_declined", "decline_code": "insufficient_funds", "message": "No"}}
    told = [
        ("customer.created", customer(name=None), at),
        ("customer.updated", customer(), at + 1),
        ("customer.subscription.created", subscription("incomplete"), at + 2),
        ("invoice.created", invoice("in_1", "draft"), at + 2),
        ("invoice.finalized", invoice("in_1", "open"), at + 2),
        ("payment_intent.created", payment("pi_1", "requires_payment_method"), at + 2),
        ("payment_intent.succeeded", payment("pi_1", "succeeded", amount_received=1190), at + 3),
        ("invoice.paid", invoice("in_1", "paid", paid=1190, attempts=1), at + 3),
        ("invoice.payment_succeeded", invoice("in_1", "paid", paid=1190, attempts=1), at + 3),
        ("customer.subscription.updated", subscription("active"), at + 3),
        ("invoice.created", invoice("in_2", "draft"), renewal),
        ("customer.subscription.updated", subscription("active", current_period_end=renewal + MONTH), renewal),
        ("invoice.finalized", invoice("in_2", "open"), renewal + 3600),
        ("payment_intent.created", payment("pi_2", "requires_payment_method"), renewal + 3600),
        ("payment_intent.payment_failed", payment("pi_2", "requires_payment_method", **declined), renewal + 3600),
        ("invoice.payment_failed", invoice("in_2", "open", attempts=1), renewal + 3600),
        ("customer.subscription.updated", subscription("past_due"), renewal + 3600),
        ("invoice.voided", invoice("in_2", "void", attempts=1), renewal + 90_000),
        ("customer.subscription.deleted", subscription("canceled"), renewal + 90_000),
        ("some.thing_new", {"id": "x_1", "object": "thing"}, renewal + 90_000),
    ]
    return [event(number, kind, value, created) for number, (kind, value, created) in enumerate(told)]


def checkout(name: str = "cs_1", **fields: Any) -> dict[str, Any]:
    """A checkout that was paid once, and has no invoice."""
    return {
        "id": name,
        "object": "checkout.session",
        "customer": "cus_1",
        "mode": "payment",
        "status": "complete",
        "payment_status": "paid",
        "payment_intent": f"pi_{name}",
        "currency": "eur",
        "amount_total": 4200,
        **fields,
    }
