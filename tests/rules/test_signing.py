"""What billhook signs, in both schemes: the published vectors, keys made here, and secrets that cannot work."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from receivers.vectors import BODY, PRIVATE, PUBLIC, SECRET, SEED, VECTORS, Vector

from billhook.errors import SettingsError, SignatureRefused
from billhook.rules.signing import (
    ID,
    SIGNATURE,
    TIMESTAMP,
    new_secret,
    public_key,
    sign,
    signed_headers,
    signing_key,
    verify,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


def decoded(text: str) -> bytes:
    return base64.b64decode(text.partition("_")[2])


def ed25519_verifies(public: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver would do it that has nothing but Ed25519."""
    content = f"{headers[ID]}.{headers[TIMESTAMP]}.".encode() + body
    key = Ed25519PublicKey.from_public_bytes(decoded(public))
    signatures = [entry[4:] for entry in headers[SIGNATURE].split(" ") if entry.startswith("v1a,")]
    for signature in signatures:
        try:
            key.verify(base64.b64decode(signature), content)
        except InvalidSignature:
            continue
        return True
    return False


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_the_published_vectors_are_what_we_sign(vector: Vector) -> None:
    assert sign(vector.signs, vector.id, vector.at, vector.body) == vector.signature
    assert signed_headers([vector.signs], vector.id, vector.at, vector.body) == vector.headers


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_the_published_vectors_verify_and_a_changed_body_does_not(vector: Vector) -> None:
    reserialised = vector.body.replace(b":", b": ").replace(b",", b", ")
    if vector.signs == vector.verifies:
        verify(vector.headers, vector.body, [vector.verifies], vector.at, 300)
        with pytest.raises(SignatureRefused):
            verify(vector.headers, reserialised, [vector.verifies], vector.at, 300)
    else:
        assert ed25519_verifies(vector.verifies, vector.headers, vector.body)
        assert not ed25519_verifies(vector.verifies, vector.headers, reserialised)
        assert public_key(vector.signs) == vector.verifies


@settings(deadline=None)
@given(body=st.binary(), message_id=st.from_regex(r"\A[!-~]{1,60}\Z"))
def test_whoever_has_the_public_key_verifies_what_the_private_one_signed(body: bytes, message_id: str) -> None:
    headers = signed_headers([PRIVATE], message_id, NOW, body)
    assert ed25519_verifies(PUBLIC, headers, body)
    assert not ed25519_verifies(PUBLIC, headers, body + b" ")
    assert not ed25519_verifies(PUBLIC, {**headers, ID: message_id + "x"}, body)
    assert not ed25519_verifies(PUBLIC, {**headers, TIMESTAMP: str(SECONDS + 1)}, body)
    assert not ed25519_verifies(public_key(SEED), headers, body)


def test_each_secret_signs_in_its_own_scheme_in_the_given_order() -> None:
    headers = signed_headers([SECRET, PRIVATE, SEED], "msg_1", NOW, BODY)
    assert headers[SIGNATURE] == " ".join(sign(secret, "msg_1", NOW, BODY) for secret in (SECRET, PRIVATE, SEED))
    assert [entry.partition(",")[0] for entry in headers[SIGNATURE].split(" ")] == ["v1", "v1a", "v1a"]
    verify(headers, BODY, [SECRET], NOW, 300)
    assert ed25519_verifies(PUBLIC, headers, BODY)
    assert ed25519_verifies(public_key(SEED), headers, BODY)


def test_the_seed_alone_signs_as_seed_and_public_key_do() -> None:
    seed_alone = "whsk_" + base64.b64encode(decoded(PRIVATE)[:32]).decode()
    assert sign(seed_alone, "msg_1", NOW, BODY) == sign(PRIVATE, "msg_1", NOW, BODY)
    assert sign(PRIVATE.rstrip("="), "msg_1", NOW, BODY) == sign(PRIVATE, "msg_1", NOW, BODY)


@pytest.mark.parametrize("secret", [SECRET, PRIVATE])
def test_the_timestamp_is_of_utc_in_any_time_zone_and_in_whole_seconds(secret: str) -> None:
    elsewhere = (NOW + timedelta(microseconds=999_999)).astimezone(timezone(timedelta(hours=-9)))
    headers = signed_headers([secret], "msg_1", elsewhere, BODY)
    assert headers == signed_headers([secret], "msg_1", NOW, BODY)
    assert headers[TIMESTAMP] == str(SECONDS)


def test_a_new_v1_secret_is_24_random_bytes() -> None:
    secret = new_secret("v1")
    assert secret.startswith("whsec_")
    assert len(signing_key(secret)) == 24
    assert secret != new_secret("v1")
    verify(signed_headers([secret], "msg_1", NOW, BODY), BODY, [secret], NOW, 300)


def test_a_new_v1a_secret_is_a_key_pair() -> None:
    secret = new_secret("v1a")
    assert secret.startswith("whsk_")
    assert len(decoded(secret)) == 64
    assert public_key(secret) == "whpk_" + base64.b64encode(decoded(secret)[32:]).decode()
    assert secret != new_secret("v1a")
    assert ed25519_verifies(public_key(secret), signed_headers([secret], "msg_1", NOW, BODY), BODY)


def encoded(prefix: str, key: bytes) -> str:
    return prefix + base64.b64encode(key).decode()


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "must not be empty"),
        ("whsec_", "must not be empty"),
        ("whsec_not base64!", "must be base64"),
        ("whsec_ünïcode", "must be base64"),
        ("whsk_", "holds 0"),
        ("whsk_not base64!", "must be base64"),
        (encoded("whsk_", b"k" * 31), "holds 31"),
        (encoded("whsk_", b"k" * 33), "holds 33"),
        (encoded("whsk_", b"k" * 64), "not of one key pair"),
        (PUBLIC, "the public one and signs nothing"),
    ],
)
def test_an_unusable_secret_is_refused_in_words_that_do_not_repeat_it(secret: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        signed_headers([SECRET, secret], "msg_1", NOW, BODY)
    bare = secret.partition("_")[2]
    assert not bare or bare not in str(refused.value)


def test_nothing_goes_out_unsigned() -> None:
    with pytest.raises(SettingsError, match="no secret"):
        signed_headers([], "msg_1", NOW, BODY)


@pytest.mark.parametrize("secret", [SECRET, PUBLIC, "", "whsk_x"])
def test_only_a_private_key_has_a_public_one(secret: str) -> None:
    with pytest.raises(SettingsError):
        public_key(secret)


def test_inbound_events_are_verified_by_v1_alone() -> None:
    headers = signed_headers([PRIVATE], "msg_1", NOW, BODY)
    with pytest.raises(SignatureRefused) as refused:
        verify(headers, BODY, [SECRET], NOW, 300)
    assert refused.value.code == "signature_scheme_missing"
    beside = signed_headers([PRIVATE, SECRET], "msg_1", NOW, BODY)
    verify(beside, BODY, [SECRET], NOW, 300)
    with pytest.raises(SignatureRefused) as refused:
        verify(beside, BODY, [PRIVATE], NOW, 300)
    assert refused.value.code == "secret_unusable"


def test_the_official_list_of_four_signatures_is_accepted() -> None:
    wrong = "Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    good = sign(SECRET, "msg_1", NOW, BODY)
    headers = {ID: "msg_1", TIMESTAMP: str(SECONDS), SIGNATURE: f"v1,{wrong} v2,{wrong} {good} v1,{wrong}"}
    verify(headers, BODY, [SECRET], NOW, 300)


def test_a_signature_that_ends_differently_fails() -> None:
    vector = VECTORS["official"]
    headers = {**vector.headers, SIGNATURE: vector.signature.replace("J1OE=", "J1OA=")}
    with pytest.raises(SignatureRefused) as refused:
        verify(headers, vector.body, [SECRET], vector.at, 300)
    assert refused.value.code == "signature_mismatch"


def test_a_secret_works_without_prefix_and_without_padding() -> None:
    assert sign(SECRET.removeprefix("whsec_"), "msg_1", NOW, BODY) == sign(SECRET, "msg_1", NOW, BODY)
    for unpadded in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr"):
        padded = unpadded + "=" * (-len(unpadded) % 4)
        assert sign(unpadded, "msg_1", NOW, BODY) == sign(f"whsec_{padded}", "msg_1", NOW, BODY)


@pytest.mark.parametrize(("seconds", "code"), [(-301, "timestamp_too_old"), (301, "timestamp_in_future")])
def test_five_minutes_and_a_second_are_too_much(seconds: int, code: str) -> None:
    headers = signed_headers([SECRET], "msg_1", NOW + timedelta(seconds=seconds), BODY)
    with pytest.raises(SignatureRefused) as refused:
        verify(headers, BODY, [SECRET], NOW, 300)
    assert refused.value.code == code


@pytest.mark.parametrize("missing", [ID, TIMESTAMP, SIGNATURE])
def test_none_of_the_three_headers_may_be_missing(missing: str) -> None:
    headers = signed_headers([SECRET], "msg_1", NOW, BODY)
    del headers[missing]
    with pytest.raises(SignatureRefused) as refused:
        verify(headers, BODY, [SECRET], NOW, 300)
    assert refused.value.code == "signature_missing"
