"""Asking Stripe, through its own SDK, against a small server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from stripe_shapes import CHARGE, INVOICE, SUBSCRIPTION, translate

from billhook.errors import KeyRefused, TryAgain, Unprocessable
from billhook.providers.stripe_api import READ_AS, StripeApi
from billhook.providers.stripe_collecting import StripeCollecting
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.kinds import KINDS
from billhook_testing.fake_stripe import FakeStripe

LINES = [{"id": f"il_{n:03}", "object": "line_item", "amount": n, "quantity": 1} for n in range(250)]
MONEY = {"currency": "eur", "amount": 5}
OBJECTS: dict[str, dict[str, Any]] = {
    "/v1/customers/cus_1": {"id": "cus_1", "object": "customer", "deleted": True},
    "/v1/products/prod_1": {"id": "prod_1", "object": "product", "name": "Tea"},
    "/v1/prices/price_1": {"id": "price_1", "object": "price", "currency": "eur", "unit_amount_decimal": "0.5"},
    "/v1/subscriptions/sub_1": SUBSCRIPTION,
    "/v1/invoices/in_1": {**INVOICE, "lines": {"object": "list", "data": LINES[:10], "has_more": True}},
    "/v1/payment_intents/pi_1": {"id": "pi_1", "object": "payment_intent", "status": "processing", **MONEY},
    "/v1/charges/ch_1": CHARGE,
    "/v1/invoice_payments/inpay_1": {
        "id": "inpay_1",
        "object": "invoice_payment",
        "invoice": "in_1",
        "status": "paid",
        "currency": "eur",
    },
    "/v1/refunds/re_1": {"id": "re_1", "object": "refund", "status": "succeeded", **MONEY},
    "/v1/credit_notes/cn_1": {
        "id": "cn_1",
        "object": "credit_note",
        "invoice": "in_1",
        "status": "issued",
        "currency": "eur",
        "subtotal": 5,
        "total": 5,
    },
    "/v1/disputes/dp_1": {"id": "dp_1", "object": "dispute", "status": "lost", **MONEY},
    "/v1/checkout/sessions/cs_1": {"id": "cs_1", "object": "checkout.session", "status": "open"},
    "/v1/customers/cus_odd": {"id": "cus_odd", "object": "customer", "name": "a\0b"},
}
REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "/v1/customers/cus_busy": (429, {"Retry-After": "7"}),
    "/v1/customers/cus_down": (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    "/v1/customers/cus_forbidden": (401, {}),
}


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/v1/invoices/in_1/lines":
            query = parse_qs(url.query)
            after = query.get("starting_after", [""])[0]
            start = next((n + 1 for n, line in enumerate(LINES) if line["id"] == after), 0)
            end = start + int(query["limit"][0])
            page = {"object": "list", "data": LINES[start:end], "has_more": end < len(LINES), "url": url.path}
            self.answer(200, page)
        elif url.path in OBJECTS:
            self.answer(200, OBJECTS[url.path])
        elif url.path in REFUSALS:
            status, headers = REFUSALS[url.path]
            self.answer(status, {"error": {"message": "no"}}, headers)
        else:
            error = {"type": "invalid_request_error", "code": "resource_missing", "message": "No such thing"}
            self.answer(404, {"error": error})

    def answer(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def api() -> Iterator[StripeApi]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        asked = StripeApi("sk_test_1", base_url=f"http://127.0.0.1:{server.server_address[1]}")
        yield asked
        asked.close()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", [path for path in OBJECTS if not path.endswith("odd")])
def test_every_kind_can_be_asked_for(api: StripeApi, path: str) -> None:
    service, _, external_id = path.removeprefix("/v1/").rpartition("/")
    (kind,) = (kind for kind, (name, _) in READ_AS.items() if name == service.replace("/", "."))
    found = api.fetch(kind, external_id)
    assert (found.kind, found.external_id) == (kind, external_id)


def test_every_kind_of_the_book_is_known_to_the_api() -> None:
    assert READ_AS.keys() == KINDS.keys()


def test_an_invoice_comes_with_all_its_lines(api: StripeApi) -> None:
    invoice = api.fetch("invoice", "in_1")
    assert isinstance(invoice, Invoice)
    assert [line.external_id for line in invoice.lines] == [line["id"] for line in LINES]
    assert invoice.lines_complete


def test_an_answer_and_an_event_give_the_same_entry(api: StripeApi) -> None:
    assert api.fetch("charge", "ch_1") == translate("charge.updated", CHARGE).changes[0].object


def test_what_stripe_says_of_a_deleted_customer_is_a_deletion(api: StripeApi) -> None:
    assert api.fetch("customer", "cus_1").deleted


def test_what_stripe_does_not_know_is_no_matter_of_waiting(api: StripeApi) -> None:
    with pytest.raises(Unprocessable, match="customer cus_gone: Stripe says: No such thing"):
        api.fetch("customer", "cus_gone")


def test_an_answer_that_sql_cannot_hold_is_refused(api: StripeApi) -> None:
    with pytest.raises(Unprocessable, match="customer cus_odd: text without NUL"):
        api.fetch("customer", "cus_odd")


def test_a_key_that_is_refused_is_no_outage(api: StripeApi) -> None:
    with pytest.raises(KeyRefused, match="refuses the API key"):
        api.fetch("customer", "cus_forbidden")


@pytest.mark.parametrize(
    ("external_id", "wait", "said"),
    [("cus_busy", 7, "429"), ("cus_down", None, "503")],
)
def test_what_may_pass_is_tried_again(api: StripeApi, external_id: str, wait: float | None, said: str) -> None:
    with pytest.raises(TryAgain, match=said) as error:
        api.fetch("customer", external_id)
    assert error.value.after_seconds == wait


def test_an_unreachable_stripe_is_tried_again() -> None:
    api = StripeApi("sk_test_1", base_url="http://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(TryAgain, match="could not be reached"):
        api.fetch("customer", "cus_1")
    api.close()


@pytest.mark.parametrize("api_key", ["sk_test_fake", "sk_org_test_fake"])
def test_whoever_asks_of_a_connected_account_and_whoever_collects_there_names_it_alike(api_key: str) -> None:
    with FakeStripe(api_key=api_key) as fake:
        fake.connect("acct_1")
        options: Any = {"stripe_context" if api_key.startswith("sk_org_") else "stripe_account": "acct_1"}
        v1 = fake.client().v1
        customer = v1.customers.create({"name": "Eve"}, options).id
        invoice = v1.invoices.create({"customer": customer, "currency": "eur"}, options).id
        api = StripeCollecting(api_key, base_url=fake.url)
        try:
            assert api.fetch("customer", customer, account="acct_1").external_id == customer
            assert api.last_look(str(invoice), account="acct_1")[0].customer == customer
            assert api.mark_uncollectible(str(invoice), account="acct_1") is not None  # it is a draft: Stripe says so
            for ask in (lambda: api.fetch("customer", customer), lambda: api.last_look(str(invoice), account="")):
                with pytest.raises(Unprocessable):
                    ask()
        finally:
            api.close()
