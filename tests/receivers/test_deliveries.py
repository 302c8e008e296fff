"""What billhook signs, posted over HTTP to receivers that each verify in their own way.

They read the clock themselves, so these requests are signed now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import standardwebhooks
from receivers.node_receiver import Verdict, node_receiver
from receivers.python_receiver import python_receiver
from receivers.vectors import HELLO, OTHER, PRIVATE, PUBLIC, SECRET, SEED

import billhook_webhooks
from billhook.rules.signing import new_secret, public_key, signed_headers

Receivers = Callable[[str], AbstractContextManager[str]]
"""A receiver with this secret; its address."""


@pytest.fixture(params=["standardwebhooks (Python)", "standardwebhooks (npm)", "billhook-webhooks"])
def receivers(request: pytest.FixtureRequest) -> Receivers:
    if request.param == "standardwebhooks (npm)":
        return in_node(request.getfixturevalue("node_project"))
    if request.param == "billhook-webhooks":
        return with_our_verifier
    return lambda secret: python_receiver(
        lambda headers, body: standardwebhooks.Webhook(secret).verify(body, dict(headers.items()))
    )


@pytest.fixture(params=["node:crypto", "billhook-webhooks"])
def receivers_of_v1a(request: pytest.FixtureRequest) -> Receivers:
    """No official library verifies `v1a`."""
    return in_node(request.getfixturevalue("node_project")) if request.param == "node:crypto" else with_our_verifier


def in_node(project: Path) -> Receivers:
    @contextmanager
    def receiver(secret: str) -> Iterator[str]:
        with node_receiver(project, secret) as node:
            yield node.url

    return receiver


def with_our_verifier(secret: str) -> AbstractContextManager[str]:
    return python_receiver(billhook_webhooks.Webhook(secret).verify)


def deliver(url: str, headers: Mapping[str, str], body: bytes = HELLO) -> int:
    """The status that the receiver answers."""
    try:
        with urlopen(Request(url, body, dict(headers), method="POST"), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as refusal:
        with refusal:
            return refusal.code


def signed(*secrets: str, seconds: int = 0) -> dict[str, str]:
    return signed_headers(secrets, "msg_1", datetime.now(UTC) + timedelta(seconds=seconds), HELLO)


def test_what_we_sign_is_accepted_and_what_was_changed_is_not(receivers: Receivers) -> None:
    secret = new_secret("v1")
    with receivers(secret) as url:
        good = signed(secret)
        assert deliver(url, good) == 204
        assert deliver(url, good, HELLO.replace(b"world", b"w0rld")) == 400
        assert deliver(url, good, HELLO.replace(b":", b": ")) == 400
        assert deliver(url, {**good, "webhook-id": "msg_2"}) == 400
        assert deliver(url, {**good, "webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)}) == 400
        assert deliver(url, signed(OTHER)) == 400


def test_a_stale_signature_and_one_from_the_future_are_refused(receivers: Receivers) -> None:
    with receivers(SECRET) as url:
        assert deliver(url, signed(SECRET, seconds=-301)) == 400
        assert deliver(url, signed(SECRET, seconds=600)) == 400
        assert deliver(url, signed(SECRET, seconds=-240)) == 204


def test_while_a_secret_is_rotated_a_receiver_with_either_is_content(receivers: Receivers) -> None:
    new, old = new_secret("v1"), new_secret("v1")
    both = signed(new, old)
    for secret, status in ((new, 204), (old, 204), (SECRET, 400)):
        with receivers(secret) as url:
            assert deliver(url, both) == status


def test_a_v1a_signature_does_not_disturb_those_who_know_v1_only(receivers: Receivers) -> None:
    with receivers(SECRET) as url:
        assert deliver(url, signed(PRIVATE, SECRET)) == 204
        assert deliver(url, signed(SECRET, PRIVATE)) == 204
        assert deliver(url, signed(PRIVATE)) == 400


def test_a_receiver_with_the_public_key_accepts_v1a(receivers_of_v1a: Receivers) -> None:
    secret = new_secret("v1a")
    with receivers_of_v1a(public_key(secret)) as url:
        good = signed(secret)
        assert deliver(url, good) == 204
        assert deliver(url, good, HELLO.replace(b"world", b"w0rld")) == 400
        assert deliver(url, {**good, "webhook-id": "msg_2"}) == 400
        assert deliver(url, signed(PRIVATE)) == 400
        assert deliver(url, signed(secret, seconds=-301)) == 400
        assert deliver(url, signed(SECRET, PRIVATE, secret)) == 204
        assert deliver(url, signed(SECRET)) == 400


def test_the_receiver_in_node_tells_what_it_thought(node_project: Path) -> None:
    with node_receiver(node_project, SECRET) as node:
        assert node.verdicts() == []
        assert deliver(node.url, signed(SECRET)) == 204
        assert deliver(node.url, signed(OTHER)) == 400
        good, bad = node.verdicts()
        assert good == Verdict("msg_1", "test.hello", None)
        assert (bad.id, bad.type) == ("msg_1", None)
        assert "No matching signature" in str(bad.error)
    with node_receiver(node_project, PUBLIC) as node:
        assert deliver(node.url, signed(PRIVATE)) == 204
        assert deliver(node.url, signed(SEED)) == 400
        assert [verdict.error is None for verdict in node.verdicts()] == [True, False]
