"""What becomes of a subscription when its invoice is settled, is not paid, or is given up."""

from __future__ import annotations

from billhook_testing.fake_stripe.world import Json, World


def subscription_of(obj: Json) -> str | None:
    """The subscription that an invoice, or a waiting invoice item, belongs to."""
    details = (obj["parent"] or {}).get("subscription_details") or {}
    found: str | None = details.get("subscription")
    return found


def recovered(world: World, invoice: Json) -> None:
    """The latest invoice is settled: a subscription that waited for it is active."""
    subscription = world.find(subscription_of(invoice) or "")
    if subscription is None or subscription["latest_invoice"] != invoice["id"]:
        return
    if subscription["status"] in ("incomplete", "past_due", "unpaid"):
        with world.changing(subscription, "customer.subscription.updated"):
            subscription["status"] = "active"


def fell_behind(world: World, invoice: Json) -> None:
    """A try failed: an active subscription is past due; after the last try the account's policy decides."""
    subscription = world.find(subscription_of(invoice) or "")
    if subscription is None or invoice["billing_reason"] == "subscription_create":
        return
    if subscription["status"] == "active":
        with world.changing(subscription, "customer.subscription.updated"):
            subscription["status"] = "past_due"
    tries = world.policy.retry_days
    used_up = tries and invoice["attempt_count"] > len(tries) and subscription["status"] == "past_due"
    if not used_up or not invoice["auto_advance"]:
        return
    if world.policy.after_retries == "canceled":
        end(world, subscription, "payment_failed")
    elif world.policy.after_retries == "unpaid":
        with world.changing(subscription, "customer.subscription.updated"):
            subscription["status"] = "unpaid"


def end(world: World, subscription: Json, reason: str | None = None) -> None:
    """Cancel now. Open invoices stay open, but nothing tries to collect them any more."""
    now = world.now()
    for invoice in world.under("invoice", subscription["id"]):
        if invoice["status"] in ("draft", "open"):
            with world.changing(invoice, "invoice.updated"):
                invoice.update(auto_advance=False, automatically_finalizes_at=None, next_payment_attempt=None)
    with world.changing(subscription, "customer.subscription.deleted"):
        subscription.update(canceled_at=subscription["canceled_at"] or now, ended_at=now, status="canceled")
        if reason is not None:
            subscription["cancellation_details"]["reason"] = reason
