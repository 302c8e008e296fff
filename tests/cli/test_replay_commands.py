"""`billhook resend` and `billhook replays …`, as they are typed."""

from __future__ import annotations

import getpass
import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from store.databases import lay_ledger
from store.history import delivery, endpoint_of
from typer.testing import CliRunner, Result

from billhook.cli.main import app
from billhook.metrics import Metrics
from billhook.queue.steps import Steps
from billhook.runtime.clock import system_clock
from billhook.store.database import Database
from billhook.store.endpoints import set_disabled
from billhook.store.merchants import create_merchant
from billhook.store.replays import get_replay, replays
from billhook.store.vault import new_key
from billhook.store.work import give_up
from services.relay.replaying import Replaying

HOUR = timedelta(hours=1)


class Silence:
    def ring_all(self, rings: object) -> None:
        pass


class Shell:
    """Types commands in a ledger with one merchant, who has one endpoint with a dead delivery an hour ago."""

    def __init__(self, var: Path) -> None:
        lay_ledger(var / "billhook.db")
        self.database = Database(f"sqlite:///{var}/billhook.db")
        self.env = {"BILLHOOK_VAR": str(var), "BILLHOOK_ENCRYPTION_KEYS": new_key(), "BILLHOOK_DATABASE_URL": ""}
        now = system_clock()
        with self.database.begin() as tx:
            self.merchant = create_merchant(tx, "one", now).id
            endpoint = endpoint_of(tx, self.merchant, now)
            delivery(tx, endpoint, now - HOUR)
        self.endpoint = endpoint.id
        self.steps = Steps(Replaying(self.database, system_clock), self.database, Silence(), Metrics(), system_clock)

    def run(self, *words: str, **env: str) -> Result:
        typed = words if words[0] == "resend" else ("replays", *words)
        return CliRunner().invoke(app, list(typed), env={**self.env, **env})

    def __call__(self, *words: str, **env: str) -> str:
        result = self.run(*words, **env)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    def json(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--json").splitlines()]

    def fails(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("billhook: ")
        assert result.stderr.count("\n") == 1
        return result.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.database.close()


@pytest.fixture
def relay(shell: Shell) -> Iterator[None]:
    """Walks the jobs meanwhile."""
    stopping = threading.Event()

    def walk() -> None:
        while not stopping.wait(0.01):
            shell.steps.run(None)

    thread = threading.Thread(target=walk)
    thread.start()
    yield
    stopping.set()
    thread.join()


def test_a_job_is_started_listed_shown_and_canceled(shell: Shell) -> None:
    assert shell("list") == "No jobs yet. Begin one: `billhook resend`, or `billhook replay`.\n"
    started = shell("resend", "--endpoint", shell.endpoint, "--event", "invoice.*", "--state", "dead", "--since", "24h")
    [job] = shell.json("list")
    assert job["id"] in started
    assert (job["kind"], job["state"], job["states"], job["event_types"]) == (
        *("replay", "running"),
        *(["dead"], ["invoice.*"]),
    )
    assert (job["merchant_id"], job["endpoint_id"]) == (shell.merchant, shell.endpoint)
    assert job["created_by"] == f"cli:{getpass.getuser()}"
    with shell.database.read() as tx:
        stored = get_replay(tx, job["id"])
    assert stored is not None
    assert stored.until - stored.since == 24 * HOUR
    assert job["id"] in shell("list")
    assert shell.json("show", job["id"]) == [job]
    assert "running" in shell("show", job["id"])
    assert "0 had been put back" in shell("cancel", job["id"])
    assert "canceled" in shell.fails("cancel", job["id"])


def test_times_are_days_moments_or_how_long_ago(shell: Shell) -> None:
    for typed, kept in (
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T09:30", "2026-11-01T09:30:00Z"),
        ("2026-11-01T09:30:00+01:00", "2026-11-01T08:30:00Z"),
    ):
        [job] = shell.json("resend", "--since", "2020-01-01", "--until", typed)
        assert job["until"] == kept
    [job] = shell.json("resend", "--since", "2w", "--until", "1d")
    with shell.database.read() as tx:
        stored = get_replay(tx, job["id"])
    assert stored is not None
    assert stored.until - stored.since == timedelta(days=13)
    for nonsense in ("yesterday", "24", "99999h", "2026-13-01", ""):
        assert repr(nonsense) in shell.fails("resend", "--since", nonsense)


def test_what_cannot_work_is_one_sentence(shell: Shell) -> None:
    assert "ep_x" in shell.fails("resend", "--endpoint", "ep_x")
    assert "needs an endpoint" in shell.fails("resend", "--backfill")
    assert "'due'" in shell.fails("resend", "--state", "due")
    assert "invoice.piad" in shell.fails("resend", "--event", "invoice.piad")
    assert "earlier" in shell.fails("resend", "--since", "1h", "--until", "2h")
    for command in ("show", "follow", "cancel"):
        assert "'rpl_x'" in shell.fails(command, "rpl_x")
    with shell.database.begin() as tx:
        other = create_merchant(tx, "two", system_clock()).id
    assert "--merchant" in shell.fails("resend")
    assert shell.endpoint in shell.fails("resend", "--endpoint", shell.endpoint, "--merchant", other)
    assert shell.json("resend", "--merchant", other)[0]["merchant_id"] == other
    assert shell.json("resend", "--endpoint", shell.endpoint)[0]["merchant_id"] == shell.merchant
    with shell.database.begin() as tx:
        set_disabled(tx, shell.endpoint, system_clock(), "gone")
    assert "enable it first" in shell.fails("resend", "--endpoint", shell.endpoint)


@pytest.mark.usefixtures("relay")
def test_a_job_is_followed_to_its_end_in_lines(shell: Shell) -> None:
    said = shell("resend", "--since", "24h", "--until", "1m", "--follow").splitlines()
    assert re.fullmatch(r"rpl_\w+ is done: 1 put back\.", said[-1])
    assert all(re.match(r" *\d+%  ", line) for line in said[1:-1])


@pytest.mark.usefixtures("relay")
def test_in_a_terminal_there_is_a_bar(shell: Shell) -> None:
    [job] = shell.json("resend", "--backfill", "--endpoint", shell.endpoint, "--until", "1m")
    said = shell("follow", job["id"], FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[" in said
    assert said.endswith(f"{job['id']} is done: 0 put back.\n")


def test_a_job_that_failed_says_why_and_what_to_do(shell: Shell) -> None:
    [job] = shell.json("resend")
    with shell.database.begin() as tx:
        give_up(tx, replays, [(job["id"], "gave up: the disk is full\nSELECT 1")], system_clock())
    said = shell.fails("follow", job["id"])
    assert "the disk is full" in said
    assert "dead-letters" in said
