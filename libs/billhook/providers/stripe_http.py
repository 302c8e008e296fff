"""The HTTP client that Stripe's SDK is given: each request has its turn first, however many pages an answer takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import stripe

from billhook.providers.provider import Gate, seconds_of


class GatedClient(stripe.RequestsClient):
    def __init__(self, gate: Gate, *, timeout_seconds: float) -> None:
        super().__init__(timeout=timeout_seconds)
        self._gate = gate

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **more: Any
    ) -> Any:
        sent = headers or {}
        account = sent.get("Stripe-Account") or sent.get("Stripe-Context") or ""
        self._gate.enter(account)
        answer = super().request(method, url, headers, post_data, **more)
        if answer[1] == 429:
            self._gate.limited(account, seconds_of(answer[2]))
        return answer
