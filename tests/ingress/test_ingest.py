"""What the door does with a request, and what it tells the sender."""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import timedelta

import pytest
from ingress.asgi import running
from ingress.sender import SECRET, Door, stripe_event

from billhook.runtime.clock import system_clock
from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.store import sources
from services.ingress.app import build
from services.ingress.ingest import MAX_BODY_BYTES


def test_a_signed_event_is_stored_byte_for_byte_before_the_answer(door: Door) -> None:
    body = stripe_event("evt_1", account="acct_1")
    answer = door.stripe(body)

    assert answer.status == 200
    assert answer.json["status"] == "accepted"
    stored = door.stored("id", "merchant_id", "account", "external_id", "type", "body", "sha256", "state")
    digest = hashlib.sha256(body).digest()
    assert stored == [(answer.json["id"], door.merchant_id, "acct_1", "evt_1", "x.y", body, digest, "due")]


def test_an_in_house_system_signs_by_standard_webhooks(door: Door) -> None:
    answer = door.own("msg_1", b'{"type": "customer.created", "data": {"external_id": "c1"}}')
    assert answer.status == 200
    assert door.stored("external_id", "type") == [("msg_1", "customer.created")]


def test_the_same_event_again_is_the_same_event(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = door.stripe(stripe_event("evt_1"))
    again = door.stripe(stripe_event("evt_1"))
    assert again.json == {"id": first.json["id"], "status": "duplicate"}
    assert len(door.stored("id")) == 1
    lines = [vars(record) for record in caplog.records if record.name == "services.ingress.ingest"]
    assert [(line["msg"], line["event_id"], line["external_id"]) for line in lines] == [
        ("accepted", first.json["id"], "evt_1"),
        ("duplicate", first.json["id"], "evt_1"),
    ]


def test_a_known_id_with_other_bytes_is_kept_beside_and_counted(door: Door) -> None:
    first = door.stripe(stripe_event("evt_1"))
    other = stripe_event("evt_1", livemode=True)
    answer = door.stripe(other)
    assert answer.json == {"id": first.json["id"], "status": "conflict"}
    assert door.stored("body") == [(stripe_event("evt_1"),)]
    assert door.stored("inbox_id", "body", table="inbox_conflicts") == [(first.json["id"], other)]
    assert door.env.metrics.events_conflict.labels("stripe")._value.get() == 1


def test_an_event_sent_again_says_how_many_endpoints_still_wait_and_is_the_same(door: Door) -> None:
    first = door.stripe(stripe_event("evt_1", pending_webhooks=2))
    again = door.stripe(stripe_event("evt_1", pending_webhooks=1))
    assert again.json == {"id": first.json["id"], "status": "duplicate"}
    other = door.stripe(stripe_event("evt_1", pending_webhooks=1, livemode=True))
    assert other.json["status"] == "conflict"
    assert door.stripe(stripe_event("evt_2", livemode=False)).json["status"] == "accepted"
    counted = door.env.metrics.events_other_mode
    assert [counted.labels(mode)._value.get() for mode in ("test", "live")] == [1, 0], "of a live source"


def test_the_same_id_at_once_is_one_event(door: Door) -> None:
    from consumers.world import stripe_signature

    body = stripe_event("evt_1")
    request = (door.path(), body, {"stripe_signature": stripe_signature(body)})
    answers = door.client.posts([request] * 50)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(door.stored("id")) == 1


def test_two_accounts_may_use_one_id(door: Door) -> None:
    for account in ("acct_1", "acct_2"):
        assert door.stripe(stripe_event("evt_1", account=account)).json["status"] == "accepted"


def test_both_secrets_count_while_a_rotation_is_under_way(door: Door) -> None:
    with door.env.database.begin() as tx:
        sources.rotate_secret(tx, door.stripe_source, door.env.vault.seal("whsec_new"))
    assert door.stripe(stripe_event("evt_1"), secret=SECRET).status == 200
    assert door.stripe(stripe_event("evt_2"), secret="whsec_new").status == 200


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        ("", "signature_missing"),
        ("garbage", "signature_malformed"),
        ("t=Infinity,v1=ab", "signature_malformed"),
        ("t=1,v1=ab", "timestamp_too_old"),
        ("t={tomorrow},v1=ab", "timestamp_in_future"),
        ("t={now},v0=ab", "signature_scheme_missing"),
        ("t={now},v1=ab", "signature_mismatch"),
        ("\xff\xfe=\x00,,,;;", "signature_malformed"),
    ],
)
def test_a_signature_that_does_not_hold_is_a_401_that_says_why(door: Door, signature: str, code: str) -> None:
    now = int(time.time())
    signed = signature.format(now=now, tomorrow=now + 86_400)
    answer = door.stripe(stripe_event("evt_1"), stripe_signature=signed)
    assert (answer.status, answer.code) == (401, code)
    assert SECRET not in answer.body.decode()
    assert door.stored("id") == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"evt_1"', 400),
        (b"{}", 400),
        (b'{"id": 7, "type": "x"}', 400),
        (b'{"id": "", "type": "x"}', 400),
        (b'{"id": "a\\u0000b", "type": "x"}', 400),
        (b'{"id": "' + b"a" * 300 + b'", "type": "x"}', 400),
        (b'{"id": "evt_1"}', 400),
        (b'{"id": "evt_1", "type": "x", "data": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400),
        (b'{"id": "evt_1", "type": "x", "n": 123456789012345678901234567890}', 200),
        (b'{"id": "evt_1", "type": "x", "n": 1e400}', 200),
        (b'{"id": "evt_1", "type": "x", "s": "\\u0000"}', 200),
    ],
)
def test_a_body_is_json_with_an_id_or_refused(door: Door, body: bytes, status: int) -> None:
    answer = door.stripe(body)
    assert answer.status == status
    assert len(door.stored("id")) == (status == 200)
    assert door.stripe(stripe_event("evt_after")).status == 200


@pytest.mark.parametrize("half", [b"\\ud800", b"\\udc00", b"\\uD800 and on", b"\\\\\\udfff"])
def test_half_a_character_is_refused_as_such(door: Door, half: bytes) -> None:
    answer = door.stripe(b'{"id": "evt_1", "type": "x", "s": "' + half + b'"}')
    assert (answer.status, answer.code) == (400, "lone_surrogate")


def test_whole_characters_and_what_only_looks_like_half_of_one_are_taken(door: Door) -> None:
    body = b'{"id": "evt_1", "type": "x", "s": "\\ud83d\\ude00 \\\\ud800 \\u00e4"}'
    assert door.stripe(body).status == 200
    broken = door.stripe(body[:-1])
    assert (broken.status, broken.code) == (400, "not_json")


def test_whoever_signs_in_time_is_not_refused_for_our_own_clock(door: Door) -> None:
    """A 401 says: correct it. Of one machine there is one clock, which SQLite has as well."""
    wrong = Env(door.env.settings, clock=lambda: system_clock() + timedelta(hours=1))
    with running(build(wrong, Health())) as client:
        answer = Door(client, wrong, door.merchant_id, door.stripe_source, "").stripe(stripe_event("evt_1"))
    if wrong.database.sqlite:
        assert (answer.status, answer.code) == (401, "timestamp_too_old")
    else:
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "clock_wrong", "30")
    wrong.close()


def test_bytes_that_are_no_text_are_refused(door: Door) -> None:
    assert door.stripe(b'{"id": "evt_1", "type": "\xff"}').status == 401
    assert door.own("msg_1", b'{"type": "\xff"}').status == 400


def test_an_unknown_source_is_a_404(door: Door) -> None:
    for source in ("src_none", "src_\x00", "..", "a" * 5000):
        answer = door.client.post(door.path(source), stripe_event("evt_1"))
        assert (answer.status, answer.code) == (404, "unknown_source")


def test_a_disabled_source_is_unknown(door: Door) -> None:
    with door.env.database.begin() as tx:
        sources.disable_source(tx, door.stripe_source, door.env.clock())
    assert door.stripe(stripe_event("evt_1")).status == 404


def test_a_large_body_is_refused_before_it_is_read_and_while_it_is(door: Door) -> None:
    announced = door.client.send(door.path(), [b""], [(b"content-length", b"%d" % (MAX_BODY_BYTES + 1))])
    assert (announced.status, announced.code) == (413, "too_large")
    streamed = door.client.send(door.path(), [b"x" * 65_536] * 40, [])
    assert (streamed.status, streamed.code) == (413, "too_large")


def test_of_an_unknown_source_no_body_is_read(door: Door) -> None:
    answer = door.client.send(door.path("src_none"), [], [], hang_up=True)  # the first look at it would be the last
    assert (answer.status, answer.code) == (404, "unknown_source")


@pytest.mark.parametrize("encoding", ["gzip", "identity, br"])
def test_a_compressed_body_is_told_that_it_is(door: Door, encoding: str) -> None:
    answer = door.stripe(stripe_event("evt_1"), content_encoding=encoding)
    assert (answer.status, answer.code) == (415, "compressed")
    answer = door.stripe(stripe_event("evt_1"), transfer_encoding=f"{encoding}, chunked")
    assert (answer.status, answer.code) == (415, "compressed")
    assert door.stripe(stripe_event("evt_1"), content_encoding="identity").status == 200


def test_the_largest_body_is_taken(door: Door) -> None:
    frame = len(stripe_event("evt_1", pad=""))
    body = stripe_event("evt_1", pad="x" * (MAX_BODY_BYTES - frame))
    assert len(body) == MAX_BODY_BYTES
    assert door.stripe(body).status == 200


def test_other_methods_and_content_types_are_named(door: Door) -> None:
    got = door.client.send(door.path(), [b""], [], method="GET")
    assert (got.status, got.headers["allow"]) == (405, "POST")
    assert door.stripe(stripe_event("evt_1"), content_type="text/xml").status == 415
    assert door.stripe(stripe_event("evt_1"), content_type="application/json; charset=utf-8").status == 200
    assert door.stripe(stripe_event("evt_2"), content_type="application/cloudevents+json").status == 200


def test_a_sender_that_hangs_up_leaves_nothing(door: Door) -> None:
    answer = door.client.send(door.path(), [b'{"id": "evt', b'_1"'], [], hang_up=True)
    assert answer.status == 400
    assert door.stored("id") == []


def test_an_event_sent_again_before_it_was_done_is_due_now(door: Door) -> None:
    from billhook.store.inbox import inbox

    door.stripe(stripe_event("evt_1"))
    later = door.env.clock() + timedelta(hours=1)
    with door.env.database.begin() as tx:
        tx.execute(inbox.update().values(due_at=later, attempts=3))
    door.stripe(stripe_event("evt_1"))
    ((due_at,),) = door.stored("due_at")
    assert due_at < later


def test_health_and_metrics_answer_without_a_queue(door: Door) -> None:
    door.stripe(stripe_event("evt_1"))
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        assert door.client.send(path, [b""], [], method="GET").status == 200
    metrics = door.client.send("/metrics", [b""], [], method="GET").body.decode()
    assert 'billhook_events_accepted_total{provider="stripe",source="s"} 1.0' in metrics
    assert door.stripe(stripe_event("evt_2"), stripe_signature="garbage").status == 401
    metrics = door.client.send("/metrics", [b""], [], method="GET").body.decode()
    assert 'billhook_ingress_requests_total{code="401"} 1.0' in metrics
    assert "billhook_ingress_accept_duration_seconds_count 1.0" in metrics, "of what was taken, and nothing else"
    assert door.client.send("/nothing", [b""], [], method="GET").status == 404
