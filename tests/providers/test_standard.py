"""An in-house billing system's own events: billhook's vocabulary, straight into the book."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.errors import BodyRefused, SignatureRefused, Unprocessable
from billhook.events import DOMAIN_EVENTS
from billhook.providers import PROVIDERS
from billhook.rules.book.change import Change, Fact, Translation
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.payment import Payment
from billhook.rules.signing import signed_headers

STANDARD = PROVIDERS["standard"]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAYMENT = {"external_id": "pay-17", "status": "succeeded", "currency": "jpy", "amount": 1200, "invoice": "R-1"}


def body(event_type: str, data: Any, **fields: Any) -> bytes:
    return json.dumps({"type": event_type, "timestamp": "2026-03-01T11:59:59.5Z", "data": data, **fields}).encode()


def translate(event_type: str, data: Any, **fields: Any) -> Translation:
    return STANDARD.translate({}, body(event_type, data, **fields), NOW)


def reason(event_type: str, data: Any, **fields: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        translate(event_type, data, **fields)
    assert str(error.value).startswith(f"{event_type}: ")
    return str(error.value)


def test_a_signed_event_is_known_by_its_signed_id() -> None:
    sent = body("payment.succeeded", PAYMENT)
    headers = signed_headers([SECRET], "msg_1", NOW, sent)
    STANDARD.verify(headers, sent, [SECRET], NOW)
    opened = STANDARD.open(headers, sent)
    assert (opened.external_id, opened.type, opened.account) == ("msg_1", "payment.succeeded", "")
    with pytest.raises(SignatureRefused):
        STANDARD.verify({**headers, "webhook-id": "msg_2"}, sent, [SECRET], NOW)


def test_one_event_is_one_change_and_one_fact() -> None:
    found = translate("payment.succeeded", PAYMENT)
    at = datetime(2026, 3, 1, 11, 59, 59, 500_000, tzinfo=UTC)
    payment = Payment(external_id="pay-17", status="succeeded", currency="jpy", amount=1200, invoice="R-1")
    assert found.changes == (Change(payment, at),)
    assert found.facts == (Fact("payment.succeeded", payment, at),)


def test_without_a_timestamp_it_happened_when_it_arrived() -> None:
    sent = json.dumps({"type": "payment.succeeded", "data": PAYMENT}).encode()
    (change,) = STANDARD.translate({}, sent, NOW).changes
    assert change.at == NOW


def test_times_of_any_zone_end_in_utc() -> None:
    east = timezone(timedelta(hours=9))
    sent = {**PAYMENT, "created": NOW.astimezone(east).isoformat()}
    (change,) = translate("payment.succeeded", sent, timestamp=NOW.astimezone(east).isoformat()).changes
    assert (change.at, change.object.created) == (NOW, NOW)
    assert change.at.tzinfo is UTC
    assert change.object.created is not None
    assert change.object.created.tzinfo is UTC


def test_an_unknown_type_is_kept_and_ignored() -> None:
    assert translate("warehouse.flooded", {"anything": 1}) == Translation()


@pytest.mark.parametrize("event_type", [name for name in DOMAIN_EVENTS if name.endswith(".deleted")])
def test_a_deletion_needs_no_flag(event_type: str) -> None:
    required = {"status": "draft", "currency": "eur"} | dict.fromkeys(
        ("subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 0
    )
    data = {"external_id": "x", **(required if event_type == "invoice.deleted" else {})}
    (change,) = translate(event_type, data).changes
    assert change.object.deleted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": "12"}, "Expected `int`, got `str` - at `data.amount`"),
        ({"amount": 2**63}, "`data.amount`"),
        ({"amount": 12.5}, "`data.amount`"),
        ({"status": "maybe"}, "Invalid enum value 'maybe' - at `data.status`"),
        ({"currency": "JPY"}, "'JPY' is not a currency"),
        ({"currency": "zzz"}, "'zzz' is not a currency"),
        ({"created": "2026-03-01T12:00:00"}, "`data.created`"),
        ({"created": "0001-01-01T00:00:00+14:00"}, "at `created`"),
        ({"created": "9999-12-31T23:59:59-14:00"}, "at `created`"),
        ({"external_id": ""}, "`data.external_id`"),
        ({"customer": "c" * 256}, "`data.customer`"),
        ({"failure_message": "a\0b"}, "at `failure_message`"),
        ({"metadata": {"a": "\0"}}, "at `metadata.a`"),
    ],
)
def test_what_cannot_be_understood_says_where_and_why(change: dict[str, Any], said: str) -> None:
    assert said in reason("payment.succeeded", {**PAYMENT, **change})


def test_missing_and_impossible_parts_are_named() -> None:
    assert "missing required field `amount`" in reason(
        "payment.succeeded", {"external_id": "x", "status": "succeeded", "currency": "eur"}
    )
    assert "missing required field `name`" in reason("product.created", {"external_id": "x"})
    assert "`data`" in reason("payment.succeeded", None)
    assert "`timestamp`" in reason("payment.succeeded", PAYMENT, timestamp="yesterday")
    assert "`timestamp`" in reason("payment.succeeded", PAYMENT, timestamp="0001-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("headers", "sent", "code"),
    [
        ({}, b'{"type":"a"}', "id_invalid"),
        ({"webhook-id": "a\x07"}, b'{"type":"a"}', "id_invalid"),
        ({"webhook-id": "a" * 256}, b'{"type":"a"}', "id_invalid"),
        ({"webhook-id": "a"}, b'{"type":"\\u0000"}', "type_invalid"),
        ({"webhook-id": "a"}, b"{}", "not_an_event"),
        ({"webhook-id": "a"}, b'{"type":"a"', "not_json"),
        ({"webhook-id": "a"}, b'{"type":"a","x":"\xff"}', "not_utf8"),
        ({"webhook-id": "a"}, b'{"type":"a","x":' + b"[" * 100_000, "too_deep"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_a_reason(headers: dict[str, str], sent: bytes, code: str) -> None:
    with pytest.raises(BodyRefused) as refused:
        STANDARD.open(headers, sent)
    assert refused.value.code == code


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def data_for(event_type: str) -> st.SearchStrategy[tuple[str, Any]]:
    fields = msgspec.structs.fields(KINDS[DOMAIN_EVENTS[event_type][0]])
    hostile = st.fixed_dictionaries(
        {"external_id": st.just("x")}, optional={f.encode_name: ANYTHING for f in fields if f.name != "external_id"}
    )
    return st.tuples(st.just(event_type), ANYTHING | hostile)


@given(st.sampled_from(sorted(DOMAIN_EVENTS)).flatmap(data_for), ANYTHING)
def test_any_data_is_either_understood_or_has_a_reason(sent: tuple[str, Any], timestamp: Any) -> None:
    try:
        (change,) = translate(*sent, timestamp=timestamp).changes
    except Unprocessable:
        return
    assert math.isfinite(change.at.timestamp())
    assert change.digest
