"""The whole API against its own document: whatever is sent, the answer is one that the document names."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
import schemathesis
from desk.world import OPERATOR, add_reconciliation, add_replay, ids_for, new_env, settle
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python.asgi import get_client
from schemathesis.specs.openapi import checks
from store.databases import lay_ledger

from billhook.runtime.service import Health
from billhook_testing.fake_stripe import FakeStripe
from services.desk.app import build

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

# An address that can be posted to, a range of time that has passed, a letter that no earlier request has resolved, a
# currency, a picture, a look that there is, and the kind of document.
HARD_TO_GUESS = {
    "POST /v1/endpoints",
    "POST /v1/replays",
    "POST /v1/dead-letters/{dead_letter_id}/discard",
    "POST /v1/invoices",
    "POST /v1/invoices/preview",
    "PUT /v1/invoices/{invoice_id}",
    "PUT /v1/merchants/{merchant_id}/logo",
    "POST /v1/invoices/{invoice_id}/documents/{kind}",
    "POST /v1/credit-notes/{credit_note_id}/documents/credit_note",
}


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_the_document_names(mode: GenerationMode, tmp_path: Path) -> None:
    lay_ledger(tmp_path / "billhook.db")
    env = new_env(f"sqlite:///{tmp_path}/billhook.db", tmp_path)
    app = build(env, Health())
    # One client for all: one of its own for each case would start a loop, and the desk, a thousand times.
    with closing(env), FakeStripe() as fake, get_client(app) as client:
        ours = settle(env, "Ours")
        add_replay(env, ours)
        add_reconciliation(env, ours, fake)
        document = schemathesis.openapi.from_asgi("/openapi.json", app)
        # What deletes comes last, so that the others find something.
        operations = sorted((r.ok() for r in document.get_all_operations()), key=lambda o: o.method == "delete")
        assert len(operations) > 40
        answered: dict[str, set[int]] = defaultdict(set)
        for operation in operations:

            @settings(
                # Kinds and bodies are made up, so that the right one has to be met by chance.
                max_examples=15 if "{kind}" in operation.path or operation.method == "post" else 5,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def fuzz(case: schemathesis.Case) -> None:
                if mode is GenerationMode.POSITIVE or case.operation.body:
                    # Ids made up would all be unknown: these lead to where there is something to answer with.
                    ids = ids_for(env, case.operation.label, ours)
                    case.path_parameters.update({name: ids[name] for name in case.path_parameters if name != "kind"})
                if mode is GenerationMode.POSITIVE and any(one.name == "merchant_id" for one in case.operation.query):
                    case.query["merchant_id"] = ours.merchant_id
                if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "source_id" in case.body:
                    case.body["source_id"] = ours.ids["asked_source_id"]
                if mode is GenerationMode.POSITIVE:
                    case.query.pop("template", None)  # no file is in a look that was made up
                    case.query.pop("source_id", None)  # nor anything from a source that was
                    if isinstance(case.body, dict):  # nor has a provider a secret or an address that was
                        for name in ("api_base", "secret"):
                            case.body.pop(name, None)
                key = {"Authorization": f"Bearer {OPERATOR}"}
                answer = case.call_and_validate(session=client, headers=key, checks=CHECKS)
                answered[case.operation.label].add(answer.status_code)

            fuzz()
    if mode is GenerationMode.POSITIVE:
        barren = {label for label, statuses in answered.items() if not statuses & {200, 201, 202, 204}}
        assert barren <= HARD_TO_GUESS
