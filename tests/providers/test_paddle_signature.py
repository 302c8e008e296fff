"""Who may speak for Paddle: whoever holds one of the source's secrets, about now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle_shapes import NOW, PADDLE, SECRET, event, signature

from billhook.errors import BodyRefused, SignatureRefused

BODY = event("customer.created", {"id": "ctm_1", "name": "Ünïcode"})
OFFICIAL = "pdl_ntfset_01hs0t3tw21j988db1pam5xg8m_GrOWLNef+vmtjJYq4mSnHNzvc8uWoJ1I"


def refusal(header: str | None, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> str:
    with pytest.raises(SignatureRefused) as refused:
        PADDLE.verify({} if header is None else {"paddle-signature": header}, body, secrets, NOW)
    assert str(refused.value).endswith(".")
    assert not any(secret and secret in str(refused.value) for secret in secrets)
    return refused.value.code


def test_what_paddle_signed_is_accepted() -> None:
    PADDLE.verify({"paddle-signature": signature(BODY)}, BODY, [SECRET], NOW)


def test_the_official_vector_with_two_signatures_and_three_secrets_is_accepted() -> None:
    header = "ts=1696195954;h1=dummy;h1=d96299976a6eb066f484d7fde011ac56fc32b38fc9940bc419d6e537fdc6ef02"
    secrets = [
        f"pdl_ntf_01hbpjmytsa32fhr36nqgc3kgb_{rest}"
        for rest in (
            "TjIG2BXbm83HPXqNfziwe506sBEdqL/4",
            "vB/yIOnTOCWIvpBadM5jzBZPHc7OmdSo",
            "WvRO0eL4Bj9rgYYIBZY6wZhG4EHy9jzh",
        )
    ]
    at = datetime.fromtimestamp(1696195954, UTC)
    PADDLE.verify({"paddle-signature": header}, b"hello-world", secrets, at)
    with pytest.raises(SignatureRefused):
        PADDLE.verify({"paddle-signature": header}, b"hello-world", secrets[:2], at)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("standard", "ts=1710498758;h1=558bf93944dbeb4790c7a8af6cb2ea435c8ca9c8396aafc1a4e37424ac132744"),
        ("special_chars", "ts=1710498288;h1=38219b3ba1578184e625c29d201a27cd25bd69e2ec9c3ab87dcb90d87ff73a41"),
    ],
)
def test_the_official_vectors_over_payloads_are_accepted(recordings: Path, name: str, header: str) -> None:
    body = (recordings / "paddle" / "signature" / f"{name}_payload.json").read_bytes().strip()
    at = datetime.fromtimestamp(int(header[3:13]) + 4, UTC)
    PADDLE.verify({"paddle-signature": header}, body, [OFFICIAL], at)
    with pytest.raises(SignatureRefused):
        PADDLE.verify({"paddle-signature": header}, body + b" ", [OFFICIAL], at)
    assert PADDLE.translate({}, body, NOW).facts[0].type == "customer.created"


def test_while_a_secret_is_rotated_either_will_do() -> None:
    for secret in ("old", "new"):
        PADDLE.verify({"paddle-signature": signature(BODY, secret)}, BODY, ["old", "new"], NOW)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "signature_missing"),
        ("", "signature_missing"),
        ("garbage", "signature_malformed"),
        ("ts=;h1=abc", "signature_malformed"),
        ("ts=Infinity;h1=abc", "signature_malformed"),
        ("ts=-1;h1=abc", "signature_malformed"),
        ("ts=1_0;h1=abc", "signature_malformed"),
        ("ts=١٢٣;h1=abc", "signature_malformed"),
        ("ts=" + "9" * 5000 + ";h1=abc", "signature_malformed"),
        ("h1=abc", "signature_malformed"),
        ("ts=1;ts=2;h1=abc", "signature_malformed"),
        (f"ts={int(NOW.timestamp())}", "signature_scheme_missing"),
        (f"ts={int(NOW.timestamp())};h2=abc;h1=", "signature_scheme_missing"),
        (f"ts={int(NOW.timestamp())};h1=ünïcode", "signature_malformed"),
        (f"ts={int(NOW.timestamp())};h1=a=b=c;;=;h1", "signature_mismatch"),
        ("ts=0;h1=abc", "timestamp_too_old"),
        ("ts=999999999999;h1=abc", "timestamp_in_future"),
    ],
)
def test_a_header_that_is_no_signature_is_refused(header: str | None, code: str) -> None:
    assert refusal(header) == code


def test_five_minutes_either_way_are_accepted_and_no_more() -> None:
    for seconds in (300, -300):
        late = signature(BODY, at=NOW + timedelta(seconds=seconds))
        PADDLE.verify({"paddle-signature": late}, BODY, [SECRET], NOW)
    assert refusal(signature(BODY, at=NOW - timedelta(seconds=301))) == "timestamp_too_old"
    assert refusal(signature(BODY, at=NOW + timedelta(seconds=301))) == "timestamp_in_future"


def test_another_secret_another_body_and_no_secret_are_refused() -> None:
    assert refusal(signature(BODY, "other")) == "signature_mismatch"
    assert refusal(signature(BODY), BODY + b" ") == "signature_mismatch"
    assert refusal(signature(BODY, ""), secrets=("",)) == "signature_mismatch"
    assert refusal(signature(BODY), secrets=()) == "signature_mismatch"


@given(st.text(), st.binary())
def test_whatever_is_sent_the_answer_is_a_refusal(header: str, body: bytes) -> None:
    with pytest.raises(SignatureRefused):
        PADDLE.verify({"paddle-signature": header}, body, [SECRET], NOW)


@given(st.binary())
def test_whatever_is_signed_opening_it_refuses_or_names_it(body: bytes) -> None:
    try:
        assert PADDLE.open({}, body).external_id
    except BodyRefused:
        return


def test_sendings_of_one_event_differ_in_their_notification_and_in_nothing_else() -> None:
    first, again = (PADDLE.open({}, event("customer.created", {"id": "c"}, notification_id=n)) for n in ("n1", "n2"))
    assert first == again
    other = PADDLE.open({}, event("customer.created", {"id": "d"}))
    assert other.external_id == first.external_id
    assert other.content != first.content
