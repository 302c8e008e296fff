"""A shell that types commands against a ledger of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store.databases import lay_ledger
from typer.testing import CliRunner, Result

from billhook.cli.main import app
from billhook.store.database import Database
from billhook.store.vault import Vault, new_key


class Shell:
    """Types commands, and looks into the ledger behind them."""

    def __init__(self, var: Path) -> None:
        self.database = Database(f"sqlite:///{var}/billhook.db")
        self._env = {"BILLHOOK_VAR": str(var), "BILLHOOK_DATABASE_URL": ""}
        self.use_keys(new_key())

    def use_keys(self, keys: str) -> None:
        """The encryption keys, with commas, the current one first."""
        self.keys = self._env["BILLHOOK_ENCRYPTION_KEYS"] = keys
        self.vault = Vault(keys.split(","))

    def run(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, list(words), env=self._env, input=typed)

    def __call__(self, *words: str, typed: str = "") -> str:
        result = self.run(*words, typed=typed)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    def json(self, *words: str, typed: str = "") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--json", typed=typed).splitlines()]

    def fails(self, *words: str, code: int = 1) -> str:
        result = self.run(*words)
        assert result.exit_code == code, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.stdout == ""
        if code == 1:
            assert result.stderr.startswith("billhook: ")
            assert result.stderr.count("\n") == 1
        return result.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    lay_ledger(tmp_path / "billhook.db")
    yield shell
    shell.database.close()
