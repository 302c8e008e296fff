"""Standard Webhooks signatures: the scheme's own vectors, and its own library as the judge, both ways."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from billhook.errors import SettingsError, SignatureRefused
from billhook.rules.signing import ID, SIGNATURE, TIMESTAMP, sign, signed_headers, signing_key, verify

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
OTHER = "whsec_" + base64.b64encode(b"\xab" * 32).decode()

VECTORS = [
    (SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    (
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    ),
    (
        OTHER,
        "msg_rawbytes_reserialized",
        1767225600,
        b'{"type":"test.hello","data":{"key":"value"}}',
        "v1,9yIHNZqCjfmYCUeRbA8ewvA8j4r92Pj7bBasAkvdRSY=",
    ),
    (
        OTHER,
        "msg_sigv1_valid",
        1767225600,
        b'{"type":"test.hello","timestamp":"2026-01-01T00:00:00Z","data":{"hello":"world"}}',
        "v1,vr+LvThz8Z3i85RV0AOZKSAacUBmLcPMtxm8s+cm0oo=",
    ),
]


def headers(signature: str, message_id: str = "msg_1", at: datetime = NOW) -> dict[str, str]:
    return {ID: message_id, TIMESTAMP: str(int(at.timestamp())), SIGNATURE: signature}


def refusal(sent: dict[str, str], body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> str:
    with pytest.raises(SignatureRefused) as refused:
        verify(sent, body, secrets, NOW, 300)
    return refused.value.code


@pytest.mark.parametrize(("secret", "message_id", "seconds", "body", "expected"), VECTORS)
def test_the_published_vectors(secret: str, message_id: str, seconds: int, body: bytes, expected: str) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert sign(secret, message_id, at, body) == expected
    verify(headers(expected, message_id, at), body, [secret], at, 300)
    changed = body.replace(b":", b": ")
    with pytest.raises(SignatureRefused):
        verify(headers(expected, message_id, at), changed, [secret], at, 300)


def test_a_reserialised_body_does_not_match() -> None:
    secret, message_id, seconds, _, expected = VECTORS[2]
    at = datetime.fromtimestamp(seconds, UTC)
    with pytest.raises(SignatureRefused):
        verify(
            headers(expected, message_id, at), b'{"type": "test.hello", "data": {"key": "value"}}', [secret], at, 300
        )


SECRETS = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
TEXT = st.text(st.characters(codec="utf-8")).map(str.encode)


@given(secret=SECRETS, body=TEXT, message_id=st.from_regex(r"\A[!-~]{1,60}\Z"))
def test_the_official_library_accepts_what_we_sign_and_signs_what_we_accept(
    secret: str, body: bytes, message_id: str
) -> None:
    now = datetime.now(UTC)  # the library reads the clock itself
    Webhook(secret).verify(b'{"a":1}', signed_headers([OTHER, secret], message_id, now, b'{"a":1}'))
    official = Webhook(secret).sign(message_id, now, body.decode())
    assert official == sign(secret, message_id, now, body)
    verify(headers(official, message_id, now), body, [OTHER, secret], now, 300)


def test_the_time_zone_of_the_clock_does_not_change_a_signature() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert sign(SECRET, "msg_1", elsewhere, BODY) == sign(SECRET, "msg_1", NOW, BODY)


def test_one_valid_signature_among_others_is_enough() -> None:
    good = sign(SECRET, "msg_1", NOW, BODY)
    wrong = sign(OTHER, "msg_1", NOW, BODY)
    verify(headers(f"{wrong} v2,{good[3:]} v1a,x  v1, {good} {wrong}"), BODY, [SECRET], NOW, 300)


@pytest.mark.parametrize("missing", [ID, TIMESTAMP, SIGNATURE])
def test_each_header_is_needed(missing: str) -> None:
    sent = headers(sign(SECRET, "msg_1", NOW, BODY))
    assert refusal({**sent, missing: ""}) == "signature_missing"
    del sent[missing]
    assert refusal(sent) == "signature_missing"


@pytest.mark.parametrize("timestamp", ["Infinity", "-1", "1e9", "1_0", " 1", "1.5", "9" * 5000, "abc"])
def test_a_timestamp_is_whole_seconds(timestamp: str) -> None:
    assert refusal({**headers("v1,x"), TIMESTAMP: timestamp}) == "signature_malformed"


def test_five_minutes_are_accepted_both_ways_and_no_second_more() -> None:
    for seconds, code in ((-301, "timestamp_too_old"), (301, "timestamp_in_future")):
        at = NOW + timedelta(seconds=seconds)
        assert refusal(headers(sign(SECRET, "msg_1", at, BODY), at=at)) == code
    for seconds in (-300, 300):
        at = NOW + timedelta(seconds=seconds)
        verify(headers(sign(SECRET, "msg_1", at, BODY), at=at), BODY, [SECRET], NOW, 300)


def test_what_does_not_match_is_refused() -> None:
    good = sign(SECRET, "msg_1", NOW, BODY)
    assert refusal(headers(good), BODY + b" ") == "signature_mismatch"
    assert refusal(headers(good, "msg_2")) == "signature_mismatch"
    assert refusal(headers(good), secrets=(OTHER,)) == "signature_mismatch"
    assert refusal(headers(good[:-2] + ("A=" if good[-2] != "A" else "B="))) == "signature_mismatch"
    assert refusal(headers("v1,a,b")) == "signature_mismatch"
    assert refusal(headers("garbage")) == "signature_scheme_missing"
    assert refusal(headers("v1a,abc v2,abc")) == "signature_scheme_missing"
    assert refusal(headers("v1,ünïcode")) == "signature_malformed"


def test_a_secret_is_base64_with_or_without_its_dress() -> None:
    assert signing_key(SECRET) == signing_key(SECRET.removeprefix("whsec_"))
    for unpadded in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr"):
        assert signing_key(unpadded) == base64.b64decode(unpadded + "==")
    for bad in ("", "whsec_", "whsec_ünïcode", "not base64!", "A", "===="):
        with pytest.raises(SettingsError) as error:
            signing_key(bad)
        assert len(bad) < 2 or bad not in str(error.value)


def test_one_unusable_secret_does_not_spoil_the_other() -> None:
    sent = headers(sign(SECRET, "msg_1", NOW, BODY))
    verify(sent, BODY, ["not base64!", SECRET], NOW, 300)
    assert refusal(sent, secrets=("not base64!",)) == "secret_unusable"
    assert refusal(sent, secrets=()) == "secret_unusable"


@given(sent=st.dictionaries(st.sampled_from([ID, TIMESTAMP, SIGNATURE]), st.text()), body=st.binary(), extra=st.text())
def test_no_header_and_no_body_does_more_than_being_refused(sent: dict[str, str], body: bytes, extra: str) -> None:
    for headers_sent in (sent, {**headers(f"v1,{extra}"), ID: extra}, headers(f"v1,{extra}")):
        refusal(headers_sent, body)
