"""What time does by itself: the duties that fall due, each checked again against what is true by then."""

from __future__ import annotations

from collections.abc import Callable, Collection

from billhook_testing.fake_stripe import collection, standing, subscriptions
from billhook_testing.fake_stripe.world import Json, Request, World


def advance_all(worlds: Collection[World], until: int) -> None:
    """The same for worlds that share a clock: whatever is due first is done first."""
    while dues := [at for world in worlds if (at := world.due_at()) is not None and at <= until]:
        for world in worlds:
            advance_to(world, min(dues))
    for world in worlds:
        advance_to(world, until)


def advance_to(world: World, until: int) -> None:
    """Do everything due up to `until`, each at its own time, and be there."""
    world.request = Request()
    while (due := world.next_due(until)) is not None:
        at, duty, object_id = due
        world.clock.jump_to(at)
        obj = world.find(object_id)
        if obj is not None:
            DUTIES[duty](world, obj, at)
    world.clock.jump_to(until)


def _finalize(world: World, invoice: Json, at: int) -> None:
    if invoice["status"] != "draft" or not invoice["auto_advance"]:
        return
    collection.finalize(world, invoice)
    if invoice["status"] != "open":
        return
    if invoice["collection_method"] == "send_invoice":
        world.emit("invoice.sent", invoice)
    else:
        collection.collect(world, invoice, collection.method_for(world, invoice))


def _collect(world: World, invoice: Json, at: int) -> None:
    if invoice["status"] == "open" and invoice["next_payment_attempt"] == at:
        collection.collect(world, invoice, collection.method_for(world, invoice))


def _cancel(world: World, subscription: Json, at: int) -> None:
    if subscription["cancel_at"] == at and subscription["status"] not in ("canceled", "incomplete_expired"):
        standing.end(world, subscription, "cancellation_requested")


def _close_session(world: World, session: Json, at: int) -> None:
    if session["status"] == "open":
        with world.changing(session, "checkout.session.expired"):
            session.update(status="expired", url=None)


DUTIES: dict[str, Callable[[World, Json, int], None]] = {
    "renew": subscriptions.renew,
    "warn": lambda world, subscription, at: subscriptions.warn(world, subscription),
    "expire": lambda world, subscription, at: subscriptions.expire(world, subscription),
    "cancel": _cancel,
    "finalize": _finalize,
    "collect": _collect,
    "close_session": _close_session,
}
