"""What merchants sell: products, and their prices."""

from __future__ import annotations

from billhook.rules.book.objects import Amount, BookObject, Count, Ref


class Product(BookObject, frozen=True, kw_only=True):
    kind = "product"
    prefix = "prod"

    name: str | None = None
    """None only where all that is left of a deleted product is its id."""
    description: str | None = None
    active: bool = True


class Price(BookObject, frozen=True, kw_only=True):
    kind = "price"
    prefix = "price"

    product: Ref | None = None
    currency: str | None = None
    """None only where all that is left of a deleted price is its id."""
    unit_amount: Amount | None = None
    """None where the price is tiered or below one minor unit; see `unit_amount_decimal`."""
    unit_amount_decimal: str | None = None
    interval: str | None = None
    """day, week, month or year; None for a one-time price."""
    interval_count: Count | None = None
    usage_type: str | None = None
    active: bool = True
    nickname: str | None = None
