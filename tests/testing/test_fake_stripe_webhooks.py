"""What the fake sends: signed, in order, again until it is taken; and the faults on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stripe

from billhook_testing.fake_stripe import FakeStripe

SECRET = "whsec_of_the_test"


class Receiver:
    """An endpoint that keeps what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                receiver.signatures.append(self.headers["stripe-signature"])
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks?from=stripe"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture
def fake(receiver: Receiver) -> Iterator[FakeStripe]:
    with FakeStripe(webhook_url=receiver.url, webhook_secret=SECRET) as running:
        yield running


def make(fake: FakeStripe, count: int) -> list[str]:
    """Make `count` events and give their ids, oldest first."""
    before = len(fake.events)
    for at in range(count):
        fake.client().v1.customers.create({"name": f"Customer {at}"})
    return [event["id"] for event in fake.events[before:]]


def test_events_arrive_in_order_and_the_sdk_takes_their_signature(fake: FakeStripe, receiver: Receiver) -> None:
    ids = make(fake, 5)
    fake.wait_until_delivered()
    assert receiver.ids == ids
    for body, signature in zip(receiver.bodies, receiver.signatures, strict=True):
        assert stripe.WebhookSignature.verify_header(body, signature, SECRET, tolerance=300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(receiver.bodies[0], receiver.signatures[1], SECRET, tolerance=300)
    assert json.loads(receiver.bodies[0])["pending_webhooks"] == 1
    assert [event.pending_webhooks for event in fake.client().v1.events.list().data] == [0] * 5


def test_a_refused_webhook_is_sent_again_with_the_same_bytes(fake: FakeStripe, receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    ids = make(fake, 1)
    fake.wait_until_delivered()
    assert receiver.ids == ids * 3
    assert len(set(receiver.bodies)) == 1
    assert [(sent.attempt, sent.status, sent.delivered) for sent in fake.sent] == [
        (1, 500, False),
        (2, 503, False),
        (3, 200, True),
    ]


def test_attempts_are_bounded_and_a_resend_still_works(fake: FakeStripe, receiver: Receiver) -> None:
    fake.webhooks.pause()
    receiver.answers = [500] * 8
    ids = make(fake, 1)
    left = [fake.deliver_pending() for _ in range(8)]
    assert left == [1] * 7 + [0]
    assert fake.webhooks.given_up == ids
    undelivered = fake.client().v1.events.list({"delivery_success": False}).data
    assert [event.id for event in undelivered] == ids
    fake.resend(ids[0])
    fake.deliver_pending()
    assert receiver.ids == ids * 9
    assert len(set(receiver.bodies)) == 1
    assert fake.client().v1.events.retrieve(ids[0]).pending_webhooks == 0


def test_an_endpoint_that_is_down_gets_its_events_later(receiver: Receiver) -> None:
    dead = Receiver()
    dead.close()
    with FakeStripe(webhook_url=dead.url) as fake:
        fake.add_webhook(receiver.url)
        fake.webhooks.pause()
        ids = make(fake, 2)
        assert fake.deliver_pending() == 2
        assert receiver.ids == ids
        assert [sent.status for sent in fake.sent if sent.url == dead.url] == [None, None]
        assert all(sent.error for sent in fake.sent if sent.url == dead.url)


def test_a_duplicate_comes_twice(fake: FakeStripe, receiver: Receiver) -> None:
    fake.faults.webhooks("duplicate")
    first, second = make(fake, 2)
    fake.wait_until_delivered()
    assert receiver.ids == [first, first, second]
    assert receiver.bodies[0] == receiver.bodies[1]


def test_a_dropped_event_is_only_in_the_log(fake: FakeStripe, receiver: Receiver) -> None:
    v1 = fake.client().v1
    fake.faults.webhooks("drop", type="customer.created")
    v1.products.create({"name": "Pro"})
    lost, kept = make(fake, 2)
    fake.wait_until_delivered()
    assert lost not in receiver.ids
    assert receiver.ids[-1] == kept
    assert [event.id for event in v1.events.list({"delivery_success": False}).data] == [lost]


def test_a_window_of_events_is_sent_in_another_order(fake: FakeStripe, receiver: Receiver) -> None:
    fake.faults.webhooks("reorder", times=4, window=4)
    ids = make(fake, 5)
    fake.wait_until_delivered()
    assert sorted(receiver.ids[:4]) == sorted(ids[:4])
    assert receiver.ids[:4] != ids[:4]
    assert receiver.ids[4] == ids[4]


def test_an_unfilled_window_is_sent_too(fake: FakeStripe, receiver: Receiver) -> None:
    fake.faults.webhooks("reorder", times=10, window=10)
    ids = make(fake, 2)
    fake.wait_until_delivered()
    assert receiver.ids == ids[::-1]


def test_a_delayed_event_is_overtaken(fake: FakeStripe, receiver: Receiver) -> None:
    fake.faults.webhooks("delay", seconds=1.0)
    late, early = make(fake, 2)
    fake.wait_until_delivered()
    assert receiver.ids == [early, late]


def test_what_was_not_delivered_before_a_stop_is_delivered_after_the_start(
    fake: FakeStripe, receiver: Receiver
) -> None:
    fake.webhooks.pause()
    ids = make(fake, 3)
    fake.stop()
    fake.webhooks.resume()
    fake.start()
    fake.wait_until_delivered()
    assert receiver.ids == ids


def test_waiting_for_an_endpoint_that_never_answers_well_times_out(fake: FakeStripe, receiver: Receiver) -> None:
    fake.webhooks.pause()
    make(fake, 1)
    with pytest.raises(TimeoutError, match="1 webhooks"):
        fake.wait_until_delivered(timeout_seconds=0.05)
