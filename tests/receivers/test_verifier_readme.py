"""The verifier's README tells no stories: what it shows is run, as far as its frameworks are here."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from ingress.asgi import running
from receivers.python_receiver import served
from receivers.vectors import HELLO, OTHER, SECRET, VECTORS

import billhook_webhooks
from billhook.rules.signing import signed_headers
from billhook_webhooks import Event, Webhook, WebhookVerificationError

README = (Path(billhook_webhooks.__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def example(needle: str, kept: list[Event]) -> dict[str, Any]:
    """The names that this example defines."""
    (block,) = (block for block in PYTHON if needle in block)
    names: dict[str, Any] = {
        "webhook": Webhook(SECRET),
        "WebhookVerificationError": WebhookVerificationError,
        "keep": kept.append,
    }
    exec(block, names)
    return names


def signed(secret: str) -> dict[str, str]:
    return signed_headers([secret], "msg_1", datetime.now(UTC), HELLO)


def test_the_fastapi_example_keeps_what_verifies() -> None:
    kept: list[Event] = []
    with running(example("FastAPI", kept)["app"]) as client:
        assert client.post("/hooks/billhook", HELLO, **signed(SECRET)).status == 204
        assert client.post("/hooks/billhook", HELLO, **signed(OTHER)).status == 400
        assert client.post("/hooks/billhook", HELLO).status == 400
    assert [event.type for event in kept] == ["test.hello"]


def test_the_plain_example_keeps_what_verifies() -> None:
    kept: list[Event] = []
    with served(example("http.server", kept)["Hooks"]) as url:
        with urlopen(Request(url, HELLO, signed(SECRET)), timeout=30) as answer:
            assert answer.status == 204
        with pytest.raises(HTTPError) as refused, urlopen(Request(url, HELLO, signed(OTHER)), timeout=30):
            pass
        with refused.value:
            assert refused.value.code == 400
    assert [event.type for event in kept] == ["test.hello"]


@pytest.mark.parametrize("block", PYTHON)
def test_every_example_is_python(block: str) -> None:
    compile(block, "README.md", "exec")


def test_what_the_readme_lists_is_all_there_is() -> None:
    for reason in get_args(billhook_webhooks.Reason):
        assert f"`{reason}`" in README
    vector = VECTORS["official"]
    for shown in (vector.signs, vector.id, str(vector.seconds), vector.body.decode(), vector.signature):
        assert f"`{shown}`" in README
