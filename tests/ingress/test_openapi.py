"""The door against its own document: whatever is sent, signed or not, the answer is one that the document names."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
import schemathesis
from consumers.world import stripe_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingress.sender import SECRET, Door
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from billhook.rules.signing import signed_headers
from billhook.runtime.env import Env
from billhook.runtime.service import Health
from services.ingress.app import build

# The door's bell rings in a thread of its own, and the queue's client draws its back-off from `random` there.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("signed", [False, True])
def test_every_answer_is_one_the_document_names(mode: GenerationMode, signed: bool, door: Door, env: Env) -> None:
    document = schemathesis.openapi.from_asgi("/openapi.json", build(env, Health()))
    [operation] = [result.ok() for result in document.get_all_operations()]
    answered = set()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 1_000))
    def fuzz(case: schemathesis.Case, number: int) -> None:
        if signed:
            stripe = bool(number % 2)
            if not isinstance(case.body, dict):
                case.body = {}
            body = json.dumps({**case.body, "id": f"evt_{number}", "type": "x.y"} if stripe else case.body).encode()
            headers = (
                {"stripe-signature": stripe_signature(body)}
                if stripe
                else signed_headers([SECRET], f"msg_{number}", datetime.fromtimestamp(time.time(), UTC), body)
            )
            case.path_parameters["source_id"] = door.stripe_source if stripe else door.own_source
            case.headers = {"content-type": "application/json", **headers}
            # The bytes that were signed, as they are.
            answer = case.call(data=body, json=None)
            case.validate_response(answer, checks=CHECKS)
        else:
            answer = case.call_and_validate(checks=CHECKS)
        answered.add(answer.status_code)

    fuzz()
    if signed:
        assert 200 in answered
    else:
        assert 200 not in answered, "nothing unsigned is taken"
