"""A second process of a service on one machine finds a port by itself, unless somebody said where it has to be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from billhook.errors import SettingsError
from billhook.runtime.ports import listening_port
from billhook.runtime.settings import SETTINGS, Settings, default_port, read_settings
from billhook.runtime.supervisor import Supervisor


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def usually_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SETTINGS["courier_port"], "default", port)
    assert default_port("courier") == port


def test_where_none_is_given_another_is_picked(
    taken: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    usually_at(taken, monkeypatch)
    settings = Settings(host="127.0.0.1", courier_port=taken)
    picked = listening_port(settings, "courier")
    assert picked != taken
    assert vars(caplog.records[-1])["port"] == picked
    Supervisor(read_settings(var=tmp_path), ["courier", "courier"]).check_ports(usual=False)


def test_one_that_is_given_is_kept_to(taken: int, tmp_path: Path) -> None:
    settings = read_settings(var=tmp_path, courier_port=taken)
    with pytest.raises(SettingsError, match=r"another program has that port\. Set BILLHOOK_COURIER_PORT"):
        listening_port(settings, "courier")
    with pytest.raises(SettingsError, match="BILLHOOK_COURIER_PORT"):
        Supervisor(settings, ["courier"]).check_ports(usual=False)


def test_an_address_that_is_none_of_this_machine_is_no_reason_for_another_port(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BILLHOOK_HOST"):
        listening_port(read_settings(var=tmp_path, host="203.0.113.9"), "courier")
