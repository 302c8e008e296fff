"""Stripe's API, asked when events alone cannot say what is true: through Stripe's own SDK."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import msgspec

from billhook.errors import AccountRefused, KeyRefused, NotPermitted, TryAgain, Unprocessable
from billhook.providers import listing, stripe_invoices, stripe_objects, stripe_payments
from billhook.providers.listing import ListedEvent, ListedObject, Page, Unread
from billhook.providers.provider import Gate, OpenGate, seconds_of
from billhook.providers.stripe_objects import Readable, read
from billhook.rules.book.objects import BookObject

if TYPE_CHECKING:
    import stripe

T = TypeVar("T")

READ_AS: Final[dict[str, tuple[str, type[Readable]]]] = {
    # kind: (the SDK's service, what its answer is read as)
    "customer": ("customers", stripe_objects.Customer),
    "product": ("products", stripe_objects.Product),
    "price": ("prices", stripe_objects.Price),
    "subscription": ("subscriptions", stripe_objects.Subscription),
    "subscription_schedule": ("subscription_schedules", stripe_objects.SubscriptionSchedule),
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

    lists: ClassVar[Mapping[str, tuple[str, ...]]] = {kind: (kind,) for kind in READ_AS}

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str | None = None,
        gate: Gate | None = None,
        timeout_seconds: float = 10,
        max_network_retries: int = 0,
        page_size: int = _LARGEST_PAGE,
    ) -> None:
        import stripe  # 0.2 s, which only a process that asks Stripe spends

        from billhook.providers.stripe_http import GatedClient

        self._page_size = page_size
        self._organization = api_key.startswith("sk_org_")
        self._http = GatedClient(gate or OpenGate(), timeout_seconds=timeout_seconds)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url} if base_url else None,
            http_client=self._http,
            max_network_retries=max_network_retries,
        )

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        """The object as it is now, with all its lines or items; `account` is the connected account it belongs to.

        Raises `TryAgain`, `Unprocessable` if it is unknown, or `KeyRefused`.
        """
        service, read_as = READ_AS[kind]
        what = f"{kind} {external_id}"
        options = self._options(account)

        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = self._service(service).retrieve(external_id, options=options).last_response.data
            for field, rest in (("lines", self._lines), ("items", self._items)):
                if (answer.get(field) or {}).get("has_more"):
                    answer[field] = {"data": rest(external_id, options), "has_more": False}
            return answer

        return read(read_as, _asked(what, ask), what)

    def list_events(
        self, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedEvent]:
        """Events that Stripe keeps: those of the last 30 days."""
        values, following = self._page("events", "events", since, until, cursor, account, {})
        events = tuple(
            ListedEvent(
                external_id=value["id"],
                type=value["type"],
                happened_at=datetime.fromtimestamp(value["created"], UTC),
                body=msgspec.json.encode(value),
                account=value.get("account") or "",
            )
            for value in values
        )
        return Page(events, (), following)

    def list_objects(
        self, name: str, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedObject]:
        """Objects made within the time. Of a deleted one Stripe shows nothing."""
        service, read_as = READ_AS[name]
        extra = {"status": "all"} if name == "subscription" else {}
        values, following = self._page(name, service, since, until, cursor, account, extra)
        items, unread = [], []
        for value in values:
            try:
                items.append(ListedObject(read(read_as, value, f"{name} {value['id']}")))
            except Unprocessable as reason:
                unread.append(Unread(value["id"], str(reason)))
        return Page(tuple(items), tuple(unread), following)

    def close(self) -> None:
        self._http.close()  # type: ignore[no-untyped-call]

    def _page(
        self,
        what: str,
        service: str,
        since: datetime,
        until: datetime,
        cursor: str | None,
        account: str,
        extra: dict[str, Any],
    ) -> tuple[list[dict[str, Any]], str | None]:
        """What one page of a list shows, and the cursor of the next."""
        after = listing.after(cursor, what)
        within = {"gte": math.floor(since.timestamp()), "lt": math.ceil(until.timestamp())}
        params = {"limit": self._page_size, "created": within, **({"starting_after": after} if after else {}), **extra}
        try:
            answer = _asked(
                what, lambda: self._service(service).list(params, self._options(account)).last_response.data
            )
        except Unprocessable as reason:
            if getattr(reason.__cause__, "param", None) == "starting_after":
                raise listing.PlaceLost(str(reason)) from reason
            raise
        values = answer.get("data")
        if not isinstance(values, list) or not all(_listed(value) for value in values):
            raise Unprocessable(f"{what}: what Stripe answered is no list of its objects")
        shown = [(value["id"], f"{value.get('created', 0):012}") for value in values]
        return values, listing.next_cursor(cursor, shown, more=bool(answer.get("has_more")), what=what)

    def _options(self, account: str) -> stripe.RequestOptions:
        """Whose objects are meant. An organization's key names its accounts in a header of its own."""
        if not account:
            return {}
        return {"stripe_context": account} if self._organization else {"stripe_account": account}

    def _service(self, path: str) -> Any:
        """The SDK's service. Callers take `last_response.data`, what came over the wire: the SDK's own objects turn
        decimals and dates into other types."""
        owner: Any = self._client.v1
        for name in path.split("."):
            owner = getattr(owner, name)
        return owner

    def _lines(self, invoice: str, options: stripe.RequestOptions) -> list[Any]:
        return _all_of(self._client.v1.invoices.line_items.list(invoice, {"limit": _LARGEST_PAGE}, options), options)

    def _items(self, subscription: str, options: stripe.RequestOptions) -> list[Any]:
        which: Any = {"subscription": subscription, "limit": _LARGEST_PAGE}
        return _all_of(self._client.v1.subscription_items.list(which, options), options)


def _all_of(page: Any, options: stripe.RequestOptions) -> list[Any]:
    found: list[Any] = []
    while True:
        found += page.last_response.data["data"]
        if not page.has_more:
            return found
        page = page.next_page(**options)


def _listed(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("created", 0), int)


def _asked(what: str, ask: Callable[[], T]) -> T:
    """What Stripe answers. Raises `TryAgain`, or `Unprocessable` for what asking again does not change."""
    import stripe

    try:
        return ask()
    except stripe.AuthenticationError as error:
        raise KeyRefused(f"{what}: Stripe refuses the API key (401): {error.user_message or error}") from error
    except stripe.PermissionError as error:
        if error.error is not None and error.error.code == "account_invalid":
            raise AccountRefused(f"{what}: the API key may not see the account: {error.user_message}") from error
        raise NotPermitted(f"{what}: the API key may not read it: {error.user_message or error}") from error
    except stripe.InvalidRequestError as error:
        raise Unprocessable(f"{what}: Stripe says: {error.user_message or error}") from error
    except stripe.StripeError as error:
        raise TryAgain(f"{what}: {reason_of(error)}", after_seconds=retry_after(error)) from error


def reason_of(error: stripe.StripeError) -> str:
    return f"Stripe answered {error.http_status}" if error.http_status else "Stripe could not be reached"


def retry_after(error: stripe.StripeError) -> float | None:
    headers: Any = error.headers
    return seconds_of(headers)
