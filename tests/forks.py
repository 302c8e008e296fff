"""Processes of the product that are forks of one which has imported it: to whoever kills them the same as those that an
interpreter was started for, at a tenth of the price. `make run` does likewise.

    process = start("billhook.runtime.process", "dunner", environment={"BILLHOOK_VAR": …})
    process.kill()
    process.wait()

    ran = run("billhook.cli.main", "migrate", environment={…})
    ran.returncode, ran.stdout, ran.stderr

The first call starts the one process, which ends with the tests; its forks end with it. It starts no thread and opens
nothing, so that a fork of it is sound: a minder, which forks once more and says how that ended.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
_LARGEST = 128 * 1024
_SET_PDEATHSIG = 1


class Fork:
    """A process, as its starter sees it: what is used here of `subprocess.Popen`."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.pid = int(line.recv(_LARGEST))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended; None while it lives."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            # Without a word the minder was killed, and it with that.
            self.returncode = int(self._line.recv(_LARGEST) or -signal.SIGKILL)
            self._line.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """How it ended. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None and not select.select([self._line], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its minder is just saying so
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    module: str,
    *words: str,
    environment: Mapping[str, str],
    output: IO[Any] | None = None,
    errors: IO[Any] | None = None,
) -> Fork:
    """`python -m module words…` in an environment of its own besides ours, without our own settings. What it says goes
    where ours does, unless files are given."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    order = json.dumps([module, words, {**given, **environment}]).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        files = [(output or sys.__stdout__).fileno(), (errors or output or sys.__stderr__).fileno()]  # type: ignore[union-attr]
        socket.send_fds(_keeper(), [order], [theirs.fileno(), *files])
    return Fork(ours)


def run(
    module: str, *words: str, environment: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """What it said, and how it ended."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(module, *words, environment=environment, output=output, errors=errors)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess([module, *words], code, output.read(), errors.read())


@functools.cache
def _keeper() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _import_the_product() -> None:
    from billhook import cli
    from billhook.runtime.host import server_modules
    from billhook.runtime.service import service_names

    for part in pkgutil.iter_modules(cli.__path__):
        import_module(f"billhook.cli.{part.name}")
    for name in service_names():
        for module in ("service", "api", "openapi"):
            if find_spec(f"services.{name}.{module}"):
                import_module(f"services.{name}.{module}")
    server_modules()


def _keep(control: socket.socket) -> Callable[[], object] | None:
    """Fork what is ordered, until there is nobody to order. In the fork: what it is to do."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, files, _, _ = socket.recv_fds(control, _LARGEST, 3)
        if not order:
            return None
        if os.fork() == 0:
            control.close()
            return _mind(files, *json.loads(order))
        for file in files:
            os.close(file)


def _mind(files: list[int], module: str, words: list[str], environment: dict[str, str]) -> Callable[[], object]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_with_parent()
    pid = os.fork()
    if pid == 0:
        return _become(files, module, words, environment)
    line, *_ = files
    for file in (0, 1, 2, *files[1:]):
        os.close(file)
    os.write(line, str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(line, str(code).encode())
    os._exit(0)


def _become(files: list[int], module: str, words: list[str], environment: dict[str, str]) -> Callable[[], object]:
    _end_with_parent()
    for file, place in zip(files[1:], (1, 2), strict=True):
        os.dup2(file, place)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = words
    sys.modules.pop(module, None)
    return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    _import_the_product()
    gc.collect()
    gc.freeze()  # or the first collection of each fork would write to every page
    with socket.socket(fileno=int(sys.argv[1])) as line:
        become = _keep(line)
    if become is not None:
        become()
