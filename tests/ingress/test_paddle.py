"""Paddle at the door."""

from __future__ import annotations

import hmac
import json
import time

import pytest
from ingress.asgi import Answer
from ingress.sender import SECRET, Door

from billhook.store import sources


def notification(number: str, **data: str) -> bytes:
    envelope = {"event_id": "evt_1", "event_type": "customer.created", "occurred_at": "2026-01-01T00:00:00.5Z"}
    return json.dumps({**envelope, "notification_id": number, "data": {"id": "ctm_1", **data}}).encode()


@pytest.fixture
def paddle(door: Door) -> str:
    with door.env.database.begin() as tx:
        sealed = door.env.vault.seal(SECRET)
        return sources.create_source(tx, door.merchant_id, "paddle", "p", sealed, door.env.clock()).id


def post(door: Door, source: str, body: bytes, secret: str = SECRET) -> Answer:
    seconds = int(time.time())
    digest = hmac.digest(secret.encode(), b"%d:%s" % (seconds, body), "sha256").hex()
    return door.client.post(door.path(source), body, paddle_signature=f"ts={seconds};h1={digest}")


def test_a_signed_notification_is_stored_with_its_signature(door: Door, paddle: str) -> None:
    answer = post(door, paddle, notification("ntf_1"))
    assert (answer.status, answer.json["status"]) == (200, "accepted")
    [(external_id, event_type, body, headers)] = door.stored("external_id", "type", "body", "headers")
    assert (external_id, event_type, body) == ("evt_1", "customer.created", notification("ntf_1"))
    assert b"paddle-signature" in headers
    assert post(door, paddle, notification("ntf_1"), secret="other").status == 401


def test_an_event_that_paddle_sends_again_is_no_conflict(door: Door, paddle: str) -> None:
    post(door, paddle, notification("ntf_1"))
    assert post(door, paddle, notification("ntf_2")).json["status"] == "duplicate"
    assert post(door, paddle, notification("ntf_3", name="Other")).json["status"] == "conflict"
    assert len(door.stored("id")) == 1
