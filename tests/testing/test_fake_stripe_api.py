"""Lists, refusals, idempotency and the API's faults, told through the real SDK."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
import stripe

from billhook_testing.fake_stripe import FakeStripe


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


def customers(fake: FakeStripe, count: int) -> list[str]:
    """Oldest first, one a minute."""
    ids = []
    for at in range(count):
        fake.advance(seconds=60)
        ids.append(fake.client().v1.customers.create({"email": f"{at}@example.com"}).id)
    return ids


# lists


def test_events_are_listed_newest_first_and_paged_both_ways(fake: FakeStripe) -> None:
    customers(fake, 7)
    v1 = fake.client().v1
    newest_first = [event["id"] for event in reversed(fake.events)]
    first = v1.events.list({"limit": 3})
    assert ([event.id for event in first.data], first.has_more) == (newest_first[:3], True)
    second = v1.events.list({"limit": 3, "starting_after": first.data[-1].id})
    assert [event.id for event in second.data] == newest_first[3:6]
    back = v1.events.list({"limit": 2, "ending_before": second.data[-1].id})
    assert ([event.id for event in back.data], back.has_more) == (newest_first[3:5], True)
    assert [event.id for event in v1.events.list({"limit": 2}).auto_paging_iter()] == newest_first
    assert not v1.events.list({"starting_after": newest_first[-1]}).data


def test_events_are_filtered_by_time_and_type(fake: FakeStripe) -> None:
    ids = customers(fake, 3)
    v1 = fake.client().v1
    v1.customers.update(ids[0], {"name": "Ada"})
    times = [event["created"] for event in fake.events]
    assert len(v1.events.list({"created": {"gte": times[1]}}).data) == 3
    assert len(v1.events.list({"created": {"gt": times[1]}}).data) == 2
    assert len(v1.events.list({"created": {"gte": times[0], "lt": times[1]}}).data) == 1
    assert len(v1.events.list({"created": times[1]}).data) == 1
    assert [event.type for event in v1.events.list({"type": "customer.updated"}).data] == ["customer.updated"]
    assert len(v1.events.list({"types": ["customer.updated", "customer.created"]}).data) == 4
    assert len(v1.events.list({"type": "customer.*"}).data) == 4
    assert v1.events.list({"types": ["invoice.paid"]}).data == []


def test_an_update_tells_what_was_before_and_which_request_it_was(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    customer = v1.customers.create({"name": "Ada", "metadata": {"a": "1", "b": "2"}})
    v1.customers.update(customer.id, {"name": "Grace", "metadata": {"a": "", "c": "3"}}, {"idempotency_key": "k1"})
    event = fake.events[-1]
    assert event["data"]["previous_attributes"] == {"name": "Ada", "metadata": {"a": "1", "c": None}}
    assert event["request"]["idempotency_key"] == "k1"
    assert event["request"]["id"].startswith("req_")
    # An update that changes nothing is no event.
    count = len(fake.events)
    v1.customers.update(customer.id, {"name": "Grace"})
    assert len(fake.events) == count


def test_a_list_refuses_a_cursor_it_does_not_hold_and_a_limit_out_of_bounds(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.customers.list({"starting_after": "cus_nobody"})
    assert (refused.value.code, refused.value.param) == ("resource_missing", "starting_after")
    with pytest.raises(stripe.InvalidRequestError):
        v1.customers.list({"limit": 101})


# refusals


def test_refusals_raise_the_sdks_own_classes(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    with pytest.raises(stripe.InvalidRequestError) as missing:
        v1.invoices.retrieve("in_nothing")
    assert (missing.value.http_status, missing.value.code, missing.value.param) == (404, "resource_missing", "id")
    with pytest.raises(stripe.InvalidRequestError) as unset:
        v1.products.create({})  # type: ignore[typeddict-item]
    assert (unset.value.http_status, unset.value.code, unset.value.param) == (400, "parameter_missing", "name")
    stranger = stripe.StripeClient("sk_test_other", base_addresses={"api": fake.url}, max_network_retries=0)
    with pytest.raises(stripe.AuthenticationError):
        stranger.v1.customers.list()


def test_what_the_fake_does_not_know_is_refused_and_not_ignored(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        v1.customers.create({"coupon": "TENOFF"})  # type: ignore[typeddict-unknown-key]
    assert (unknown.value.code, unknown.value.param) == ("parameter_unknown", "coupon")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        v1.coupons.list()
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        v1.customers.retrieve(customers(fake, 1)[0], {"expand": ["shoe_size"]})


# idempotency


def test_the_same_key_gets_the_same_answer_and_one_effect(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    first = v1.customers.create({"name": "Ada"}, {"idempotency_key": "order-1"})
    again = v1.customers.create({"name": "Ada"}, {"idempotency_key": "order-1"})
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert len(v1.customers.list().data) == 1
    with pytest.raises(stripe.IdempotencyError):
        v1.customers.create({"name": "Grace"}, {"idempotency_key": "order-1"})
    # A day later the key is forgotten.
    fake.advance(days=1)
    assert v1.customers.create({"name": "Ada"}, {"idempotency_key": "order-1"}).id != first.id


def test_a_key_replays_a_declined_card_and_a_server_error(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    charge = {
        "amount": 500,
        "currency": "usd",
        "payment_method": "pm_card_visa_chargeDeclined",
        "confirm": True,
    }
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            v1.payment_intents.create(charge, {"idempotency_key": "pay-1"})  # type: ignore[arg-type]
    assert len(v1.charges.list().data) == 1

    fake.faults.api("server_error", path="/v1/customers")
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            v1.customers.create({"name": "Ada"}, {"idempotency_key": "new-1"})
        assert failed.value.http_status == 500
    assert v1.customers.list().data == []


def test_a_refused_parameter_does_not_burn_its_key(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    with pytest.raises(stripe.InvalidRequestError):
        v1.products.create({"active": True}, {"idempotency_key": "p"})  # type: ignore[typeddict-item]
    assert v1.products.create({"name": "Pro"}, {"idempotency_key": "p"}).name == "Pro"


# faults


def test_a_rate_limit_says_when_to_come_back(fake: FakeStripe) -> None:
    v1 = fake.client().v1
    fake.faults.api("rate_limit", times=2, path="/v1/customers", retry_after=7)
    v1.products.list()
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError) as limited:
            v1.customers.list()
        assert limited.value.headers is not None
        assert limited.value.headers["retry-after"] == "7"
    v1.customers.list()


def test_a_key_in_use_is_a_conflict(fake: FakeStripe) -> None:
    fake.faults.api("conflict", method="POST")
    with pytest.raises(stripe.StripeError) as conflict:
        fake.client().v1.customers.create({}, {"idempotency_key": "k"})
    assert (conflict.value.http_status, conflict.value.error.code) == (409, "idempotency_key_in_use")


@pytest.mark.parametrize("hang_seconds", [None, 0.1])
def test_a_time_out_before_the_effect_leaves_nothing(fake: FakeStripe, hang_seconds: float | None) -> None:
    fake.faults.api("timeout_before", hang_seconds=hang_seconds)
    v1 = fake.client().v1
    with pytest.raises(stripe.APIConnectionError):
        v1.customers.create({"name": "Ada"})
    assert v1.customers.list().data == []


def test_a_time_out_after_the_effect_is_answered_by_the_same_key(fake: FakeStripe) -> None:
    fake.faults.api("timeout_after", method="POST")
    v1 = fake.client().v1
    with pytest.raises(stripe.APIConnectionError):
        v1.customers.create({"name": "Ada"}, {"idempotency_key": "order-1"})
    made = v1.customers.list().data
    assert len(made) == 1
    assert v1.customers.create({"name": "Ada"}, {"idempotency_key": "order-1"}).id == made[0].id
    # The SDK's own retries send one key, so they too have one effect.
    fake.faults.api("timeout_after", method="POST")
    fake.client(max_network_retries=1).v1.customers.create({"name": "Grace"})
    assert len(v1.customers.list().data) == 2


def test_a_connection_that_hangs_ends_with_the_server(fake: FakeStripe) -> None:
    fake.faults.api("timeout_before", hang_seconds=600)
    connection = http.client.HTTPConnection(fake.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/v1/customers", headers={"authorization": f"Bearer {fake.api_key}"})
    fake.stop()
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


def test_faults_by_chance_are_the_same_for_the_same_seed() -> None:
    def outcomes(seed: int) -> list[bool]:
        with FakeStripe(seed=seed) as fake:
            fake.faults.api("server_error", probability=0.5)
            answers = []
            for _ in range(20):
                try:
                    fake.client().v1.customers.list()
                except stripe.APIError:
                    answers.append(False)
                else:
                    answers.append(True)
            fake.faults.clear()
            fake.client().v1.customers.list()
            return answers

    first = outcomes(3)
    assert first == outcomes(3)
    assert set(first) == {True, False}


# life


def test_it_stops_and_starts_again_with_its_state_and_its_address() -> None:
    fake = FakeStripe()
    fake.stop()
    with fake:
        url = fake.url
        made = fake.client().v1.customers.create({"name": "Ada"})
    with pytest.raises(stripe.APIConnectionError):
        fake.client().v1.customers.list()
    with fake:
        assert fake.url == url
        assert fake.client().v1.customers.retrieve(made.id).name == "Ada"
