"""Adding a folder adds a service: it is found, it has a port, and a folder that is none is told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

import services
from billhook.errors import SettingsError
from billhook.runtime.service import find_service, service_names
from billhook.runtime.settings import PORTS_BY_NAME, default_port, read_settings
from billhook.runtime.supervisor import Supervisor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that services are looked for in too."""
    monkeypatch.setattr(services, "__path__", [*services.__path__, str(tmp_path)])
    return tmp_path


def add(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "service.py").write_text(text)


def test_a_folder_is_a_service(folder: Path) -> None:
    text = "from billhook.runtime.service import Service\nSERVICE = Service('waver', 'Waves.', start=print)\n"
    add(folder, "waver", text)
    assert "waver" in service_names()
    assert find_service("waver").summary == "Waves."


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "its service.py has no SERVICE"),
        ("SERVICE = 1", "its service.py has no SERVICE"),
        ("SERVICE = Service('waver', '', start=print)", "is called 'waver'"),
        ("SERVICE = Service('{name}', '')", "either an `app` or a `start`"),
        ("SERVICE = Service('{name}', '', app=print, start=print)", "either an `app` or a `start`"),
    ],
)
def test_a_folder_that_is_no_service_is_named(folder: Path, text: str, said: str) -> None:
    name = f"odd{abs(hash(text))}"
    add(folder, name, "from billhook.runtime.service import Service\n" + text.format(name=name))
    with pytest.raises(SettingsError, match=f"services/{name} is no service: .*{said}.*docs/add-a-consumer.md"):
        find_service(name)


@pytest.mark.parametrize("name, said", [("waver", "it has no service.py"), ("wa-ver", "no name in Python")])
def test_a_folder_without_a_service_is_named_before_anything_starts(folder: Path, name: str, said: str) -> None:
    (folder / name).mkdir()
    (folder / name / "notes.txt").write_text("to do")
    with pytest.raises(SettingsError, match=f"services/{name} is no service: .*{said}"):
        service_names()


def test_what_is_left_of_a_service_that_was_removed_is_none(folder: Path) -> None:
    before = service_names()
    (folder / "waver" / "__pycache__").mkdir(parents=True)
    (folder / ".cache").mkdir()
    assert service_names() == before


def test_a_service_has_a_port_by_its_name_or_by_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_port("ingress") == 8600
    assert default_port("waver") in PORTS_BY_NAME
    monkeypatch.delenv("BILLHOOK_WAVER_PORT", raising=False)
    assert read_settings().port_of("waver") == default_port("waver")
    monkeypatch.setenv("BILLHOOK_WAVER_PORT", "9000")
    assert read_settings().port_of("waver") == 9000
    assert read_settings().shown()["waver_port"] == "9000"
    assert read_settings(waver_port=9001).port_of("waver") == 9001


@pytest.mark.parametrize("port", ["none", "65536"])
def test_a_port_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("BILLHOOK_WAVER_PORT", port)
    with pytest.raises(SettingsError, match="BILLHOOK_WAVER_PORT"):
        read_settings()


def test_two_services_at_one_port_are_told_which_setting_helps(tmp_path: Path) -> None:
    settings = read_settings(var=tmp_path, courier_port=0, waver_port=8650, hopper_port=8650)
    with pytest.raises(SettingsError) as refused:
        Supervisor(settings, ["courier", "hopper", "waver"]).check_ports(usual=True)
    assert str(refused.value) == (
        "The hopper and the waver would both listen on port 8650. Set BILLHOOK_WAVER_PORT to a free one."
    )
