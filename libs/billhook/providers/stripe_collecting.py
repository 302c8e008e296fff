"""Collecting at Stripe: pay an invoice, charge a customer off session, and find out what became of either.

Every call that moves money carries the attempt's own idempotency key. Without an answer the outcome is `pending`, until
a later question finds out what happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from billhook.errors import TryAgain, Unprocessable
from billhook.providers.payments import Collected
from billhook.providers.stripe_api import StripeApi, reason_of, retry_after
from billhook.providers.stripe_invoices import Invoice as ReadInvoice
from billhook.providers.stripe_objects import read
from billhook.rules.book.invoice import Invoice
from billhook.rules.declines import DECLINES
from billhook.rules.payment_attempts import ATTEMPT, ATTEMPT_OF_INVOICE, Answer, declined

if TYPE_CHECKING:
    import stripe

_MOST_PAGES: Final = 20
"""Of open invoices, the newest first, that are looked through for one that Stripe retries."""
_CLOCKS_APART: Final = timedelta(seconds=5)
_NO_METHOD: Final = re.compile(r"default.{0,3}(payment.method|source)|missing a payment method", re.IGNORECASE)
_UNDER_WAY: Final = ("processing", "requires_capture")
_NOT_FOUND: Final = "resource_missing"
_NOT_AUTHENTICATED: Final = "payment_intent_authentication_failure"
"""The customer did not do what their bank wanted."""


class StripeCollecting(StripeApi):
    """The `PaymentsApi` for Stripe."""

    def last_look(self, invoice: str, *, account: str) -> tuple[Invoice, Answer | None]:
        """The invoice (as far as one answer shows it), and how the bank declined it when it was charged last."""
        try:
            found = self._with_payments(invoice, account)
        except _Gone:
            raise Unprocessable(f"invoice {invoice}: Stripe has no such invoice") from None
        seen = read(ReadInvoice, found, f"invoice {invoice}")
        assert isinstance(seen, Invoice)
        error = next((one["last_payment_error"] for one in _intents(found) if one.get("last_payment_error")), None)
        return seen, None if error is None else _declined(error)

    def pay_invoice(self, invoice: str, *, key: str, account: str) -> Answer:
        """Charge what is open of an invoice of Stripe's, to the method that Stripe would take itself."""
        return self._sent(
            lambda options: self._client.v1.invoices.pay(invoice, {"off_session": True}, options), key, account
        )

    def charge(
        self, customer: str, amount: int, currency: str, *, key: str, metadata: dict[str, str], account: str
    ) -> Answer:
        """Charge a customer's default method, off session."""
        try:
            method = self._default_method(customer, account)
        except _Gone:
            return Answer("refused", "customer_deleted", "The customer was deleted at the provider.")
        if method is None:
            return Answer("method_missing", "payment_method_missing")
        params: Any = {
            "amount": amount,
            "currency": currency,
            "customer": customer,
            "payment_method": method,
            "off_session": True,
            "confirm": True,
            "metadata": metadata,
        }
        return self._sent(lambda options: self._client.v1.payment_intents.create(params, options), key, account)

    def invoice_outcome(self, invoice: str, since: datetime, *, account: str) -> Answer:
        """What became of an attempt at an invoice that was sent at `since`."""
        found = self._with_payments(invoice, account)
        known = _intents(found)
        intent = next((one for one in known if one["status"] == "succeeded"), known[0] if known else {})
        if found["status"] != "open" and intent.get("status") != "succeeded":
            return Answer("refused", "settled_elsewhere", f"The invoice is {found['status']} by other means.")
        return self._judged(intent, since, account, action_url=found.get("hosted_invoice_url"))

    def charge_outcome(
        self, attempt: str, customer: str, since: datetime, *, account: str, key_forgotten: bool
    ) -> Answer:
        """What became of an attempt to charge a customer. The list of their payments is exact at once; a search of all
        is a minute late, and finds it wherever it is."""
        if key_forgotten:
            found = self._intents_with(ATTEMPT, attempt, account)
        else:
            found = self._last_intents(customer, since, account)["data"]
        ours = [one for one in found if (one.get("metadata") or {}).get(ATTEMPT) == attempt]
        return self._judged(ours[0], since, account) if ours else Answer("nothing")

    def collected(self, customer: str, invoice: str, since: datetime, *, account: str) -> Collected | None:
        """A payment of the customer's that was collected for an invoice of ours since then."""
        try:
            page = self._last_intents(customer, since, account)
        except _Gone:
            return None  # the customer was deleted, which charging them says
        found = page["data"]
        if page.get("has_more"):
            found = [*found, *self._intents_with(ATTEMPT_OF_INVOICE, invoice, account)]
        ours = [one for one in found if (one.get("metadata") or {}).get(ATTEMPT_OF_INVOICE) == invoice]
        done = next((one for one in ours if one["status"] == "succeeded"), None)
        if done is not None:
            return Collected(done["id"], done["amount_received"])
        if under_way := next((one["id"] for one in ours if one["status"] in _UNDER_WAY), None):
            raise TryAgain(f"payment {under_way} of this invoice is under way")
        return None

    def cancel_payment(self, payment: str, *, account: str) -> Answer:
        """Make sure that nothing comes of a payment any more. Where it was too late, say what came of it."""
        self._done(lambda options: self._client.v1.payment_intents.cancel(payment, {}, options), account)
        intent = self._asked(lambda options: self._client.v1.payment_intents.retrieve(payment, {}, options), account)
        if intent["status"] == "succeeded":
            return Answer("succeeded", reference=payment)
        return Answer("soft" if intent["status"] == "canceled" else "pending", "superseded", reference=payment)

    def cancel_subscription(self, subscription: str, *, account: str) -> str | None:
        """The final actions return why they could not be done; None: it is done, now or before."""
        return self._done(lambda options: self._client.v1.subscriptions.cancel(subscription, {}, options), account)

    def pause_collection(self, subscription: str, *, account: str) -> str | None:
        params: Any = {"pause_collection": {"behavior": "void"}}
        return self._done(lambda options: self._client.v1.subscriptions.update(subscription, params, options), account)

    def mark_uncollectible(self, invoice: str, *, account: str) -> str | None:
        return self._done(lambda options: self._client.v1.invoices.mark_uncollectible(invoice, {}, options), account)

    def retrying_invoice(self, *, account: str) -> str | None:
        """An open invoice that Stripe means to try again by itself: a sign that its retries are on."""
        after: str | None = None
        for _ in range(_MOST_PAGES):
            page = self._open_invoices(after, account)
            retrying = next((one["id"] for one in page["data"] if one.get("next_payment_attempt")), None)
            if retrying is not None or not page.get("has_more") or not page["data"]:
                return retrying
            after = page["data"][-1]["id"]
        return None

    def _open_invoices(self, after: str | None, account: str) -> dict[str, Any]:
        params: Any = {"status": "open", "collection_method": "charge_automatically", "limit": self._page_size}
        if after is not None:
            params["starting_after"] = after
        return self._asked(lambda options: self._client.v1.invoices.list(params, options), account)

    def write_refusal(self, *, account: str) -> str | None:
        """Why this key may not write; None if it may. Asked with a call that can change nothing: no such invoice."""
        import stripe

        try:
            self._client.v1.invoices.pay("in_billhook_checks_its_key", {}, self._options(account))
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            return str(error.user_message or error)[:300]
        except stripe.InvalidRequestError:
            return None
        except stripe.StripeError as error:
            raise TryAgain(f"the key: {reason_of(error)}", after_seconds=retry_after(error)) from error
        return None

    def _last_intents(self, customer: str, since: datetime, account: str) -> dict[str, Any]:
        """The last hundred payment intents of a customer: the list of one customer's is exact at once."""
        created = {"gte": int((since - _CLOCKS_APART).timestamp())}
        params: Any = {"customer": customer, "created": created, "limit": 100}
        return self._asked(lambda options: self._client.v1.payment_intents.list(params, options), account)

    def _intents_with(self, name: str, value: str, account: str) -> list[dict[str, Any]]:
        """Wherever they are, and a minute late."""
        query: Any = {"query": f"metadata['{name}']:'{value}'", "limit": 100}
        page = self._asked(lambda options: self._client.v1.payment_intents.search(query, options), account)
        found: list[dict[str, Any]] = page["data"]
        return found

    def _with_payments(self, invoice: str, account: str) -> dict[str, Any]:
        which: Any = {"expand": ["payments.data.payment.payment_intent"]}
        return self._asked(lambda options: self._client.v1.invoices.retrieve(invoice, which, options), account)

    def _default_method(self, customer: str, account: str) -> str | None:
        found = self._asked(lambda options: self._client.v1.customers.retrieve(customer, {}, options), account)
        if found.get("deleted"):
            raise _Gone
        method = (found.get("invoice_settings") or {}).get("default_payment_method") or found.get("default_source")
        return method["id"] if isinstance(method, dict) else method

    def _judged(self, intent: dict[str, Any], since: datetime, account: str, action_url: str | None = None) -> Answer:
        """What a payment intent says about the attempt that was sent at `since`."""
        reference, status = intent.get("id"), intent.get("status")
        if status == "succeeded":
            return Answer("succeeded", reference=reference)
        if status in _UNDER_WAY:
            return Answer("pending", reference=reference)
        if status == "requires_action":
            return Answer("requires_action", "requires_action", reference=reference, action_url=action_url)
        if status == "canceled":
            return Answer("soft", "canceled", reference=reference)
        error = intent.get("last_payment_error") or {}
        if error.get("code") == _NOT_AUTHENTICATED:
            return Answer("soft", _NOT_AUTHENTICATED, error.get("message"), reference, action_url)
        charge = intent.get("latest_charge")
        if not isinstance(charge, str):
            return Answer("nothing", reference=reference)
        found = self._asked(lambda options: self._client.v1.charges.retrieve(charge, {}, options), account)
        if found["created"] < int((since - _CLOCKS_APART).timestamp()):
            return Answer("nothing", reference=reference)  # that was an attempt before this one
        told = {"code": found.get("failure_code"), **error}
        return _declined(told, found.get("outcome"), reference=reference, action_url=action_url)

    def _sent(self, call: Callable[[stripe.RequestOptions], Any], key: str, account: str) -> Answer:
        """Make a call that moves money. Raises `TryAgain` only where certainly nothing happened."""
        import stripe

        try:
            response = call({**self._options(account), "idempotency_key": key}).last_response
        except stripe.CardError as error:
            sent_back: Any = error.json_body or {}
            body = sent_back.get("error", {})
            intent = body.get("payment_intent")
            answer = _declined(
                {**body, "code": error.code, "message": error.user_message},
                reference=intent.get("id") if isinstance(intent, dict) else intent,
                action_url=_action_url(intent),
            )
            return _with_replay(answer, error.headers)
        except stripe.RateLimitError as error:
            raise TryAgain(reason_of(error), after_seconds=retry_after(error) or 1.0) from error
        except stripe.IdempotencyError as error:
            # Another process is sending the same attempt at this moment.
            return Answer("pending", "idempotency_key_in_use", str(error)[:300])
        except stripe.InvalidRequestError as error:
            said = str(error.user_message or error)[:300]
            if _NO_METHOD.search(said):
                return Answer("method_missing", "payment_method_missing", said)
            if error.code in DECLINES:  # a mandate that was withdrawn, an account that is closed
                return _with_replay(declined(error.code, None, said), error.headers)
            return _with_replay(Answer("refused", error.code or "invalid_request", said), error.headers)
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            return Answer("refused", "api_key_refused", str(error.user_message or error)[:300])
        except stripe.StripeError as error:
            return _with_replay(Answer("pending", "no_answer", reason_of(error)), error.headers)
        data: Any = response.data
        return _with_replay(_of_success(data), response.headers)

    def _asked(self, call: Callable[[stripe.RequestOptions], Any], account: str) -> dict[str, Any]:
        """Make a call that only reads. Raises `TryAgain`; what is not there is `_Gone` or empty."""
        import stripe

        try:
            answer: dict[str, Any] = call(self._options(account)).last_response.data
        except stripe.InvalidRequestError as error:
            if error.code == _NOT_FOUND:
                raise _Gone from error
            raise TryAgain(f"Stripe says: {error.user_message or error}") from error
        except stripe.StripeError as error:
            raise TryAgain(reason_of(error), after_seconds=retry_after(error)) from error
        return answer

    def _done(self, call: Callable[[stripe.RequestOptions], Any], account: str) -> str | None:
        """Make a change that is harmless to make twice. Raises `TryAgain`."""
        import stripe

        try:
            call(self._options(account))
        except stripe.InvalidRequestError as error:
            return str(error.user_message or error)[:300]
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            return str(error.user_message or error)[:300]
        except stripe.StripeError as error:
            raise TryAgain(reason_of(error), after_seconds=retry_after(error)) from error
        return None


def _intents(invoice: dict[str, Any]) -> list[dict[str, Any]]:
    """The payment intents of an invoice that was asked for with them."""
    payments = (invoice.get("payments") or {}).get("data", [])
    intents = [payment["payment"].get("payment_intent") for payment in payments]
    return [one for one in intents if isinstance(one, dict)]


def _declined(error: dict[str, Any], outcome: dict[str, Any] | None = None, **more: str | None) -> Answer:
    """What the error of a charge says, with what the charge itself says beside it."""
    beside = outcome or {}
    return declined(
        error.get("code"),
        error.get("decline_code") or beside.get("reason"),
        error.get("message"),
        advice=error.get("advice_code") or beside.get("advice_code"),
        network_advice=error.get("network_advice_code") or beside.get("network_advice_code"),
        **more,
    )


class _Gone(Exception):
    """The object was deleted, or never was this account's."""


def _of_success(data: dict[str, Any]) -> Answer:
    """A call that Stripe took: an invoice or a payment intent."""
    status = data.get("status")
    if status in ("paid", "succeeded"):
        return Answer("succeeded", reference=data["id"] if data.get("object") == "payment_intent" else None)
    if status == "requires_action":
        return Answer("requires_action", "requires_action", reference=data.get("id"), action_url=_action_url(data))
    return Answer("pending", str(status))


def _action_url(intent: Any) -> str | None:
    action = intent.get("next_action") if isinstance(intent, dict) else None
    redirect = (action or {}).get("redirect_to_url") or {}
    url = redirect.get("url")
    return url if isinstance(url, str) else None


def _with_replay(answer: Answer, headers: Any) -> Answer:
    received = {str(name).lower(): value for name, value in dict(headers or {}).items()}
    return replace(answer, replayed=True) if received.get("idempotent-replayed") == "true" else answer
