"""Every provider of ours passes what is asked of all."""

from __future__ import annotations

import functools
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import paddle_shapes
import pytest

from billhook.providers.paddle import Paddle
from billhook.providers.paddle_api import PaddleApi
from billhook.providers.standard import Standard
from billhook.providers.stripe import Stripe
from billhook.providers.stripe_api import StripeApi
from billhook.rules.signing import signed_headers
from billhook_testing.conformance import ApiConformance, ProviderConformance
from billhook_testing.fake_paddle import FakePaddle
from billhook_testing.fake_stripe import FakeStripe


class TestStripe(ProviderConformance):
    provider = Stripe()
    secrets = ("whsec_old", "whsec_new")

    def signed(self, body: bytes, secret: str, at: datetime) -> dict[str, str]:
        seconds = int(at.timestamp())
        digest = hmac.digest(secret.encode(), b"%d.%s" % (seconds, body), "sha256").hex()
        return {"stripe-signature": f"t={seconds},v1={digest}"}

    @functools.cache  # noqa: B019
    def life(self) -> list[bytes]:
        """Two months, as the fake Stripe tells them: a renewal that is paid and one that is declined."""
        with FakeStripe() as fake:
            live(fake)
            answer: Any = fake.client().v1.events.list({"limit": 100}).last_response
        told = [json.dumps(event).encode() for event in reversed(answer.data["data"])]
        return [body for body in told if self.provider.translate({}, body, datetime.now(UTC)).changes]

    def unknown(self) -> bytes:
        return json.dumps({"id": "evt_1", "type": "galaxy.collided", "created": 1, "data": {"object": {}}}).encode()


class TestPaddle(ProviderConformance):
    provider = Paddle()
    secrets = ("pdl_ntfset_old", "pdl_ntfset_new")

    def signed(self, body: bytes, secret: str, at: datetime) -> dict[str, str]:
        return {"paddle-signature": paddle_shapes.signature(body, secret, at)}

    def life(self) -> list[bytes]:
        declined = paddle_shapes.tried("error", error_code="declined")
        captured = paddle_shapes.tried(
            "captured", "try_2", created_at="2026-03-01T11:40:00Z", captured_at="2026-03-01T11:41:00.25Z"
        )
        paid = paddle_shapes.transaction("paid", payments=[captured, declined], updated_at="2026-03-01T11:41:01Z")
        steps: list[tuple[str, Any]] = [
            ("customer.created", {"id": "ctm_1", "email": "ada@example.com", "updated_at": "2026-03-01T09:00:00Z"}),
            ("transaction.created", paddle_shapes.transaction("draft", updated_at="2026-03-01T10:00:00Z")),
            ("transaction.ready", paddle_shapes.transaction("ready")),
            ("transaction.payment_failed", paddle_shapes.transaction("ready", payments=[declined])),
            ("transaction.paid", paid),
            ("transaction.completed", paid | {"status": "completed", "updated_at": "2026-03-01T11:41:02Z"}),
            ("adjustment.created", paddle_shapes.adjustment("refund", "pending_approval")),
            ("adjustment.updated", paddle_shapes.adjustment("refund", "approved", updated_at="2026-03-03T00:00:00Z")),
        ]
        return [
            paddle_shapes.event(event_type, data, event_id=f"evt_{n}", notification_id=f"ntf_{n}")
            for n, (event_type, data) in enumerate(steps)
        ]

    def unknown(self) -> bytes:
        return paddle_shapes.event("galaxy.collided", {"id": "gal_1"})


class TestStandard(ProviderConformance):
    provider = Standard()
    secrets = (f"whsec_{'b2xk' * 8}", f"whsec_{'bmV3' * 8}")

    def signed(self, body: bytes, secret: str, at: datetime) -> dict[str, str]:
        return signed_headers([secret], "msg_1", at, body)

    def life(self) -> list[bytes]:
        def told(event_type: str, second: int, **data: Any) -> bytes:
            at = datetime(2026, 3, 1, 10, 0, second, tzinfo=UTC).isoformat()
            return json.dumps({"type": event_type, "timestamp": at, "data": data}).encode()

        amounts = {"currency": "eur", "subtotal": 5, "total": 5, "amount_due": 5}
        opened = {"external_id": "i1", "status": "open", **amounts, "amount_paid": 0, "amount_remaining": 5}
        return [
            told("customer.created", 1, external_id="c1", name="Ada"),
            told("invoice.finalized", 2, **opened),
            told("invoice.paid", 3, **{**opened, "status": "paid", "amount_paid": 5, "amount_remaining": 0}),
            told("customer.deleted", 4, external_id="c1", name="Ada"),
        ]

    def unknown(self) -> bytes:
        return b'{"type": "galaxy.collided", "data": {}}'


def live(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    customer = v1.customers.create({"email": "ada@example.com"})
    card = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})
    recurring: Any = {"interval": "month"}
    price = v1.prices.create(
        {"product_data": {"name": "Pro"}, "currency": "usd", "unit_amount": 1900, "recurring": recurring}
    )
    fake.advance(seconds=5)
    v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
    fake.decline(customer.id, "insufficient_funds")
    fake.advance(days=32)


class TestStripeApi(ApiConformance):
    listed = "customer"

    @pytest.fixture(autouse=True)
    def held(self) -> Iterator[None]:
        with FakeStripe() as fake:
            for number in range(7):
                fake.client().v1.customers.create({"email": f"{number}@example.com"})
            now = fake.clock.now()
            type(self).since, type(self).until = now - timedelta(hours=1), now + timedelta(hours=1)
            self.fake, self._api = fake, StripeApi(fake.api_key, base_url=fake.url, page_size=3)
            yield
            self._api.close()

    def api(self) -> StripeApi:
        return self._api

    def befall(self, kind: Any) -> None:
        self.fake.faults.api(kind)

    def opened(self, body: bytes) -> Any:
        return Stripe().open({}, body)


class TestPaddleApi(ApiConformance):
    listed = "transaction"
    since = datetime(2026, 3, 1, tzinfo=UTC)
    until = datetime(2026, 3, 2, tzinfo=UTC)

    @pytest.fixture(autouse=True)
    def held(self) -> Iterator[None]:
        with FakePaddle(page_size=3) as fake:
            for n in range(7):
                tried = paddle_shapes.tried("error", f"try_{n}", error_code="declined")
                value = paddle_shapes.transaction("billed", id=f"txn_{n:02}", payments=[tried] if n % 2 else [])
                fake.put("transactions", value)
                event = {"event_id": f"evt_{n:02}", "event_type": "transaction.billed", "data": value}
                fake.put("events", {**event, "occurred_at": f"2026-03-01T11:00:0{n}.000001Z"})
            self.fake, self._api = fake, PaddleApi(fake.api_key, base_url=fake.url)
            yield
            self._api.close()

    def api(self) -> PaddleApi:
        return self._api

    def befall(self, kind: Any) -> None:
        self.fake.befall(kind)

    def opened(self, body: bytes) -> Any:
        return Paddle().open({}, body)

    @pytest.mark.parametrize("kind", ["not_json", "redirect"])
    def test_what_is_no_answer_of_paddles_is_refused(self, kind: Any) -> None:
        from billhook.errors import TryAgain, Unprocessable

        self.befall(kind)
        with pytest.raises((Unprocessable, TryAgain)):
            self._page(None)
