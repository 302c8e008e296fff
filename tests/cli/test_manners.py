"""What every command has in common: help, JSON, codes, and that it leaves nothing behind where it only looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell
from store.databases import lay_ledger
from typer.main import get_command, get_group
from typer.testing import CliRunner

from billhook.cli import groups
from billhook.cli.commands_page import NAME, commands_page
from billhook.cli.main import EXIT_CODES, app
from billhook.store.mails import NewMail, add_mails, mails
from billhook.store.operators import find_operator, is_good_link
from billhook.store.queues import BELLS
from billhook.store.schema import new_id

ROOT = Path(__file__).parents[2]
RUN = frozenset({("up",), ("run",)})
"""Commands that are processes: what they say is their log."""


def commands() -> dict[tuple[str, ...], Any]:
    return dict(groups.all_commands(get_command(app)))


def test_every_command_answers_programs_too_and_says_what_it_does() -> None:
    for path, command in commands().items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert path in RUN or "--json" in options, " ".join(path)
        assert command.help, " ".join(path)


def test_the_list_says_of_a_group_what_the_group_says_of_itself() -> None:
    root = get_command(app)
    listed = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    for name, part in groups.PARTS.items():
        assert root.commands[name].help.startswith(part.text.rstrip(".")), name
        assert part.text.split(".")[0] in listed.replace("\n", " "), name


def test_the_page_of_commands_is_what_the_code_makes() -> None:
    fresh = (ROOT / "docs" / NAME).read_text() == commands_page(get_group(app), EXIT_CODES)
    assert fresh, f"docs/{NAME} is old: run `make docs`"


HEAVY = (
    *("redis", "dramatiq", "stripe", "typst", "alembic", "fastapi", "lxml", "psycopg", "cryptography", "jinja2"),
    *("prometheus_client", "opentelemetry", "pydantic", "babel", "PIL", "pycurl", "webauthn", "rich"),
    *("sqlalchemy.dialects.postgresql", "billhook.metrics", "billhook.providers", "billhook.store.book"),
    "billhook.actions.ledger",
)
"""What takes long to import, and what a command that looks has no use for."""

LOOKS = {
    **dict.fromkeys(("events list", "dead-letters list", "queues list", "merchants list", "sources list")),
    **dict.fromkeys(("keys list", "endpoints list", "replays list", "dunning cases", "operators list")),
    **dict.fromkeys(("operators log", "reconcile findings", "reconcile report")),
    "invoices list": "billhook.store.book",
}
"""Commands, and what of it they do use."""

LOOK = """
import gc, os, sys
import billhook.cli.output
from billhook.cli.main import main
heavy, *commands = sys.argv[1:]
for words in commands:
    if os.fork() == 0:
        sys.argv = ["billhook", *words.split()]
        try:
            main()
        except SystemExit as end:
            assert not end.code
        assert gc.isenabled()
        assert gc.get_freeze_count() > 10_000, "the end of a process looks through what is not, and that takes long"
        print(words, *[name for name in heavy.split() if name in sys.modules], sep=":", file=sys.stderr)
        os._exit(0)
    os.wait()
"""


def typed(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    command = [sys.executable, "-X", "importtime", "-m", "billhook.cli.main", *words]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def test_a_command_imports_what_it_uses_and_leaves_nothing_behind(tmp_path: Path) -> None:
    version = typed(tmp_path, "--version")
    assert version.stdout.startswith("billhook ")
    assert not [name for name in ("sqlalchemy", "pydantic", "rich") if f" {name}\n" in version.stderr]
    missing = typed(tmp_path, "events", "list")
    assert missing.returncode == 1
    assert "There is no ledger at" in missing.stderr
    assert not {name for name in HEAVY if f" {name}\n" in missing.stderr}
    assert list(tmp_path.iterdir()) == [], "no empty var/ where a command happened to be run"
    assert typed(tmp_path, "events", "lost").returncode == 2


def test_a_command_that_looks_imports_nothing_heavy(tmp_path: Path) -> None:
    """Not a time, which depends on the machine: what it is made of."""
    lay_ledger(tmp_path / "billhook.db")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, " ".join(HEAVY), *LOOKS],
        env={**environment, "BILLHOOK_VAR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    found = dict(line.split(":", 1) if ":" in line else (line, "") for line in looked.stderr.splitlines())
    assert found == {words: used or "" for words, used in LOOKS.items()}


def test_who_has_read_enough_is_no_failure(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "billhook.cli.main", "new-key"]
    said = subprocess.run(command, cwd=tmp_path, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (said.returncode, said.stderr) == (0, "")


def test_a_shell_completes_commands_and_options() -> None:
    def completed(typed: str) -> list[str]:
        asked = {"_BILLHOOK_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        return CliRunner().invoke(app, prog_name="billhook", env=asked).output.split()

    assert completed("billhook ev") == ["events"]
    assert {"list", "replay", "discard"} <= set(completed("billhook dead-letters "))
    assert "--dry-run" in completed("billhook replay --d")


def test_a_misspelt_setting_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLHOOK_KEEP_MESSAGE_DAYS", "3")
    said = shell.fails("events", "list")
    assert "BILLHOOK_KEEP_MESSAGE_DAYS" in said
    assert "BILLHOOK_KEEP_MESSAGES_DAYS" in said


def test_operators_are_let_in_and_out(shell: Shell) -> None:
    [ada] = shell.json("operators", "add", "Ada@example.com", "--role", "operate")
    assert (ada["email"], ada["role"]) == ("ada@example.com", "operate")
    assert "already" in shell.fails("operators", "add", "ada@example.com")
    assert "mail" in shell.fails("operators", "add", "nonsense").lower()
    shell("operators", "set-role", "ada@example.com", "admin")
    assert "gets in no longer" in shell("operators", "disable", "ada@example.com")
    [listed] = shell.json("operators", "list")
    assert (listed["role"], listed["disabled_at"] is None) == ("admin", False)
    [link] = shell.json("operators", "sign-in")
    with shell.database.read() as tx:
        assert is_good_link(tx, link["url"].rpartition("/")[2], ada_now())
        assert find_operator(tx, "ADA@example.com") is not None
        assert tx.execute(mails.select()).first() is None
    actions = [row["action"] for row in shell.json("operators", "log")]
    assert actions == ["operator.sign_in_link", "operator.disable", "operator.set_role", "operator.add"]


def ada_now() -> Any:
    from billhook.runtime.clock import system_clock

    return system_clock()


def test_a_queue_is_paused_and_the_doctor_says_so(shell: Shell) -> None:
    assert "no queue" in shell.fails("queues", "pause", "nothing", "--reason", "x")
    shell("queues", "pause", "mails", "--reason", "the server is down")
    [mail] = [row for row in shell.json("queues", "list") if row["queue"] == "mails"]
    assert (mail["state"], mail["reason"]) == ("paused", "the server is down")
    found = shell.run("doctor", "--json")
    complaints = [json.loads(line) for line in found.stdout.splitlines()]
    assert "mails is paused" in " ".join(one["what"] for one in complaints)
    assert all(one["do"] for one in complaints)
    shell("queues", "resume", "mails")
    assert "is not paused" in shell.fails("queues", "resume", "mails")
    late = NewMail(new_id("mrc"), "a test", "ada@example.com", "Hello", "Hello")
    with shell.database.begin() as tx:
        add_mails(tx, [late], ada_now() - timedelta(seconds=BELLS["mails"].target_seconds + 1))
    assert "Nobody works mails" in shell.run("doctor").stdout, "late is what the alerts call so"
