"""Stripe's API, asked when events alone cannot say what is true: through Stripe's own SDK."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from billhook.errors import TryAgain, Unprocessable
from billhook.providers import stripe_invoices, stripe_objects, stripe_payments
from billhook.providers.stripe_objects import Readable, read
from billhook.rules.book import BookObject

if TYPE_CHECKING:
    import stripe

READ_AS: Final[dict[str, tuple[str, type[Readable]]]] = {
    # kind: (the SDK's service, what its answer is read as)
    "customer": ("customers", stripe_objects.Customer),
    "product": ("products", stripe_objects.Product),
    "price": ("prices", stripe_objects.Price),
    "subscription": ("subscriptions", stripe_objects.Subscription),
    "invoice": ("invoices", stripe_invoices.Invoice),
    "payment": ("payment_intents", stripe_payments.PaymentIntent),
    "charge": ("charges", stripe_payments.Charge),
    "invoice_payment": ("invoice_payments", stripe_invoices.InvoicePayment),
    "refund": ("refunds", stripe_payments.Refund),
    "credit_note": ("credit_notes", stripe_invoices.CreditNote),
    "dispute": ("disputes", stripe_payments.Dispute),
    "checkout_session": ("checkout.sessions", stripe_objects.CheckoutSession),
}

_LARGEST_PAGE = 100


class StripeApi:
    """The `ProviderApi` for Stripe. Opens its connection with the first question; `close` ends it.

    Retries are the caller's, who keeps them in SQL; `max_network_retries` would only make one question take longer.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str | None = None,
        timeout_seconds: float = 10,
        max_network_retries: int = 0,
    ) -> None:
        import stripe  # 0.2 s, which only a process that asks Stripe spends

        self._http = stripe.RequestsClient(timeout=timeout_seconds)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url} if base_url else None,
            http_client=self._http,
            max_network_retries=max_network_retries,
        )

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        """The object as it is now, an invoice with all its lines; `account` is the connected account it belongs to.

        Raises `TryAgain`, or `Unprocessable` if it is unknown.
        """
        import stripe

        service, read_as = READ_AS[kind]
        what = f"{kind} {external_id}"
        options: stripe.RequestOptions = {"stripe_account": account} if account else {}
        try:
            answer = self._retrieve(service, external_id, options)
            if kind == "invoice" and (answer.get("lines") or {}).get("has_more"):
                answer["lines"] = {"data": self._lines(external_id, options), "has_more": False}
        except stripe.InvalidRequestError as error:
            raise Unprocessable(f"{what}: Stripe says: {error.user_message or error}") from error
        except stripe.StripeError as error:
            raise TryAgain(f"{what}: {_reason(error)}", after_seconds=_retry_after(error)) from error
        return read(read_as, answer, what)

    def close(self) -> None:
        self._http.close()  # type: ignore[no-untyped-call]

    def _retrieve(self, service: str, external_id: str, options: stripe.RequestOptions) -> dict[str, Any]:
        owner: Any = self._client.v1
        for name in service.split("."):
            owner = getattr(owner, name)
        # What came over the wire, since the SDK's own objects turn decimals and dates into other types.
        answer: dict[str, Any] = owner.retrieve(external_id, options=options).last_response.data
        return answer

    def _lines(self, invoice: str, options: stripe.RequestOptions) -> list[Any]:
        page = self._client.v1.invoices.line_items.list(invoice, {"limit": _LARGEST_PAGE}, options)
        lines: list[Any] = []
        while True:
            answer: Any = page.last_response
            lines += answer.data["data"]
            if not page.has_more:
                return lines
            page = page.next_page(**options)


def _reason(error: stripe.StripeError) -> str:
    return f"Stripe answered {error.http_status}" if error.http_status else "Stripe could not be reached"


def _retry_after(error: stripe.StripeError) -> float | None:
    headers: Any = error.headers or {}
    value = str(headers.get("retry-after") or headers.get("Retry-After") or "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else None
