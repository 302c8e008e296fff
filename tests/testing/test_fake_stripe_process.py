"""The fake as a process of its own, steered over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import stripe


class Process:
    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "billhook_testing.fake_stripe", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        assert said["pid"] == self._process.pid
        self.url: str = said["url"]
        self.v1 = stripe.StripeClient(said["api_key"], base_addresses={"api": self.url}).v1

    def control(self, name: str, **arguments: Any) -> Any:
        request = urllib.request.Request(f"{self.url}/_fake/{name}", json.dumps(arguments).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def stop(self) -> int:
        self._process.terminate()
        code = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@pytest.fixture
def process() -> Iterator[Process]:
    running = Process("--port", "0", "--start", "2026-01-31T12:00:00+00:00", "--seed", "5")
    yield running
    assert running.stop() == 0


def test_every_control_is_reached_over_http(process: Process) -> None:
    assert process.url.startswith("http://127.0.0.1:")
    customer = process.v1.customers.create({"name": "Ada"})
    process.control("decline", customer=customer.id, code="lost_card")
    with pytest.raises(stripe.CardError) as declined:
        process.v1.payment_intents.create(
            {
                "amount": 500,
                "currency": "usd",
                "customer": customer.id,
                "payment_method": "pm_card_visa",
                "confirm": True,
            }
        )
    assert declined.value.error.decline_code == "lost_card"
    assert process.control("advance", days=1)["now"] == customer.created + 86_400
    process.control("api_fault", kind="server_error", times=1)
    with pytest.raises(stripe.APIError):
        process.v1.customers.retrieve(customer.id)
    process.control("clear_faults")
    process.control("pause_webhooks")
    process.control("add_webhook", url="http://127.0.0.1:9/", secret="whsec_x")
    process.v1.products.create({"name": "Pro"})
    assert process.control("deliver_pending") == 1
    assert [attempt["status"] for attempt in process.control("sent")] == [None]


def test_a_wrong_control_is_refused(process: Process) -> None:
    for name, arguments in (("dance", {}), ("advance", {"fortnights": 1}), ("api_fault", {"kind": "fire"})):
        with pytest.raises(urllib.error.HTTPError) as refused:
            process.control(name, **arguments)
        assert refused.value.code in (400, 404)
        refused.value.close()
