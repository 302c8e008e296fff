"""Checkouts, at which customers buy for the first time."""

from __future__ import annotations

from billhook.rules.book.customer import Address
from billhook.rules.book.objects import DELETED, Amount, BookObject, Ref


class CheckoutSession(BookObject, frozen=True, kw_only=True):
    kind = "checkout_session"
    prefix = "cs"

    customer: Ref | None = None
    subscription: Ref | None = None
    payment: Ref | None = None
    invoice: Ref | None = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    currency: str | None = None
    amount_total: Amount | None = None
    amount_tax: Amount | None = None
    """What of `amount_total` is tax."""
    client_reference_id: str | None = None
    customer_name: str | None = None
    """As it was given at this checkout, like what follows: a guest is no customer."""
    customer_email: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: tuple[str, ...] | None = None
    shipping_name: str | None = None
    shipping_address: Address | None = None

    @property
    def rank(self) -> int:
        return DELETED if self.deleted else {"open": 0, "expired": 1, "complete": 2}.get(self.status or "", 0)
