"""Whatever a command changes is in the audit log, under the name of whoever typed it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell
from desk.world import (
    TERMS,
    Belongings,
    add_letter,
    add_reconciliation,
    add_replay,
    new_env,
    open_case,
    open_finding,
    own_invoice,
    settle,
)
from typer.main import get_command

from billhook.cli import groups
from billhook.cli.main import app
from billhook.runtime.clock import system_clock
from billhook.runtime.env import Env
from billhook.store.operator_actions import list_actions
from billhook.store.vault import new_key
from billhook_testing.fake_stripe import FakeStripe

LOOKS = {
    *(("events", "list"), ("events", "show"), ("events", "conflicts"), ("dead-letters", "list"), ("queues", "list")),
    *(("endpoints", "list"), ("endpoints", "show"), ("replays", "list"), ("replays", "show"), ("replays", "follow")),
    *(("invoices", "list"), ("invoices", "show"), ("invoices", "export"), ("merchants", "list")),
    *(("merchants", "limits"), ("sources", "list"), ("keys", "list"), ("operators", "list"), ("operators", "log")),
    *(("dunning", "policies"), ("dunning", "cases"), ("dunning", "show"), ("dunning", "simulate")),
    *(("reconcile", "follow"), ("reconcile", "report"), ("reconcile", "findings")),
    *(("services",), ("doctor",), ("check",), ("docs",), ("new-key",)),
}
LEAVES_NO_ENTRY = {
    ("messages", "publish"): "what is published is a row of its own, with its key",
    ("migrate",): "it makes the log, and changes nobody's things",
    ("up",): "it runs; what it makes at its first start it notes itself (`cli/welcome.py`)",
    ("run",): "it runs",
}


@pytest.fixture
def env(shell: Shell, tmp_path: Path) -> Iterator[Env]:
    url = shell.database.url.render_as_string(hide_password=False)
    env = new_env(url, tmp_path, system_clock, encryption_keys=shell.keys)
    yield env
    env.close()


def changing(env: Env, ours: Belongings, var: Path) -> dict[tuple[str, ...], list[str]]:
    """Every command that changes something, with words to type behind it, those that take things away last."""
    ids, merchant = ours.ids, ["--merchant", ours.merchant_id]

    def file(name: str, value: Any) -> str:
        (var / name).write_text(json.dumps(value))
        return str(var / name)

    def own(*, finalized: bool) -> str:
        return own_invoice(env, ours.merchant_id, finalized=finalized)

    def letter(name: str) -> str:
        return add_letter(env, ours.merchant_id, ids["source_id"], name)

    def case() -> str:
        now = system_clock()
        times = {"opened_at": now, "grace_until": now + timedelta(days=7), "ends_at": now + timedelta(days=21)}
        return open_case(env, ours, **times)

    endpoint, source, asked = ids["endpoint_id"], ids["source_id"], ids["asked_source_id"]
    reminders = ["--policy", "reminders-only"]
    return {
        ("merchants", "set"): [ours.merchant_id, "--contact-email", "ops@example.com"],
        ("merchants", "seller"): [ours.merchant_id, "--set", file("seller.json", {"name": "Acme"})],
        ("merchants", "invoicing"): [ours.merchant_id, "--set", file("invoicing.json", {})],
        ("keys", "add"): ["shop", *merchant],
        ("keys", "revoke"): [ids["key_id"]],
        ("endpoints", "add"): ["https://example.com/new", *merchant],
        ("endpoints", "set"): [endpoint, "--timeout", "5"],
        ("endpoints", "rotate"): [endpoint],
        ("endpoints", "test"): [endpoint],
        ("endpoints", "disable"): [endpoint, "--reason", "it moves"],
        ("endpoints", "enable"): [endpoint],
        ("dead-letters", "replay"): [letter("evt_8")],
        ("dead-letters", "discard"): [letter("evt_9")],
        ("replay",): [ids["event_id"]],
        ("resend",): [*merchant, "--no-follow"],
        ("replays", "cancel"): [ids["replay_id"]],
        ("reconcile", "run"): [asked, "--no-follow"],
        ("reconcile", "accept"): [open_finding(env, ours)],
        ("reconcile", "repair"): [open_finding(env, ours)],
        ("import",): [asked, "--no-follow"],
        ("dunning", "set"): [*reminders, *merchant],
        ("dunning", "attempt"): [case()],
        ("dunning", "extend"): [case(), "--days", "3"],
        ("dunning", "plan"): [case(), *reminders],
        ("dunning", "stop"): [case(), "--reason", "they called"],
        ("invoices", "draft"): [file("terms.json", TERMS), *merchant],
        ("invoices", "finalize"): [own(finalized=False)],
        ("invoices", "pay"): [own(finalized=True)],
        ("invoices", "void"): [own(finalized=True)],
        ("invoices", "write-off"): [own(finalized=True)],
        ("invoices", "credit"): [own(finalized=True)],
        ("invoices", "send"): [own(finalized=True)],
        ("invoices", "delete"): [own(finalized=False)],
        ("invoices", "count-from"): ["INV-", "1000", *merchant],
        ("queues", "pause"): ["mails", "--reason", "the server is down"],
        ("queues", "resume"): ["mails"],
        ("operators", "add"): ["ada@example.com"],
        ("operators", "set-role"): ["ada@example.com", "admin"],
        ("operators", "sign-in"): [],
        ("operators", "disable"): ["ada@example.com"],
        ("sources", "add"): ["standard", *merchant],
        ("sources", "rotate"): [source],
        ("sources", "end-rotation"): [source],
        ("sources", "set-mode"): [source, "test"],
        ("sources", "disable"): [source],
        ("sources", "enable"): [source],
        ("sources", "set-api-key"): [asked, "--api-key", "rk_test_1"],
        ("secrets", "reseal"): [],
        ("customers", "erase"): ["cus_1", "--yes", *merchant],
        ("endpoints", "delete"): [endpoint],
        ("merchants", "add"): ["Another"],
    }


def test_every_command_that_changes_something_is_noted(shell: Shell, env: Env, tmp_path: Path) -> None:
    ours = settle(env, "Ours")
    add_replay(env, ours)
    with FakeStripe() as fake:
        add_reconciliation(env, ours, fake)
        typed = changing(env, ours, tmp_path)
        known = dict(groups.all_commands(get_command(app)))
        assert known.keys() == {*typed, *LOOKS, *LEAVES_NO_ENTRY}, "a new command: does it change anything?"
        for words, more in typed.items():
            if words == ("secrets", "reseal"):
                shell.use_keys(f"{new_key()},{shell.keys}")
            before = noted(shell)
            shell(*words, *more)
            (entry,) = noted(shell)[len(before) :]
            assert entry["by"].startswith("cli"), words
            assert entry["action"].startswith(words[0].replace("-", "_").removesuffix("s")), words
            if more and words not in ((("operators", "add"), ("operators", "set-role"))):
                assert entry["subject"] != "many", words
    by_action = {entry["action"]: entry for entry in noted(shell)}
    disabled, added = by_action["endpoint.disable"], by_action["endpoint.add"]
    assert (disabled["subject"], disabled["merchant_id"]) == (ours.ids["endpoint_id"], ours.merchant_id)
    assert disabled["detail"]["reason"] == "it moves"
    assert added["subject"].startswith("ep_")
    assert added["subject"] != ours.ids["endpoint_id"]
    assert added["merchant_id"] == ours.merchant_id


def test_what_only_looks_or_fails_leaves_no_entry(shell: Shell, env: Env) -> None:
    ours = settle(env, "Ours")
    shell("replay", ours.ids["event_id"], "--dry-run")
    shell("merchants", "seller", ours.merchant_id)
    shell("endpoints", "list")
    shell.fails("keys", "revoke", f"key_{'0' * 32}")
    assert noted(shell) == []


def noted(shell: Shell) -> list[Any]:
    """The audit log, the oldest first."""
    with shell.database.read() as tx:
        return list_actions(tx, limit=1000)[::-1]
