"""What a provider's API must do for money to be collected through it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from billhook.providers.provider import ProviderApi
from billhook.rules.book.invoice import Invoice
from billhook.rules.payment_attempts import Answer


class Collected(NamedTuple):
    """Money that has come."""

    reference: str
    amount: int


class PaymentsApi(ProviderApi, Protocol):
    """A provider that can be asked to move money. `pending` is the outcome where no answer came; `TryAgain` means that
    certainly nothing happened. An attempt has one key for good: the same request under it never charges a second
    time."""

    def last_look(self, invoice: str, *, account: str) -> tuple[Invoice, Answer | None]:
        """An invoice of the provider's as it is now, and what was answered when it was charged last. Raises
        `Unprocessable` if it is unknown."""

    def pay_invoice(self, invoice: str, *, key: str, account: str) -> Answer:
        """Charge what is open of an invoice of the provider's."""

    def charge(
        self, customer: str, amount: int, currency: str, *, key: str, metadata: dict[str, str], account: str
    ) -> Answer:
        """Charge a customer's default method while they are away."""

    def collected(self, customer: str, invoice: str, since: datetime, *, account: str) -> Collected | None:
        """A payment of the customer's that some attempt collected for an invoice of ours since then. Raises `TryAgain`
        while one is under way."""

    def invoice_outcome(self, invoice: str, since: datetime, *, account: str) -> Answer:
        """What became of an attempt at an invoice that was sent at `since`."""

    def charge_outcome(
        self, attempt: str, customer: str, since: datetime, *, account: str, key_forgotten: bool
    ) -> Answer:
        """What became of an attempt to charge a customer."""

    def cancel_payment(self, payment: str, *, account: str) -> Answer:
        """Cancel a payment so that it cannot succeed any more; where it was too late, return its outcome."""

    def cancel_subscription(self, subscription: str, *, account: str) -> str | None:
        """Why it could not be done; None if it is done."""

    def pause_collection(self, subscription: str, *, account: str) -> str | None: ...
    def mark_uncollectible(self, invoice: str, *, account: str) -> str | None: ...

    def retrying_invoice(self, *, account: str) -> str | None:
        """An invoice that the provider means to try again by itself."""

    def write_refusal(self, *, account: str) -> str | None:
        """Why this key may not move money; None if it may."""
