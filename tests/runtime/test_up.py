"""`billhook up`, as an operator meets it: a process that is typed at, looked at, broken, stopped and started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from cli.test_pages import SECRET_AS_ARGUMENT

from billhook.runtime.health import is_ready
from billhook.runtime.nursery import process_name
from billhook.runtime.service import service_names
from billhook.runtime.valkey import free_port
from billhook.store.database import Database
from billhook.store.inbox import get_event

HOST = "127.0.0.1"
PATIENCE_SECONDS = 90.0
MOST_MEGABYTES = 325
"""Of all processes at rest together: some 280, and what a new feature may add before somebody has a look."""


def eventually(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


class Terminal:
    """Types `billhook up` in a process group of its own, and reads what it prints."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.ports = {name: free_port() for name in service_names()}
        self._out, self._err = var / "out.txt", var / "err.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def printed(self) -> str:
        return self._out.read_text()

    @property
    def complained(self) -> str:
        return self._err.read_text()

    def type(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
        environment["BILLHOOK_VAR"] = str(self.var)
        environment |= {f"BILLHOOK_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "billhook.cli.main", "up"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def start(self) -> None:
        self.type()
        eventually(lambda: "Post a signed event:" in self.printed or self.ended() is not None, "the start")
        assert self.ended() is None, self.complained

    def ended(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    def ctrl_c(self) -> None:
        """What a terminal does: the signal goes to the whole foreground group."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def child(self, service: str) -> psutil.Process | None:
        for child in self.process.children(recursive=True):
            try:
                if child.name() == process_name(service) or child.cmdline()[-1:] == [service]:
                    return child
            except psutil.Error:  # it ended while we looked
                continue
        return None

    def post(self) -> dict[str, str]:
        """Run the printed lines as they are, and return the answer."""
        if missing := [tool for tool in ("curl", "python3") if shutil.which(tool) is None]:
            assert not os.environ.get("CI"), f"{missing} not found"
            pytest.skip(f"not installed: {', '.join(missing)}")
        lines = self.printed.partition("Post a signed event:")[2]
        ran = subprocess.run(["/bin/sh", "-eu", "-c", lines], capture_output=True, text=True, check=True)
        answer: dict[str, str] = json.loads(ran.stdout)
        return answer

    def state_of(self, event_id: str) -> str | None:
        database = Database(f"sqlite:///{self.var}/billhook.db")
        try:
            with database.read() as tx:
                event = get_event(tx, event_id)
        finally:
            database.close()
        return None if event is None else str(event["state"])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One product for all stories; each leaves it running."""
    terminal = Terminal(tmp_path_factory.mktemp("var"))
    try:
        terminal.start()
        yield terminal
    finally:
        terminal.close()


def test_every_address_it_prints_answers(up: Terminal) -> None:
    assert not SECRET_AS_ARGUMENT.search(up.printed)
    addresses = re.findall(r"http://\S+/(?:docs|metrics)\b", up.printed)
    assert len(addresses) == 2 + len(service_names())
    for address in addresses:
        with urlopen(address) as answer:
            assert answer.status == 200


def test_the_lines_it_prints_post_an_event_that_is_processed(up: Terminal) -> None:
    answer = up.post()
    assert answer["status"] == "accepted"
    eventually(lambda: up.state_of(answer["id"]) == "processed", "processing")


def test_a_service_that_falls_is_started_again(up: Terminal) -> None:
    fallen = up.child("bookkeeper")
    assert fallen is not None
    fallen.kill()
    eventually(lambda: up.child("bookkeeper") not in (None, fallen), "the new start")
    eventually(lambda: is_ready(HOST, up.ports["bookkeeper"]), "readiness")
    line = next(json.loads(line) for line in up.complained.splitlines() if '"service fell"' in line)
    assert (line["service"], line["fallen"], line["exit_code"]) == ("supervisor", "bookkeeper", -signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="services are forks on Linux alone")
def test_services_share_what_they_have_imported_and_nobody_else_may_read_their_files(up: Terminal) -> None:
    family = up.process.children(recursive=True)
    [forks] = [process for process in family if process.name() == "billhook-forks"]
    assert {process.name() for process in forks.children()} == {process_name(name) for name in service_names()}
    taken = sum(memory_of(process.pid) for process in [up.process, *family])
    assert taken < MOST_MEGABYTES
    readable = [path for path in up.var.rglob("*") if path.stat().st_mode & 0o077 and path.parent != up.var]
    assert readable == [], "what is in var is nobody else's"


def memory_of(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1]) / 1024  # type: ignore[index]


def test_a_port_that_is_taken_ends_it_with_the_settings_name(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    with socket.create_server((HOST, terminal.ports["courier"])):
        terminal.type()
        assert terminal.wait() == 1
    assert terminal.complained == (
        f"The courier cannot listen on {HOST}:{terminal.ports['courier']}: another program has that port."
        " Set BILLHOOK_COURIER_PORT to a free one.\n"
    )
    assert terminal.printed == ""
    assert not (tmp_path / "billhook.db").exists(), "nothing was begun, so the first key is still to be shown"


def test_ctrl_c_drains_and_the_next_start_finds_everything(up: Terminal) -> None:
    first = up.printed
    event = up.post()["id"]
    family = up.process.children(recursive=True)
    assert len(family) >= len(service_names()) + 1, "the services and the queue"
    up.ctrl_c()
    assert up.wait() == 0, up.complained
    assert psutil.wait_procs(family, timeout=0)[1] == []
    assert up.complained.count("Traceback") == 0

    up.start()
    again = re.search(r"/v1/sources/(src_\w+)/events", up.printed)
    assert again is not None
    assert again[0] in first
    assert "operator key" not in up.printed
    assert "encryption.key" not in up.printed
    eventually(lambda: up.state_of(event) == "processed", "processing")

    family = up.process.children(recursive=True)
    if forks := [process for process in family if process.name() == "billhook-forks"]:
        forks[0].kill()  # nobody could start services again
        assert up.wait() == 1
        assert "the process that forks services was killed" in up.complained
        assert psutil.wait_procs(family, timeout=PATIENCE_SECONDS)[1] == []
