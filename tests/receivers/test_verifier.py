"""The verifier that receivers install: what it accepts, and that a stranger's request is refused and does no more."""

from __future__ import annotations

import ast
import base64
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receivers.vectors import BODY, HELLO, OTHER, PRIVATE, PUBLIC, PUBLIC_OF_SEED, SECRET, SEED, VECTORS, Vector

import billhook_webhooks
from billhook.events import DOMAIN_EVENTS, OPERATIONAL_EVENTS
from billhook.rules.signing import signed_headers
from billhook_webhooks import KNOWN_TYPES, Event, Webhook, WebhookVerificationError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
WRONG = "Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
SOURCE = Path(billhook_webhooks.__file__).parent


def signed(*secrets: str, body: bytes = HELLO, at: datetime = NOW) -> dict[str, Any]:
    return signed_headers(secrets or (SECRET,), "msg_1", at, body)


def refusal(headers: Mapping[str, str | bytes], body: bytes = HELLO, secrets: str | list[str] = SECRET) -> str:
    with pytest.raises(WebhookVerificationError) as refused:
        Webhook(secrets).verify(headers, body, now=NOW)
    assert str(refused.value)
    return refused.value.reason


def test_an_event_is_read_from_what_was_signed() -> None:
    body = json.dumps({"type": "invoice.paid", "timestamp": "2026-03-01T11:59:59.25Z", "data": {"total": 990}}).encode()
    event = Webhook(SECRET).verify(signed(body=body), body, now=NOW)
    at = datetime(2026, 3, 1, 11, 59, 59, 250_000, tzinfo=UTC)
    assert event == Event(id="msg_1", type="invoice.paid", timestamp=at, data={"total": 990})
    assert event.type in KNOWN_TYPES


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_the_published_vectors_verify_and_reserialised_bodies_do_not(vector: Vector) -> None:
    webhook = Webhook(vector.verifies)
    assert webhook.verify_signature(vector.headers, vector.body, now=vector.at) == vector.id
    reserialised = vector.body.replace(b":", b": ").replace(b",", b", ")
    with pytest.raises(WebhookVerificationError) as refused:
        webhook.verify_signature(vector.headers, reserialised, now=vector.at)
    assert refused.value.reason == "signature_mismatch"


def test_the_known_types_are_those_of_billhook() -> None:
    sent = {*DOMAIN_EVENTS, *OPERATIONAL_EVENTS}
    assert sent == KNOWN_TYPES, "event.py of billhook-webhooks must list what billhook sends"


def test_a_type_of_tomorrow_is_read_too() -> None:
    event = Webhook(SECRET).verify(signed(), HELLO, now=NOW)
    assert event.type == "test.hello"
    assert event.type not in KNOWN_TYPES


def test_any_of_several_secrets_of_any_scheme_is_enough() -> None:
    for secrets in ([SECRET], [OTHER, SECRET], [PUBLIC, SECRET], [PUBLIC_OF_SEED, PUBLIC], [OTHER, PUBLIC]):
        Webhook(secrets).verify(signed(SECRET, PRIVATE), HELLO, now=NOW)
    assert refusal(signed(SECRET, PRIVATE), secrets=[OTHER, PUBLIC_OF_SEED]) == "signature_mismatch"


def test_one_signature_among_others_is_enough() -> None:
    for secret, given_secret in ((SECRET, SECRET), (PRIVATE, PUBLIC)):
        good = signed(secret)["webhook-signature"]
        scheme = good.partition(",")[0]
        listed = f"{scheme},{WRONG} v2,{WRONG} {good} {scheme},{WRONG}"
        Webhook(given_secret).verify({**signed(), "webhook-signature": listed}, HELLO, now=NOW)
        Webhook(given_secret).verify({**signed(), "webhook-signature": f"v2,x  v1 garbage {good}"}, HELLO, now=NOW)


def test_headers_have_no_case_and_may_be_bytes() -> None:
    names = signed()
    for headers in (
        {name.title(): value for name, value in names.items()},
        {name.upper(): value.encode() for name, value in names.items()},
        {**names, "host": "example.com", "X-Other": "ünïcode"},
    ):
        assert Webhook(SECRET).verify(headers, HELLO, now=NOW).id == "msg_1"
    in_bytes = {name.encode(): value.encode() for name, value in names.items()}
    assert Webhook(SECRET).verify(in_bytes, HELLO, now=NOW).id == "msg_1"


def test_a_secret_works_without_prefix_and_without_padding() -> None:
    Webhook(SECRET.removeprefix("whsec_")).verify(signed(), HELLO, now=NOW)
    Webhook(PUBLIC.rstrip("=")).verify(signed(PRIVATE), HELLO, now=NOW)
    for unpadded in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr"):
        Webhook(unpadded).verify(signed(unpadded), HELLO, now=NOW)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whpk_",
        "whsec_not base64!",
        "whsec_ünïcode",
        "whpk_not base64!",
        "whpk_" + base64.b64encode(b"k" * 31).decode(),
        "whpk_" + base64.b64encode(b"k" * 64).decode(),
        PRIVATE,
        SEED,
    ],
)
def test_a_secret_that_verifies_nothing_is_refused_at_once(secret: str) -> None:
    with pytest.raises(ValueError, match=r"secret|key") as refused:
        Webhook([SECRET, secret])
    bare = secret.partition("_")[2]
    assert not bare or bare not in str(refused.value)


def test_no_secret_at_all_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="At least one"):
        Webhook([])


def test_a_body_that_is_not_the_raw_bytes_is_the_receivers_mistake() -> None:
    with pytest.raises(TypeError, match="raw bytes"):
        Webhook(SECRET).verify(signed(), HELLO.decode(), now=NOW)  # type: ignore[arg-type]


def test_five_minutes_are_accepted_both_ways_and_no_second_more() -> None:
    for seconds, reason in ((-301, "timestamp_too_old"), (301, "timestamp_in_future")):
        assert refusal(signed(at=NOW + timedelta(seconds=seconds))) == reason
    for seconds in (-300, 300):
        Webhook(SECRET).verify(signed(at=NOW + timedelta(seconds=seconds)), HELLO, now=NOW)
    with pytest.raises(WebhookVerificationError, match="at most 10 s"):
        Webhook(SECRET, tolerance_seconds=10).verify(signed(at=NOW - timedelta(seconds=11)), HELLO, now=NOW)


def test_without_a_clock_the_time_is_now() -> None:
    Webhook(SECRET).verify(signed(at=datetime.now(UTC)), HELLO)
    with pytest.raises(WebhookVerificationError, match="s old"):
        Webhook(SECRET).verify(signed(), HELLO)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_is_needed(missing: str) -> None:
    headers = signed()
    assert refusal({**headers, missing: ""}) == "signature_missing"
    del headers[missing]
    assert refusal(headers) == "signature_missing"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("webhook-timestamp", value)
            for value in (
                "Infinity",
                "t=Infinity",
                "NaN",
                "-1",
                "1e9",
                "1_0",
                " 1",
                "1.5",
                "9" * 500,
                "٣",
                "abc",
                b"\xff",
            )
        ),
        *(("webhook-id", value) for value in ("msg 1", "msg.1", "msg_1\n", "ünïcode", b"\xc3\xbc", "\ud800")),
        *(("webhook-signature", value) for value in ("v1,ünïcode", b"v1,\xff", "v1,x " * 5000)),
        ("Webhook-Id", "msg_1"),
    ],
)
def test_headers_that_no_sender_sends_are_refused_as_such(name: str, value: str | bytes) -> None:
    assert refusal({**signed(), name: value}) == "signature_malformed"


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("garbage", "signature_scheme_missing"),
        ("12345", "signature_scheme_missing"),
        ("v1a,abc v2,abc", "signature_scheme_missing"),
        (" ", "signature_scheme_missing"),
        (f"v2,{WRONG}", "signature_scheme_missing"),
        ("v1", "signature_mismatch"),
        ("v1,", "signature_mismatch"),
        ("v1,12345", "signature_mismatch"),
        ("v1,a,b", "signature_mismatch"),
        (f"v1,{WRONG}", "signature_mismatch"),
    ],
)
def test_signatures_that_do_not_match_are_refused(signature: str, reason: str) -> None:
    assert refusal({**signed(), "webhook-signature": signature}) == reason


@pytest.mark.parametrize("signature", ["v1a", "v1a,", "v1a,x", "v1a,a,b", "v1a,====", f"v1a,{WRONG}"])
def test_garbage_in_place_of_an_ed25519_signature_is_a_mismatch(signature: str) -> None:
    assert refusal({**signed(), "webhook-signature": signature}, secrets=PUBLIC) == "signature_mismatch"


def test_a_signature_that_ends_differently_fails() -> None:
    vector = VECTORS["official"]
    for ending in ("J1OA=", "J1OF=", "J1OE"):  # the second decodes to the same bytes
        headers = {**vector.headers, "webhook-signature": vector.signature.replace("J1OE=", ending)}
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify_signature(headers, BODY, now=vector.at)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b"[]",
        b"null",
        b"17",
        '{"type": "a.b"}'.encode("utf-16"),
        b"\xef\xbb\xbf" + HELLO,
        b"[" * 100_000,
        b"9" * 5000,
        BODY,
        b'{"type": 1, "timestamp": "2026-03-01T12:00:00Z", "data": {}}',
        b'{"type": "", "timestamp": "2026-03-01T12:00:00Z", "data": {}}',
        b'{"type": "a.b", "timestamp": "2026-03-01T12:00:00Z", "data": []}',
        b'{"type": "a.b", "timestamp": "2026-03-01T12:00:00Z"}',
        b'{"type": "a.b", "timestamp": "2026-03-01T12:00:00", "data": {}}',
        b'{"type": "a.b", "timestamp": "yesterday", "data": {}}',
        b'{"type": "a.b", "timestamp": 1767225600, "data": {}}',
        b'{"type": "a.b", "data": {}}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_signed_body_that_holds_no_event_is_refused_as_such(body: bytes) -> None:
    assert refusal(signed(body=body), body) == "body_malformed"


def test_a_refusal_repeats_nothing_and_survives_pickling() -> None:
    with pytest.raises(WebhookVerificationError) as refused:
        Webhook(SECRET).verify({**signed(), "webhook-signature": "v1,hostile"}, b"hostile", now=NOW)
    assert "hostile" not in str(refused.value)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.reason, str(again)) == (refused.value.reason, str(refused.value))


NAMES = st.sampled_from(["webhook-id", "Webhook-Timestamp", "webhook-timestamp", "WEBHOOK-SIGNATURE"]) | st.text()
VALUES = st.text() | st.binary() | st.sampled_from([str(SECONDS), "v1,", "v1a,", f"v1,{WRONG} v1a,{WRONG}"])


@settings(deadline=None)
@given(headers=st.dictionaries(NAMES, VALUES), body=st.binary())
def test_no_unsigned_request_does_more_than_being_refused(headers: dict[str, str | bytes], body: bytes) -> None:
    refusal(headers, body, [SECRET, PUBLIC])
    refusal({**signed(), **headers}, body + b"x", [SECRET, PUBLIC])


ENVELOPES = st.dictionaries(
    st.sampled_from(["type", "timestamp", "data"]) | st.text(),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.datetimes().map(lambda at: f"{at}Z"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)


@settings(deadline=None)
@given(body=st.binary() | st.text().map(str.encode) | ENVELOPES.map(lambda envelope: json.dumps(envelope).encode()))
def test_whatever_was_signed_is_an_event_or_is_refused(body: bytes) -> None:
    try:
        said = Webhook(SECRET).verify(signed(body=body), body, now=NOW).timestamp.tzname()
    except WebhookVerificationError as refused:
        said = refused.reason
    assert said in ("UTC", "body_malformed")


def test_the_verifier_stands_alone() -> None:
    """With nothing of site-packages in sight, `v1` works, and `v1a` says what it needs."""
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "billhook" for name in names), path
    story = f"""
import sys
sys.path.insert(0, {str(SOURCE.parent)!r})
from datetime import datetime
from billhook_webhooks import Webhook
print(Webhook({SECRET!r}).verify({signed()!r}, {HELLO!r}, now=datetime.fromisoformat({NOW.isoformat()!r})).type)
try:
    Webhook({PUBLIC!r})
except ImportError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-I", "-S", "-c", story], capture_output=True, text=True, check=True)
    first, second = told.stdout.splitlines()
    assert first == "test.hello"
    assert "billhook-webhooks[ed25519]" in second
