"""Ctrl-C while `billhook up` starts: a key that is shown once is shown, whenever it came."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from billhook.cli import main, welcome
from billhook.runtime import health
from billhook.runtime.settings import Settings
from billhook.runtime.stop import Stop
from billhook.store import migrate
from billhook.store.database import Database
from billhook.store.merchants import companies

SHOWN_ONCE = "Your operator key for the desk, shown this once:"


@pytest.fixture(autouse=True)
def signals_are_nobodys_afterwards() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background begins without it
    yield
    signal.set_wakeup_fd(-1)
    for number, action in before.items():
        signal.signal(number, action)


def ctrl_c_before(do: Callable[..., Any], *given: Any, **named: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    return do(*given, **named)


def never_ready(settings: Settings, services: list[str], stopping: Stop, *_: object) -> bool:
    assert stopping.wait(30), "Ctrl-C is heard while services start"
    return False


def test_a_start_that_is_interrupted_makes_no_key_or_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The product without its services: it is whole but for them."""
    ledger = f"sqlite:///{tmp_path}/billhook.db"
    for name, value in {"VAR": str(tmp_path), "DATABASE_URL": ledger, "QUEUE_URL": "redis://127.0.0.1:1/0"}.items():
        monkeypatch.setenv(f"BILLHOOK_{name}", value)
    monkeypatch.setattr("billhook.runtime.service.service_names", list)
    monkeypatch.setattr("billhook.runtime.supervisor.can_fork", lambda: False)
    monkeypatch.setattr("billhook.runtime.nursery.can_fork", lambda: False)
    monkeypatch.setattr("billhook.logs.set_up", lambda *_: None)

    def start_with_ctrl_c_before(where: object, name: str) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(where, name, partial(ctrl_c_before, getattr(where, name)))
            try:
                assert main._up() == 0
            except KeyboardInterrupt:  # nobody listens to signals yet
                assert name == "upgrade"
        return capsys.readouterr().out

    def merchants() -> int:
        database = Database(ledger)
        with database.read() as tx:
            found = len(companies(tx, limit=2))
        database.close()
        return found

    assert SHOWN_ONCE not in start_with_ctrl_c_before(migrate, "upgrade")
    with monkeypatch.context() as slow:
        slow.setattr(health, "wait_until_ready", never_ready)
        assert SHOWN_ONCE not in start_with_ctrl_c_before(health, "wait_until_ready")
    assert merchants() == 0, "and none was made"
    assert SHOWN_ONCE in start_with_ctrl_c_before(welcome, "sign_in_link")
    assert merchants() == 1
    assert SHOWN_ONCE not in start_with_ctrl_c_before(welcome, "sign_in_link")
