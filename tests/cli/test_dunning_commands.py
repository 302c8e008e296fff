"""`billhook dunning …`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from store.databases import NOW, lay_ledger
from store.dunning import new_case
from typer.testing import CliRunner

from billhook.cli.main import app
from billhook.rules.book.change import Change
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import book_id
from billhook.rules.dunning_policy import PRESETS
from billhook.store import book
from billhook.store.database import Database
from billhook.store.dunning_cases import add_case, get_case, steps_of
from billhook.store.dunning_policies import set_policy
from billhook.store.merchants import create_merchant
from billhook.store.messages import Message, add_messages
from billhook.store.vault import new_key


class Shell:
    def __init__(self, var: Path) -> None:
        self.var = var
        lay_ledger(var / "billhook.db")
        self.database = Database(f"sqlite:///{var}/billhook.db")
        self.env = {"BILLHOOK_VAR": str(var), "BILLHOOK_ENCRYPTION_KEYS": new_key(), "BILLHOOK_DATABASE_URL": ""}
        with self.database.begin() as tx:
            self.merchant = create_merchant(tx, "one", NOW).id

    def __call__(self, *words: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, ["dunning", *words], env=self.env)
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    def case(self) -> str:
        with self.database.begin() as tx:
            version = set_policy(tx, self.merchant, "merchant", "", PRESETS["polar"], NOW, by="ada")
            case = new_case(self.merchant, policy_id=version.id)
            add_case(tx, case, NOW)
        return case.id


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.database.close()


def test_a_policy_is_played_through_before_it_is_turned_on(shell: Shell) -> None:
    words = ("simulate", "--policy", "polar", "--declines", "insufficient_funds,paid", "--start", "2026-03-28")
    told = shell(*words, "--zone", "Europe/Berlin")
    assert "attempt 1: insufficient_funds" in told
    assert "recovered by attempt 2" in told
    assert "o.x....+" in told
    last = json.loads(shell(*words, "--json").splitlines()[-1])
    assert last["stage"] == "recovered"


def test_past_failures_are_played_through(shell: Shell) -> None:
    invoice = Invoice(
        external_id="in_1", status="open", currency="eur", subtotal=1, total=1, amount_due=1, amount_paid=0,
        amount_remaining=1,
    )  # fmt: skip
    invoice_id = book_id("src_1", "", invoice)
    failed = Message.own(shell.merchant, "invoice.payment_failed", "invoice", invoice_id, b"", NOW)
    with shell.database.begin() as tx:
        book.apply(tx, [book.Entry(shell.merchant, "src_1", "", Change(invoice, NOW))], NOW)
        add_messages(tx, [failed], NOW)
    assert "1 failures, 4 attempts." in shell("simulate", "--policy", "polar", "--replay")


def test_what_cannot_be_a_policy_is_said_in_a_sentence(shell: Shell) -> None:
    file = shell.var / "policy.json"
    for text, complaint in (
        ('{"attempts": [3, 2]}', "go up"),
        ('{"attempts": "x"}', "array"),
        ("{", "not JSON"),
        ('{"zone": "Mars/Olympus"}', "IANA"),
    ):
        file.write_text(text)
        assert complaint in shell("simulate", "--policy", str(file), fails=True)
    assert "no preset" in shell("simulate", "--policy", "stripes", fails=True)
    assert "no time zone" in shell("simulate", "--policy", "polar", "--zone", "Mars", fails=True)


def test_a_policy_that_charges_needs_somewhere_to_charge(shell: Shell) -> None:
    assert "Stripe API key" in shell("set", "--policy", "polar", fails=True)
    assert "counts from now on" in shell("set", "--policy", "reminders-only")
    assert "reminders-only" in shell("policies")


def test_a_case_is_shown_and_what_people_do_with_it_is_kept(shell: Shell) -> None:
    case_id = shell.case()
    assert case_id in shell("cases")
    assert "Still to come" in shell("show", case_id)
    shell("extend", case_id, "--days", "3")
    shell("attempt", case_id)
    assert "under way" in shell("attempt", case_id, fails=True)
    shell("stop", case_id, "--reason", "they called")
    with shell.database.read() as tx:
        steps = [(row["cause"], row["by"][:4] if row["by"] else None) for row in steps_of(tx, case_id)]
        case = get_case(tx, case_id)
    assert steps == [("grace_extended", "cli:"), ("attempt_operator", "cli:"), ("stopped", "cli:")]
    assert case is not None
    assert (case.stage, case.owing) == ("canceled", False)
    assert "closed" in shell("extend", case_id, "--days", "3", fails=True)
    assert "There is no case" in shell("show", "case_0", fails=True)
