"""Settings that cannot work are named, secrets are never shown, and `billhook check` ends with a code that tells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from store.databases import lay_ledger

from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.errors import SettingsError
from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from tests import forks

PASSWORD = "open-sesame-and-be-quick"


@pytest.mark.parametrize(
    "name, value",
    [
        ("ingress_port", "eighty"),
        ("relay_port", "65536"),
        ("desk_port", "-1"),
        ("desk_port", "8600.0"),
        ("waver_port", "x"),
        ("drain_seconds", "0"),
        ("drain_seconds", "nan"),
        ("message_limit_kib", "1025"),
        ("allow_http", "perhaps"),
        ("pdf_engine", "latex"),
        ("database_url", "mysql://host/books"),
        ("database_url", "oracle://host/books"),
        ("database_url", "books.db"),
        ("database_url", "postgresql://host:port/books"),
        ("queue_url", "redis://host:port/0"),
        ("queue_url", "host:6379"),
        ("log_level", "loud"),
        ("operator_key", "sesame"),
        ("ingress_url", "hooks.acme.test"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", "*"),
        ("allowed_networks", "10.0.0.0/8; 192.168.0.0/16"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"BILLHOOK_{name.upper()}"):
        read_settings(**{name: value})


def test_an_option_that_the_queue_does_not_take_is_said_without_the_password(tmp_path: Path) -> None:
    url = f"redis://:{PASSWORD}@host:6379/0?health_check_interval=often"
    with pytest.raises(SettingsError, match="BILLHOOK_QUEUE_URL") as refused:
        _ = Env(read_settings(var=tmp_path, queue_url=url)).broker
    assert PASSWORD not in str(refused.value)


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEEP_ATTEMPTS_DAYS", "CA_FILE", "INGRESS_PORT", "WAVER_PORT"):
        monkeypatch.setenv(f"BILLHOOK_{name}", "")
    settings = read_settings()
    assert (settings.keep_attempts_days, settings.ca_file, settings.ingress_port) == (30, None, 8600)


def test_what_stands_under_var_counts_after_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.env").write_text("BILLHOOK_ALLOW_HTTP=true\nBILLHOOK_LOG_LEVEL=error\n")
    monkeypatch.setenv("BILLHOOK_LOG_LEVEL", "info")
    settings = read_settings(var=tmp_path)
    assert (settings.allow_http, settings.log_level) == (True, "info")
    monkeypatch.setenv("BILLHOOK_VAR", str(tmp_path))
    assert read_settings().allow_http is True
    assert read_settings(var=tmp_path / "other").allow_http is False


def test_a_line_under_var_is_read_as_a_shell_would_read_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text(
        "\ufeff# ours\n\nexport BILLHOOK_HOST='::1'  # everywhere\nBILLHOOK_MAIL_FROM = \"a#b $HOME\"\n"
        "BILLHOOK_OPERATOR_KEY=sesame#and=open,sesame\nBILLHOOK_DESK_PORT=\nBILLHOOK_WAVER_PORT=8 # free\n"
    )
    settings = read_settings(var=tmp_path)
    assert (settings.host, settings.mail_from) == ("::1", "a#b $HOME")
    assert settings.operator_key.get_secret_value() == "sesame#and=open,sesame"
    assert (settings.desk_port, settings.port_of("waver"), settings.port_is_given("waver")) == (8601, 8, True)
    for wrong, words in {
        "BILLHOOK_HOSTS=x": "Did you mean BILLHOOK_HOST",
        "BILLHOOK_HOST": "line 1",
        "BILLHOOK_X_PORT=y": "BILLHOOK_X_PORT must be",
    }.items():
        file.write_text(wrong)
        with pytest.raises(SettingsError, match=words):
            read_settings(var=tmp_path)
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(var=tmp_path)


@pytest.mark.parametrize(
    "settings, address",
    [
        ({}, "http://127.0.0.1:8600"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8600"),
        ({"host": "::1", "ingress_port": 80}, "http://[::1]:80"),
        ({"host": "0.0.0.0", "ingress_url": "https://hooks.acme.test/in/"}, "https://hooks.acme.test/in"),
    ],
)
def test_a_source_has_an_address_that_a_sender_can_use(settings: dict[str, object], address: str) -> None:
    assert read_settings(**settings).source_address("src_1") == f"{address}/v1/sources/src_1/events"


def test_all_of_them_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(ingress_port="x", desk_port="y")
    assert "BILLHOOK_INGRESS_PORT" in str(refused.value)
    assert "BILLHOOK_DESK_PORT" in str(refused.value)


def test_a_url_that_cannot_be_read_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(database_url=f"postgresql://billhook:{PASSWORD}@host:port/books")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("database_url", f"postgresql+psycopg://billhook:{PASSWORD}@host/books"),
        ("database_url", f"postgresql+psycopg://host/books?user=billhook&password={PASSWORD}"),
        ("queue_url", f"redis://:{PASSWORD}@host:6379/0"),
        ("queue_url", f"redis://host:6379/0?password={PASSWORD}"),
        ("encryption_keys", PASSWORD),
        ("operator_key", PASSWORD),
    ],
)
def test_no_secret_is_shown(name: str, value: str) -> None:
    settings = read_settings(**{name: value})
    assert PASSWORD not in str(settings.shown())
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in repr(vars(settings)["encryption_keys"])


def _check(var: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return forks.run("billhook.cli.main", "check", environment={"BILLHOOK_VAR": str(var), **settings})


def test_check_is_content_with_what_answers(tmp_path: Path) -> None:
    lay_ledger(tmp_path / "billhook.db")
    env = Env(read_settings(var=tmp_path))
    env.make_encryption_key()
    env.close()
    checked = _check(tmp_path)
    complaints = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    if find_wkhtmltopdf() is None:
        assert (checked.returncode, [line.split()[1] for line in complaints]) == (1, ["pdf"])
    else:
        assert (checked.returncode, complaints) == (0, [])


def test_check_fails_over_what_does_not_answer(tmp_path: Path) -> None:
    checked = _check(tmp_path, BILLHOOK_QUEUE_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0", BILLHOOK_OPERATOR_KEY=PASSWORD)
    assert checked.returncode == 1
    failed = {line.split()[1] for line in checked.stdout.splitlines() if line.startswith("FAIL")}
    assert {"schema", "queue", "secrets"} <= failed
    assert "billhook migrate" in checked.stdout
    assert PASSWORD not in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_check_names_a_setting_that_cannot_work(tmp_path: Path) -> None:
    checked = _check(tmp_path, BILLHOOK_COURIER_PORT="none")
    assert checked.returncode == 1
    assert "BILLHOOK_COURIER_PORT" in checked.stderr
    assert "Traceback" not in checked.stderr
