"""Where the services of one machine come from: a process that has imported what they need, and forks.

Eight interpreters that import the same thing hold it eight times; forks share it for as long as they do not write to
it. The nursery does nothing else. A fork would share a thread's lock that nobody gives back, a connection that two then
write to, a generator of random numbers that gives both the same ids: so it has no thread, opens nothing, makes no id,
and is itself forked before its supervisor does any of that.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NoReturn

from billhook.errors import BillhookError
from billhook.runtime.host import server_modules
from billhook.runtime.process import serve
from billhook.runtime.service import find_service

LATER: Final = ("api", "openapi")
"""Modules of a service that it imports once it has begun (`billhook.runtime.later`): forks share them too."""

_LARGEST: Final = 64 * 1024
_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_ARENA_MAX: Final = -8


def can_fork() -> bool:
    """Whether a fork of this process would be sound. Elsewhere than on Linux, libraries of the system start threads
    that nobody can count."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


def process_name(service: str) -> str:
    """By what `ps` and `top` call it, which keep 15 characters."""
    return f"bh-{service}"[:15]


def apart(do: Callable[[], None]) -> bool:
    """Do it in a fork, whose memory goes with it: what a supervisor needs once, at its start, it would hold for good.
    Whether it succeeded; if not, it has said why."""
    if not can_fork():
        do()
        return True
    pid = os.fork()
    if pid == 0:
        _never_return(lambda: _done(do))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _done(do: Callable[[], None]) -> int:
    try:
        do()
    except BillhookError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


class Nursling:
    """A service's process, as its supervisor sees it."""

    def __init__(self, pid: int, nursery: Nursery) -> None:
        self.pid = pid
        self.code: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """How it ended; None while it lives."""
        if self.code is None:
            self._nursery.listen(0)
        return self.code

    def wait(self, timeout: float) -> int:
        """How it ended. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while self.code is None:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self._nursery.listen(left)
        return self.code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The supervisor's end of it. Make it before anything is opened."""

    def __init__(self, services: Sequence[str]) -> None:
        """Imports what these services need. One that cannot be imported says so when it is started."""
        for service in services:
            with suppress(Exception):
                if find_service(service).app is not None:
                    server_modules()
                for later in LATER:
                    if find_spec(f"services.{service}.{later}"):
                        import_module(f"services.{service}.{later}")
        gc.collect()
        if sys.platform == "linux":
            _libc().malloc_trim(0)  # what is free would be filled, and so copied, by each child
        gc.freeze()  # or the first collection of each child would write to every page
        self._nurslings: dict[int, Nursling] = {}
        self.gone = False
        """It ended, and told nobody of its own any more: they were asked to stop by the system."""
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._line.close()
            _never_return(lambda: _Keeper(theirs).run())
        theirs.close()

    def start(self, service: str, environment: Mapping[str, str]) -> Nursling:
        try:
            self._line.send(json.dumps([service, dict(environment)]).encode())
            while (started := self._hear()) is None:
                pass
        except OSError as error:
            self.gone = True
            raise BillhookError(f"The {service} was not started: the process that forks services has ended.") from error
        nursling = self._nurslings[started] = Nursling(started, self)
        return nursling

    def listen(self, timeout: float) -> None:
        """Learn who has ended, waiting so many seconds for somebody."""
        while not self.gone and select.select([self._line], [], [], timeout)[0]:
            with suppress(ConnectionError):
                self._hear()
            timeout = 0

    def fileno(self) -> int:
        """Readable when there is something to `listen` to."""
        return self._line.fileno()

    def close(self) -> None:
        """Let it end, and those who are left with it."""
        self._line.close()
        if not self.gone:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def _hear(self) -> int | None:
        """The next word: the process id of who was started, or None after noting who ended."""
        word = self._line.recv(_LARGEST)
        if not word:
            self.gone = True
            for nursling in self._nurslings.values():
                nursling.code = -signal.SIGTERM if nursling.code is None else nursling.code
            raise ConnectionError("the nursery has ended")
        pid, code = json.loads(word)
        if code is None:
            return int(pid)
        if pid in self._nurslings:
            self._nurslings.pop(pid).code = code
        return None


class _Keeper:
    """The nursery's own end: forks when it is told to, and tells who ended."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._children: set[int] = set()
        self._heard, self._told = os.pipe()

    def run(self) -> int:
        _name("billhook-forks")
        for number in (signal.SIGINT, signal.SIGTERM):  # the end of the line ends it, after its children
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for end in (self._heard, self._told):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        with suppress(ConnectionError):
            while True:
                watched: list[Any] = [self._line, self._heard]
                ready = select.select(watched, [], [])[0]
                if self._heard in ready:
                    with suppress(BlockingIOError):
                        os.read(self._heard, _LARGEST)
                    self._tell_who_ended()
                if self._line in ready:
                    order = self._line.recv(_LARGEST)
                    if not order:
                        break
                    self._start(*json.loads(order))
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
        for pid in self._children:
            os.waitpid(pid, 0)
        return 0

    def _start(self, service: str, environment: dict[str, str]) -> None:
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._line.close()
            signal.set_wakeup_fd(-1)
            for end in (self._heard, self._told):
                os.close(end)
            _never_return(lambda: _become(service, environment, keeper))
        self._children.add(pid)
        self._line.send(json.dumps([pid, None]).encode())

    def _tell_who_ended(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._line.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())


def _become(service: str, environment: dict[str, str], parent: int) -> int:
    for number, action in (
        (signal.SIGCHLD, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        signal.signal(number, action)
    _libc().prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1  # it ended before the system was told to tell us
    _name(process_name(service))
    _libc().mallopt(_ARENA_MAX, 2)  # one for each of twenty threads would be half empty
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return serve(service)


def _never_return(run: Callable[[], int]) -> NoReturn:
    """What stands on the stack below is the life of another process."""
    code = 1
    try:
        code = run()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _name(name: str) -> None:
    _libc().prctl(_SET_NAME, name.encode(), 0, 0, 0)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
