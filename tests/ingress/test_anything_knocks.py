"""Anything at all may knock: the door answers, stores nothing unsigned, and lives on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingress.sender import SECRET, Door, stripe_event

# The door's bell rings in a thread of its own, and the queue's client draws its back-off from `random` there.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.sampled_from(
    [b"stripe-signature", b"webhook-id", b"webhook-timestamp", b"webhook-signature", b"content-type", b"content-length"]
) | st.binary(min_size=1, max_size=20)
headers = st.lists(st.tuples(names, st.binary(max_size=200)), max_size=8)
paths = st.text(max_size=60).map(lambda text: f"/v1/sources/{text}/events") | st.text(max_size=60).map("/".__add__)
chunks = st.lists(st.binary(max_size=2000), min_size=1, max_size=4)
methods = st.sampled_from(["POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"])


@quick
@given(path=paths, chunks=chunks, headers=headers, method=methods)
def test_no_request_is_a_500(
    door: Door, path: str, chunks: list[bytes], headers: list[tuple[bytes, bytes]], method: str
) -> None:
    assert door.client.send(path, chunks, headers, method=method).status < 500


@quick
@given(chunks=chunks, headers=headers, own=st.booleans(), hang_up=st.booleans())
def test_nothing_unsigned_is_stored(
    door: Door, chunks: list[bytes], headers: list[tuple[bytes, bytes]], own: bool, hang_up: bool
) -> None:
    source = door.own_source if own else door.stripe_source
    answer = door.client.send(door.path(source), chunks, headers, hang_up=hang_up)
    assert 400 <= answer.status < 500
    assert set(answer.json["error"]) == {"code", "message"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@quick
@given(event_id=st.text(), fields=st.dictionaries(st.text(max_size=8), json_values, max_size=5))
def test_a_signed_event_is_stored_or_refused_with_a_reason(
    door: Door, event_id: str, fields: dict[str, object]
) -> None:
    body = stripe_event(event_id, **{name: value for name, value in fields.items() if name != "id"})
    answer = door.stripe(body, secret=SECRET)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert (event_id,) in door.stored("external_id")
