"""What may be set at an endpoint, and what is refused before anybody waits for it in vain."""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.errors import Refused
from billhook.events import DOMAIN_EVENTS, OPERATIONAL_EVENTS
from billhook.rules.delivery import SCHEDULE_SECONDS, after_attempt, wants
from billhook.rules.endpoint_settings import SETTINGS, checked, own_event, scheme_of
from billhook.rules.retry import Dead
from billhook.rules.signing import new_secret

EVENTS = (*DOMAIN_EVENTS, *OPERATIONAL_EVENTS)


def refusal(name: str, value: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        checked({name: value})
    assert name in str(refused.value), "it names the field"
    return refused.value


def whsec(length: int) -> str:
    return f"whsec_{base64.b64encode(bytes(length)).decode()}"


def test_none_is_the_default_of_every_setting() -> None:
    defaults = checked(dict.fromkeys(SETTINGS))
    assert {name: value for name, value in defaults.items() if value is not None} == {
        "event_types": ["*"],
        "description": "",
        "ordering": "none",
    }
    assert checked({}) == {}


def test_every_known_name_and_its_group_can_be_asked_for() -> None:
    groups = [f"{name.partition('.')[0]}.*" for name in EVENTS if "." in name]
    asked = ["*", *EVENTS, *groups]
    assert checked({"event_types": asked[:100]}) == {"event_types": list(dict.fromkeys(asked[:100]))}
    for name in asked:
        assert checked({"event_types": [name]}) == {"event_types": [name]}


@pytest.mark.parametrize("name", ["order.shipped", "order.*", "order.item.packed", "order.item.*", "x_1.y", "a.b"])
def test_a_merchants_own_events_can_be_asked_for(name: str) -> None:
    assert checked({"event_types": [name]}) == {"event_types": [name]}


@pytest.mark.parametrize(
    "name",
    [
        *("invoice.payed", "invoice.paid.*", "invoice.paid.twice", "endpoint.deleted", "ping.*", "ping.pong"),
        *("", "invoice", "order", ".*", "*.paid", "order*", "order.**", "order.", ".order", "order..x", "order.x\n"),
        *("Order.shipped", "order.Shipped", "order-x.y", "order .x", "ördér.x", f"order.{'x' * 100}", f"{'x' * 99}.*"),
    ],
)
def test_what_no_event_matches_is_refused(name: str) -> None:
    assert refusal("event_types", ["invoice.paid", name]).code == "event_type_unknown"


def test_an_endpoint_asks_for_something_and_not_for_everything_one_by_one() -> None:
    assert refusal("event_types", []).code == "event_types_invalid"
    assert refusal("event_types", ["order.x"] * 101).code == "event_types_invalid"
    assert checked({"event_types": ["order.x"] * 100}) == {"event_types": ["order.x"]}


@given(st.from_regex(r"[a-z0-9_.*]{1,20}", fullmatch=True))
def test_whatever_may_be_published_can_be_asked_for_by_its_name_and_by_its_group(name: str) -> None:
    try:
        own_event(name)
    except Refused:
        return
    group = f"{name.rpartition('.')[0]}.*"
    assert checked({"event_types": [name, group]}) == {"event_types": [name, group]}
    assert wants([group], name)
    assert wants([name], name)
    assert not wants([f"{event.partition('.')[0]}.*" for event in EVENTS], name), "it cannot pass for billhook's"


@pytest.mark.parametrize("name", [*EVENTS, "invoice.payed", "ping.pong", "endpoint.x.y"])
def test_nobody_publishes_under_billhooks_own_names(name: str) -> None:
    with pytest.raises(Refused) as refused:
        own_event(name)
    assert refused.value.code == ("event_type_reserved" if "." in name else "event_type_invalid")


@pytest.mark.parametrize("name", ["", "order", "Order.x", "order.*", "*", "order.x\n", "order.x ", "x." * 50 + "xx"])
def test_a_name_to_publish_under_has_one_shape(name: str) -> None:
    with pytest.raises(Refused) as refused:
        own_event(name)
    assert refused.value.code == "event_type_invalid"


def test_headers_are_kept_as_they_were_written() -> None:
    headers = {"Authorization": "Bearer t0k=n", "X-Team_1": "a\tb c", "x-empty-is-not": "."}
    assert checked({"headers": headers}) == {"headers": headers}
    assert checked({"headers": {}}) == {"headers": {}}


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "content-length", "Content-Type", "Transfer-Encoding", "connection", "Keep-Alive", "TE", "trailer"),
        *("Upgrade", "Expect", "User-Agent", "Accept-Encoding", "accept", "Date", "cookie", "Forwarded", "Via"),
        *("X-Forwarded-For", "x-forwarded-host", "X-Real-IP", "Proxy-Authorization", "Sec-Fetch-Site"),
        *("Webhook-Id", "webhook-signature", "WEBHOOK-TIMESTAMP", "Billhook-Anything", "Content-Encoding"),
    ],
)
def test_headers_of_http_proxies_and_billhook_are_refused(name: str) -> None:
    assert refusal("headers", {name: "x"}).code == "header_reserved"


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "a\r\nb", "ä", "a\0", "(a)", "a\n"])
def test_what_is_no_name_of_a_header_is_refused(name: str) -> None:
    assert refusal("headers", {name: "x"}).code == "header_invalid"


@pytest.mark.parametrize(
    "value", ["", " ", " s3cret", "s3cret ", "s3\r\ncret", "s3cr\nt", "s3cr\0t", "s3cr\xe9t", "\t"]
)
def test_a_value_that_could_break_the_request_is_refused_and_not_repeated(value: str) -> None:
    refused = refusal("headers", {"X-Token": value})
    assert refused.code == "header_invalid"
    assert "X-Token" in str(refused)
    assert "s3cr" not in str(refused)


def test_two_spellings_of_one_header_are_refused() -> None:
    refused = refusal("headers", {"X-Token": "a", "x-token": "b"})
    assert refused.code == "header_twice"
    assert "X-Token" in str(refused)


def test_headers_have_a_bound_in_number_and_in_bytes() -> None:
    assert checked({"headers": {f"x-{n}": "v" for n in range(20)}})
    assert refusal("headers", {f"x-{n}": "v" for n in range(21)}).code == "headers_too_large"
    assert checked({"headers": {"x-a": "v" * 4093}})
    assert refusal("headers", {"x-a": "v" * 4094}).code == "headers_too_large"


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=5))
def test_headers_that_pass_cannot_become_another_request(headers: dict[str, str]) -> None:
    try:
        kept = checked({"headers": headers})["headers"]
    except Refused:
        return
    assert kept == headers
    for name, value in kept.items():
        assert re.fullmatch(r"[!-~]+", name)
        assert ":" not in name
        assert re.fullmatch(r"[\t -~]+", value)
        assert value == value.strip()


@pytest.mark.parametrize("schedule", [[], [1], [5, 300.5], [48 * 3600] * 20])
def test_a_schedule_is_up_to_twenty_waits(schedule: list[float]) -> None:
    assert checked({"schedule": schedule}) == {"schedule": schedule}


@pytest.mark.parametrize("schedule", [[0], [-1], [0.5], [5, 48 * 3600 + 1], [5] * 21, [math.nan], [math.inf]])
def test_another_schedule_is_refused(schedule: list[float]) -> None:
    assert refusal("schedule", schedule).code == "schedule_invalid"


def test_without_any_wait_a_message_is_tried_once() -> None:
    schedule = checked({"schedule": []})["schedule"]
    outcome = after_attempt(
        status_code=500,
        error=None,
        retry_after_seconds=None,
        attempts=1,
        now=datetime(2026, 1, 1, tzinfo=UTC),
        jitter=0.0,
        schedule=schedule,
    )
    assert isinstance(outcome, Dead)


def test_the_usual_schedule_can_be_written_out() -> None:
    assert checked({"schedule": list(SCHEDULE_SECONDS)}) == {"schedule": list(SCHEDULE_SECONDS)}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("timeout_seconds", 1, 30), ("max_in_flight", 1, 128), ("rate_limit", 0.01, 1000)],
)
def test_numbers_have_bounds(name: str, least: float, most: float) -> None:
    for value in (least, most, (least + most) // 2):
        assert checked({name: value}) == {name: value}
    for value in (0, -1, least / 2, most + 1, math.nan, math.inf, -math.inf):
        refused = refusal(name, value)
        assert refused.code == f"{name}_invalid"
        assert f"{least:g} to {most:g}" in str(refused)


def test_an_order_is_by_customer_by_subscription_or_none() -> None:
    for ordering in ("none", "customer", "subscription"):
        assert checked({"ordering": ordering}) == {"ordering": ordering}
    assert refusal("ordering", "invoice").code == "ordering_unknown"


def test_a_description_is_a_line() -> None:
    assert checked({"description": "Ada's Büro, 2. Stock"})
    for text in ("a\nb", "a\0", "\x1b[31m", "x" * 256):
        assert refusal("description", text).code == "description_invalid"


def test_a_secret_says_by_itself_how_it_signs() -> None:
    assert scheme_of(new_secret("v1")) == "v1"
    assert scheme_of(new_secret("v1a")) == "v1a"
    assert scheme_of(whsec(24)) == scheme_of(whsec(64)) == "v1"


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", "whsk_", "hunter2", "whsec_!!!", "whsk_!!!", whsec(23), whsec(65)),
        *(whsec(32).removeprefix("whsec_"), f"whsk_{base64.b64encode(bytes(31)).decode()}"),
        f"whsk_{base64.b64encode(bytes(64)).decode()}",  # two halves that are no pair
        f"whpk_{base64.b64encode(bytes(32)).decode()}",
    ],
)
def test_a_secret_that_cannot_sign_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(Refused) as refused:
        scheme_of(secret)
    assert refused.value.code == "secret_invalid"
    assert "secret" in str(refused.value)
    assert not secret or secret in ("whsec_", "whsk_") or secret not in str(refused.value)
