"""Who may speak for Stripe: whoever holds one of the source's secrets, about now."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe_shapes import NOW, SECRET, STRIPE, event, signature

from billhook.errors import BodyRefused, SignatureRefused
from billhook.providers import stripe

BODY = event("customer.created", {"id": "cus_1", "name": "Ünïcode"})


def refusal(header: str | None, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> str:
    with pytest.raises(SignatureRefused) as refused:
        STRIPE.verify({} if header is None else {"stripe-signature": header}, body, secrets, NOW)
    assert str(refused.value).endswith(".")
    assert not any(secret and secret in str(refused.value) for secret in secrets)
    return refused.value.code


def test_what_stripe_signed_is_accepted() -> None:
    STRIPE.verify({"stripe-signature": signature(BODY)}, BODY, [SECRET], NOW)


def test_while_a_secret_is_rotated_either_will_do() -> None:
    for secret in ("whsec_old", "whsec_new"):
        STRIPE.verify({"stripe-signature": signature(BODY, secret)}, BODY, ["whsec_old", "whsec_new"], NOW)


def test_stripes_own_rotation_puts_two_signatures_into_one_header() -> None:
    one = signature(BODY, "whsec_other")
    both = one + "," + signature(BODY).partition(",")[2] + ",v0=abc"
    STRIPE.verify({"stripe-signature": both}, BODY, [SECRET], NOW)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "signature_missing"),
        ("", "signature_missing"),
        ("garbage", "signature_malformed"),
        ("t=,v1=abc", "signature_malformed"),
        ("t=Infinity,v1=abc", "signature_malformed"),
        ("t=-1,v1=abc", "signature_malformed"),
        ("t=1_0,v1=abc", "signature_malformed"),
        ("t=١٢٣,v1=abc", "signature_malformed"),
        ("t=" + "9" * 5000 + ",v1=abc", "signature_malformed"),
        ("v1=abc", "signature_malformed"),
        (f"t={int(NOW.timestamp())}", "signature_scheme_missing"),
        (f"t={int(NOW.timestamp())},v0=abc,v1=", "signature_scheme_missing"),
        (f"t={int(NOW.timestamp())},v1=ünïcode", "signature_malformed"),
        (f"t={int(NOW.timestamp())},v1=a=b=c,,=,v1", "signature_mismatch"),
        ("t=0,v1=abc", "timestamp_too_old"),
        ("t=999999999999,v1=abc", "timestamp_in_future"),
    ],
)
def test_a_bad_header_is_refused_with_a_reason(header: str | None, code: str) -> None:
    assert refusal(header) == code


def test_five_minutes_are_accepted_both_ways_and_no_second_more() -> None:
    for seconds in (-300, 300):
        at = NOW + timedelta(seconds=seconds)
        STRIPE.verify({"stripe-signature": signature(BODY, at=at)}, BODY, [SECRET], NOW)
    assert refusal(signature(BODY, at=NOW - timedelta(seconds=301))) == "timestamp_too_old"
    assert refusal(signature(BODY, at=NOW + timedelta(seconds=301))) == "timestamp_in_future"


def test_another_secret_or_another_body_does_not_match() -> None:
    assert refusal(signature(BODY, "whsec_another")) == "signature_mismatch"
    assert refusal(signature(BODY), BODY + b" ") == "signature_mismatch"


def test_an_empty_secret_is_no_key_that_anyone_could_guess() -> None:
    assert refusal(signature(BODY, ""), secrets=("",)) == "signature_mismatch"
    assert refusal(signature(BODY), secrets=()) == "signature_mismatch"


def test_bytes_that_are_no_text_cannot_have_been_signed_by_stripe() -> None:
    body = b'{"id":"\xff"}'
    assert refusal(signature(body), body) == "body_not_utf8"


@given(header=st.text(), body=st.binary(), secret=st.text(st.characters(codec="utf-8")))
def test_no_header_and_no_body_does_more_than_being_refused(header: str, body: bytes, secret: str) -> None:
    for sent in (header, f"t={int(NOW.timestamp())},v1={header}"):
        with pytest.raises(SignatureRefused):
            STRIPE.verify({"stripe-signature": sent}, body, [secret], NOW)


def test_the_envelope_says_what_the_door_needs() -> None:
    opened = STRIPE.open({}, event("customer.created", {}, account="acct_1"))
    assert (opened.external_id, opened.type, opened.account) == ("evt_1", "customer.created", "acct_1")
    assert STRIPE.open({}, event("customer.created", {}, account=None)).account == ""
    # An organization's destination names the account that an event is about in another field.
    assert STRIPE.open({}, event("customer.created", {}, context="acct_2")).account == "acct_2"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"hello", "not_json"),
        (BODY[:-1], "not_json"),
        (BODY + b"x", "not_json"),
        (b'{"id":"a","type":"b","x":[1,]}', "not_json"),
        (b'{"id":"a","type":"b","x":"\\ud800"}', "lone_surrogate"),
        (b'{"id":"a","type":"b","x":NaN}', "not_json"),
        (b'{"id":"a","type":"b","skipped":"\xff"}', "not_utf8"),
        (b'{"id":"a","type":"b","skipped":{"\xed\xa0\x80":1}}', "not_utf8"),
        (b"\xef\xbb\xbf" + BODY, "not_json"),
        (b"[]", "not_an_event"),
        (b"null", "not_an_event"),
        (b'{"type":"b"}', "not_an_event"),
        (b'{"id":1,"type":"b"}', "not_an_event"),
        (b'{"id":"a"}', "not_an_event"),
        (b'{"id":"","type":"b"}', "id_invalid"),
        (b'{"id":"' + b"a" * 256 + b'","type":"b"}', "id_invalid"),
        (b'{"id":"a\\u0000","type":"b"}', "id_invalid"),
        (b'{"id":"a\\nb","type":"b"}', "id_invalid"),
        (b'{"id":"a","type":"\\u0007"}', "type_invalid"),
        (b'{"id":"a","type":""}', "type_invalid"),
        (b'{"id":"a","type":"b","account":"\\u0000"}', "account_invalid"),
        (b'{"id":"a","type":"b","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_a_reason(body: bytes, code: str) -> None:
    with pytest.raises(BodyRefused) as refused:
        STRIPE.open({}, body)
    assert refused.value.code == code


def test_numbers_beyond_64_bits_are_json_all_the_same() -> None:
    assert STRIPE.open({}, event("x", {"amount": 2**64, "other": -(2**70), "third": 10**400})).type == "x"


@given(body=st.binary() | st.text().map(str.encode))
def test_no_bytes_do_more_than_being_refused(body: bytes) -> None:
    with pytest.raises(BodyRefused):
        STRIPE.open({}, body)


@given(st.sampled_from([SECRET, "whsec_other", " ", "ünïcode"]), st.integers(0, 2), st.booleans(), st.booleans())
def test_what_is_said_without_the_sdk_is_what_the_sdk_says(secret: str, zeros: int, usual: bool, mended: bool) -> None:
    moment, _, signed = signature(BODY, secret).partition(",")
    header = f"t={'0' * zeros}{moment[2:]},{'' if usual else 'v2=x,'}{signed if mended else signed[:-1] + 'g'}"
    body = BODY.decode()
    if stripe._signed_as_usual(BODY, stripe._USUAL.match(header), secret):
        assert stripe._signed(body, header, secret)
    elif usual and secret.isascii():
        assert not stripe._signed(body, header, secret)
    assert stripe._signed_as_usual(BODY, stripe._USUAL.match(signature(BODY)), SECRET)
