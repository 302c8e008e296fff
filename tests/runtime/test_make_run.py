"""`make run` in a terminal and out of it: who is told to stop stops, and make waits for it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from billhook.runtime.settings import read_settings

ROOT = Path(__file__).parents[2]

PRODUCT = f"""#!{sys.executable}
import os, signal, sys
sys.path[:0] = {[str(ROOT / "libs")]!r}
from billhook.runtime.terminal import own_foreground
with own_foreground():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    print("running", flush=True)
    print("heard", signal.Signals(signal.sigwait([signal.SIGTERM, signal.SIGINT])).name, flush=True)
sys.exit(0)
"""


class Make:
    """`make run` of something small, in a terminal."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "billhook").write_text(PRODUCT)
        (folder / "bin" / "billhook").chmod(0o755)
        self.environment = {**os.environ, "BILLHOOK_VAR": str(folder / "var")}
        self.command = ["make", "--no-print-directory", "-C", str(ROOT), "-o", "setup", f"BIN={folder / 'bin'}", "run"]

    def start(self) -> tuple[int, int]:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvpe("make", self.command, self.environment)
        return pid, terminal


def read_until(terminal: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_in_a_terminal_the_product_hears_it_and_make_waits_for_its_end(tmp_path: Path, how: str) -> None:
    pid, terminal = Make(tmp_path).start()
    try:
        read_until(terminal, b"running")
        if how == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        else:
            os.write(terminal, b"\x03")  # Ctrl-C
        assert f"heard {how}".encode() in read_until(terminal, b"heard SIG" + how[3:].encode())
        _, status = os.waitpid(pid, 0)
        if how == "SIGINT":
            assert os.waitstatus_to_exitcode(status) == 0, "make calls it no error"
    finally:
        os.close(terminal)


def test_this_machine_is_allowed_to_the_product_and_to_the_commands_beside_it(tmp_path: Path) -> None:
    make = Make(tmp_path)
    running = subprocess.Popen(make.command, env=make.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"running\n"
    running.terminate()
    assert b"heard SIGTERM" in running.communicate()[0]
    settings = read_settings(var=tmp_path / "var")
    assert (settings.allow_http, settings.allowed_networks) == (True, "127.0.0.0/8")
    assert (tmp_path / "var" / "settings.env").stat().st_mode & 0o077 == 0
