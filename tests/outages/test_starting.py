"""What cannot work is said in a sentence at the start, before anything is made."""

from __future__ import annotations

import stat
import time
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from store.databases import lay_ledger

from billhook.cli.checks import check_everything
from billhook.runtime.clock import system_clock
from billhook.runtime.env import Env
from billhook.runtime.host import _look_at_database
from billhook.runtime.settings import Settings
from billhook.runtime.valkey import free_port
from billhook.runtime.vitals import exporting_vitals
from billhook.store import fitness
from billhook.store.database import Database
from billhook_testing.servers import PostgresServer
from tests import forks


def ran(*command: str, **settings: object) -> tuple[int, str]:
    """How it ended, and what it said on standard error."""
    done = forks.run(*command, environment={f"BILLHOOK_{name.upper()}": str(value) for name, value in settings.items()})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


@pytest.fixture
def var(tmp_path: Path) -> Path:
    """With a migrated ledger."""
    lay_ledger(tmp_path / "billhook.db")
    env = Env(Settings(var=tmp_path))
    env.make_encryption_key()
    env.close()
    return tmp_path


def at_schema(var: Path, revision: str) -> None:
    database = Database(f"sqlite:///{var / 'billhook.db'}")
    with database.begin() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    database.close()


@pytest.mark.parametrize("service", ["relay", "ingress"])
def test_code_that_is_older_than_its_schema_says_so_and_does_not_advise_to_migrate(var: Path, service: str) -> None:
    at_schema(var, "9999")
    settings = {"var": var, f"{service}_port": free_port(), "queue_url": "redis://127.0.0.1:1/0"}
    code, said = ran("billhook.runtime.process", service, **settings)
    assert (code, said) == (
        1,
        "The database is at schema 9999, which this billhook does not know: it was made by a newer one. Start that"
        " version, or use another database.",
    )
    code, said = ran("billhook.cli.main", "merchants", "list", var=var)
    assert code == 1
    assert "migrate" not in said


def test_code_that_is_newer_than_its_schema_says_what_to_do(var: Path) -> None:
    at_schema(var, "0001")
    settings = {"var": var, "relay_port": free_port(), "queue_url": "redis://127.0.0.1:1/0"}
    code, said = ran("billhook.runtime.process", "relay", **settings)
    assert (code, said.startswith("The database is at schema 0001")) == (1, True)
    assert said.endswith("run `billhook migrate`.")


def test_a_database_that_is_away_is_one_sentence_to_whoever_migrates(tmp_path: Path) -> None:
    var = tmp_path / "var"
    url = f"postgresql+psycopg://billhook:secret@127.0.0.1:{free_port()}/billhook"
    for command in ("migrate", "up"):
        code, said = ran("billhook.cli.main", command, var=var, database_url=url)
        assert (code, len(said.splitlines())) == (1, 1)
        assert "cannot be worked with now, and was not changed: connection" in said
        assert "secret" not in said
    assert not (var / "encryption.key").exists()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    name = f"ascii_{free_port()}"
    with psycopg.connect(postgres.url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0".encode())
    url = postgres.url.rpartition("/")[0] + f"/{name}"
    code, said = ran("billhook.cli.main", "migrate", var=tmp_path, database_url=url)
    assert code == 1
    assert f"{name} is encoded in SQL_ASCII" in said


def test_a_directory_that_cannot_be_worked_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    code, said = ran("billhook.cli.main", "migrate", var=tmp_path / "var")
    assert (code, said) == (1, f"BILLHOOK_VAR cannot be worked in: {tmp_path / 'var'}: File exists.")


@pytest.mark.parametrize(
    "settings", [{"mail_url": "smpt://host"}, {"log_level": "loud"}, {"operator_key": "short"}], ids=str
)
def test_nothing_is_made_where_a_setting_cannot_work(tmp_path: Path, settings: dict[str, str]) -> None:
    code, said = ran("billhook.cli.main", "up", var=tmp_path / "var", **settings)
    assert code == 1
    assert next(iter(settings)).partition("_")[0] in said.lower()
    assert not (tmp_path / "var" / "encryption.key").exists()
    assert not (tmp_path / "var" / "billhook.db").exists()


def test_what_stands_in_var_is_nobody_elses(tmp_path: Path) -> None:
    var = tmp_path / "var"
    var.mkdir(mode=0o755)
    assert ran("billhook.cli.main", "migrate", var=var)[0] == 0
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in var.iterdir()} == {0o600}


def test_clocks_that_differ_are_told_by_how_much(
    postgres: PostgresServer, postgres_template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, by `check`, and as a metric."""
    url = postgres.create_database(postgres_template)
    database = Database(url)
    assert abs(fitness.clock_skew(database, system_clock)) < 0.5
    late = fitness.clock_skew(database, lambda: system_clock() - timedelta(hours=1))
    assert 3590 < late < 3610
    assert "3600.0 seconds ahead of" in fitness.skew_said(3600.0)
    assert "1.5 seconds behind" in fitness.skew_said(-1.5)
    database.close()

    settings = Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0")
    env = Env(settings, clock=lambda: system_clock() - timedelta(hours=1))
    _look_at_database(env)
    [record] = [record for record in caplog.records if record.message == "the clocks differ"]
    assert "seconds ahead of this machine's" in vars(record)["reason"]
    [clock] = [result for result in check_everything(env) if result.what == "clock"]
    assert (clock.ok, clock.detail.endswith("Set both by NTP.")) == (False, True)
    with exporting_vitals(env, "relay"):
        deadline = time.monotonic() + 30
        while not (skew := env.metrics.registry.get_sample_value("billhook_database_clock_skew_seconds")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert 3590 < skew < 3610
    env.close()
