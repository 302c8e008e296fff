"""`billhook endpoints …` and `billhook messages …`, as they are typed."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cli.shell import Shell

from billhook.rules.signing import new_secret, public_key
from billhook.store.deliveries import NewDelivery, add_deliveries, get_delivery, list_deliveries
from billhook.store.endpoints import Endpoint, endpoints_of
from billhook.store.messages import Message, add_messages, get_message
from billhook.store.replays import list_replays

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

EVERYTHING = (
    *("--description", "Bookkeeping", "--event", "invoice.*", "--event", "order.shipped", "--header", "X-Team: books"),
    *("--schedule", "5,300.5", "--timeout", "20", "--max-in-flight", "8", "--rate", "2.5", "--ordering", "customer"),
)


@pytest.fixture
def endpoint(shell: Shell) -> Any:
    """The only merchant's only endpoint."""
    shell("merchants", "add", "one")
    return shell.json("endpoints", "add", "https://example.com/hooks")[0]


def stored(shell: Shell, endpoint_id: str) -> Endpoint:
    with shell.database.read() as tx:
        return endpoints_of(tx, [endpoint_id])[endpoint_id]


def secrets(shell: Shell, endpoint_id: str) -> list[str]:
    return [shell.vault.open(sealed) for sealed in stored(shell, endpoint_id).secrets(NOW)]


def test_every_setting_can_be_given_changed_and_reset(shell: Shell, endpoint: Any) -> None:
    [made] = shell.json("endpoints", "add", "https://example.com/all", *EVERYTHING)
    settings = {
        "description": "Bookkeeping",
        "event_types": ["invoice.*", "order.shipped"],
        "header_names": ["X-Team"],
        "schedule": [5.0, 300.5],
        "timeout_seconds": 20.0,
        "max_in_flight": 8,
        "rate_limit": 2.5,
        "ordering": "customer",
    }
    assert made | settings == made
    secret = made.pop("secret")
    assert shell.json("endpoints", "show", made["id"]) == [{**made, "held": 0}]
    assert secret not in shell("endpoints", "show", made["id"])

    [changed] = shell.json("endpoints", "set", made["id"], "--timeout", "3", "--url", "https://example.com/new")
    assert changed == made | {"timeout_seconds": 3.0, "url": "https://example.com/new"}
    assert shell.json("endpoints", "set", made["id"]) == [changed]
    [once] = shell.json("endpoints", "set", made["id"], "--schedule", "", "--reset", "rate_limit", "--reset", "headers")
    assert (once["schedule"], once["rate_limit"], once["header_names"]) == ([], None, [])
    [default] = shell.json("endpoints", "set", endpoint["id"], *EVERYTHING)
    words = [word for name in ("event_types", "headers", "schedule", "ordering") for word in ("--reset", name)]
    [default] = shell.json("endpoints", "set", endpoint["id"], *words)
    assert (default["event_types"], default["header_names"], default["ordering"]) == (["*"], [], "none")
    assert default["schedule"] is None
    assert default["description"] == "Bookkeeping", "what is not named stays"


def test_headers_can_be_typed_where_no_history_keeps_them(shell: Shell, endpoint: Any) -> None:
    typed = "Authorization: Bearer a:b\n\nX-Team:books\n"
    [changed] = shell.json("endpoints", "set", endpoint["id"], "--header", "-", typed=typed)
    assert changed["header_names"] == ["Authorization", "X-Team"]
    sealed = stored(shell, endpoint["id"]).headers
    assert sealed is not None
    assert json.loads(shell.vault.open(sealed)) == {"Authorization": "Bearer a:b", "X-Team": "books"}
    assert "Bearer" not in shell("endpoints", "show", endpoint["id"])


def test_a_secret_is_rotated_brought_along_or_made_a_key_pair(shell: Shell, endpoint: Any) -> None:
    [rotated] = shell.json("endpoints", "rotate", endpoint["id"])
    assert secrets(shell, endpoint["id"]) == [rotated["secret"], endpoint["secret"]]
    assert rotated["previous_secrets"] == 1
    [fresh] = shell.json("endpoints", "rotate", endpoint["id"], "--overlap-seconds", "0")
    assert secrets(shell, endpoint["id"]) == [fresh["secret"]]
    given = new_secret("v1")
    [brought] = shell.json("endpoints", "rotate", endpoint["id"], "--secret", "-", typed=f"{given}\n")
    assert "secret" not in brought
    assert secrets(shell, endpoint["id"])[0] == given
    [pair] = shell.json("endpoints", "add", "https://example.com", "--signing", "v1a")
    assert "secret" not in pair
    assert [pair["public_key"]] == [public_key(secret) for secret in secrets(shell, pair["id"])]


def test_a_ping_is_sent_to_one_that_is_enabled(shell: Shell, endpoint: Any) -> None:
    [sent] = shell.json("endpoints", "test", endpoint["id"])
    with shell.database.read() as tx:
        message = get_message(tx, sent["message_id"], merchant_id=endpoint["merchant_id"])
        delivery = get_delivery(tx, sent["delivery_id"], merchant_id=endpoint["merchant_id"])
    assert message is not None
    assert delivery is not None
    assert (message["type"], delivery["endpoint_id"], delivery["state"]) == ("ping", endpoint["id"], "due")
    shell("endpoints", "disable", endpoint["id"])
    assert "endpoints enable" in shell.fails("endpoints", "test", endpoint["id"])


def test_an_endpoint_is_switched_with_a_trace(shell: Shell, endpoint: Any) -> None:
    by = f"disabled by cli:{getpass.getuser()}"
    shell("endpoints", "disable", endpoint["id"], "--reason", "moving house")
    [now] = shell.json("endpoints", "list")
    assert (now["state"], now["disabled_reason"]) == ("disabled", f"{by}: moving house")
    shell("endpoints", "disable", endpoint["id"], "--reason", "to be sure")
    assert shell.json("endpoints", "list") == [now], "the first reason stays"
    assert shell("endpoints", "enable", endpoint["id"]) == f"{endpoint['id']} is enabled.\n"
    [now] = shell.json("endpoints", "list")
    assert (now["state"], now["disabled_at"]) == ("enabled", None)


def test_what_was_held_is_sent_when_it_is_asked_for(shell: Shell, endpoint: Any) -> None:
    shell("endpoints", "disable", endpoint["id"])
    message = Message.own(endpoint["merchant_id"], "order.shipped", "publication", "k", b"{}", NOW)
    with shell.database.begin() as tx:
        add_messages(tx, [message], NOW)
        add_deliveries(tx, [NewDelivery(endpoint["merchant_id"], message.id, endpoint["id"], held=True)], NOW)
    assert "held for it: 1." in shell("endpoints", "enable", endpoint["id"])
    said = shell("endpoints", "enable", endpoint["id"], "--replay-held")
    with shell.database.read() as tx:
        [job] = list_replays(tx, merchant_id=endpoint["merchant_id"])
    assert job.id in said
    assert (job.endpoint_id, job.states, job.created_by) == (endpoint["id"], ["held"], f"cli:{getpass.getuser()}")


def test_a_deleted_endpoint_is_gone(shell: Shell, endpoint: Any) -> None:
    shell("endpoints", "delete", endpoint["id"])
    assert shell.json("endpoints", "list") == []
    for command in ("show", "set", "test", "rotate", "disable", "enable", "delete"):
        assert endpoint["id"] in shell.fails("endpoints", command, endpoint["id"])


def test_what_cannot_work_at_an_endpoint_is_one_sentence(shell: Shell, endpoint: Any) -> None:
    for words, said in (
        (("--header", "no colon"), "Name: value"),
        (("--header", "Host: x"), "Host"),
        (("--header", "X-A: 1", "--header", "X-A: 2"), "once"),
        (("--schedule", "soon"), "'soon'"),
        (("--schedule", "0"), "schedule"),
        (("--timeout", "31"), "timeout_seconds"),
        (("--rate", "nan"), "rate_limit"),
        (("--ordering", "invoice"), "customer"),
        (("--event", "invoice.piad"), "invoice.piad"),
    ):
        assert said in shell.fails("endpoints", "set", endpoint["id"], *words)
        assert said in shell.fails("endpoints", "add", "https://example.com", *words)
    assert "BILLHOOK_ALLOW_HTTP" in shell.fails("endpoints", "add", "http://example.com")
    assert "BILLHOOK_ALLOWED_NETWORKS" in shell.fails("endpoints", "set", endpoint["id"], "--url", "https://10.0.0.1")
    assert "whsec_" in shell.fails("endpoints", "add", "https://example.com", "--secret", "hunter2")
    assert "schedule" in shell.fails("endpoints", "set", endpoint["id"], "--reset", "url")
    both = ("--rate", "1", "--reset", "rate_limit")
    assert "rate_limit" in shell.fails("endpoints", "set", endpoint["id"], *both)
    assert "604800" in shell.fails("endpoints", "rotate", endpoint["id"], "--overlap-seconds", "604801")


def test_an_event_is_published_once_a_key(shell: Shell, endpoint: Any) -> None:
    words = ("messages", "publish", "order.shipped", "--data", '{"id": "o_1"}', "--customer", "cus_1")
    [first] = shell.json(*words, "--key", "order 1")
    assert (first["deliveries"], first["replayed"]) == (1, False)
    assert shell.json(*words, "--key", "order 1") == [{**first, "replayed": True}]
    [other] = shell.json("messages", "publish", "order.shipped", "--data", "-", typed='{"id": "o_1"}')
    assert other["id"] != first["id"], "without a key it is new each time"
    with shell.database.read() as tx:
        message = get_message(tx, first["id"], merchant_id=endpoint["merchant_id"])
        assert len(list_deliveries(tx, merchant_id=endpoint["merchant_id"])) == 2
    assert message is not None
    assert json.loads(bytes(message["body"]))["data"] == {"id": "o_1"}
    assert message["customer"] == "cus_1"


def test_what_cannot_be_published_is_one_sentence(shell: Shell, endpoint: Any) -> None:
    shell("messages", "publish", "order.shipped", "--key", "one")
    for words, said in (
        (("invoice.paid",), "billhook's own"),
        (("order",), "order.shipped"),
        (("order.shipped", "--data", "{"), "JSON object"),
        (("order.shipped", "--data", "[]"), "JSON object"),
        (("order.shipped", "--key", ""), "Idempotency-Key"),
        (("order.sent", "--key", "one"), "new key"),
        (("order.shipped", "--merchant", "mrc_x"), "mrc_x"),
    ):
        assert said in shell.fails("messages", "publish", *words)
