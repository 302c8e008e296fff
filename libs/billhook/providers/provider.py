"""What a payment provider, or an in-house system, is to billhook: who signed it, what is it, what does it mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from billhook.rules.book import BookObject, Translation

TOLERANCE_SECONDS = 300
"""How far a signature's timestamp may lie from our clock, both ways (Stripe's and Standard Webhooks' own figure)."""


class Envelope(msgspec.Struct, frozen=True):
    """What the door needs to know of an event: its id is what makes a second delivery a duplicate."""

    external_id: str
    type: str
    account: str = ""
    """The connected account an event is about, where a provider has such (Stripe Connect); ids repeat across them."""
    content: bytes = b""
    """What a second sending of the event repeats, where that is not the whole body: other bytes under a known id are a
    conflict."""


class Provider(Protocol):
    """One inbound provider. Every method is pure; `headers` has lower-case names."""

    @property
    def name(self) -> str: ...

    @property
    def merchant_of_record(self) -> bool:
        """Whether the provider sells in its own name: then the invoices are its own, and billhook draws none."""

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        """Return if one of `secrets` signed these exact bytes near `now`; else raise `SignatureRefused`."""

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        """Read the envelope. Raises `BodyRefused`; must withstand any bytes at all."""

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        """Say what the event means for the book. Raises `Unprocessable` with a reason a person can act on."""


class ProviderApi(Protocol):
    """A provider's own API, asked when events alone cannot say what is true."""

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        """The object as it is now, an invoice with all its lines; `account` is the connected account it belongs to.

        Raises `TryAgain`, or `Unprocessable` if it is unknown.
        """
