"""Whom merchants bill."""

from __future__ import annotations

import msgspec

from billhook.rules.book.objects import BookObject, Ref


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    line1: str | None = None
    line2: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None
    """ISO 3166-1 alpha-2."""


class Customer(BookObject, frozen=True, kw_only=True):
    kind = "customer"
    prefix = "cus"

    name: str | None = None
    email: str | None = None
    phone: str | None = None
    currency: str | None = None
    address: Address | None = None
    tax_exempt: str | None = None
    default_payment_method: Ref | None = None
