"""The page of the API needs nothing of the internet, and every body on it has an example that is right."""

from __future__ import annotations

import re

import jsonschema
from desk.world import Desk, World

from billhook.runtime.api_pages import POLICY
from services.desk.examples import EXAMPLES


def test_the_page_is_made_of_what_this_process_serves(desk: Desk) -> None:
    page = desk.get("/docs", key=None)
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"] == POLICY
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for address in loaded:
        if not address.startswith("data:"):
            assert "//" not in address
            assert desk.get(f"/{address}", key=None).status_code == 200
    assert "openapi.json" in desk.get("/docs/start.js", key=None).text


def test_every_body_has_an_example_that_can_be_sent(desk: Desk, world: World) -> None:
    document = desk.get("/openapi.json").json()
    paths = document["paths"]
    asked = {
        f"{method.upper()} {path}": operation["requestBody"]["content"]
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    in_json = {name for name, content in asked.items() if "application/json" in content}
    assert in_json == EXAMPLES.keys()
    for name, example in EXAMPLES.items():
        content = asked[name]["application/json"]
        assert content["example"] == example
        jsonschema.validate(example, {**content["schema"], "components": document["components"]})
        method, _, path = name.partition(" ")
        filled = re.sub(r"\{(\w+)\}", lambda found: found[1][:3] + "_" + "0" * 32, path.replace("{kind}", "invoice"))
        sent = desk.ask(
            method,
            filled.replace("mer_" + "0" * 32, world.ours.merchant_id),
            headers={"Idempotency-Key": "k"},
            json=example,
            params={"merchant_id": world.ours.merchant_id},
        )
        code = sent.json().get("error", {}).get("code") if sent.content else None
        assert code not in ("invalid", "not_json", "terms_invalid", "policy_invalid"), (name, sent.text)
        assert sent.status_code < 500, (name, sent.text)
