"""Making files durable, many with one sync.

A sync of each file waits for the disk once a file. Linux can bring all that is written to a filesystem onto its disk in
one call, which waits once; it is used where the filesystem is known to do it as well as a sync of each file would.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

_LINUX: Final = (5, 8)
"""Before, the kernel kept it to itself when what it wrote did not reach the disk."""

_TRUSTED: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x794C7630})
"""By their magic numbers: ext4, xfs, btrfs, f2fs, overlayfs. A filesystem that is on another machine, or in a program,
may hear of a sync only where it is of one file."""


def sync_all(paths: Sequence[Path], *, within: Path) -> None:
    """Files or directories, all on the filesystem of `within`, are on the disk when this returns. Raises OSError."""
    if len(paths) > 1 and _reports_errors():
        with _opened(within) as descriptor:
            if _filesystem(descriptor) in _TRUSTED:
                _syncfs(descriptor)
                return
    for path in paths:
        with _opened(path) as descriptor:
            os.fsync(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reports_errors() -> bool:
    system = os.uname()
    version = re.match(r"(\d+)\.(\d+)", system.release)
    return system.sysname == "Linux" and version is not None and tuple(map(int, version.groups())) >= _LINUX


def _filesystem(descriptor: int) -> int:
    """Its magic number: what the answer begins with, whatever the rest of it looks like on this machine."""
    answer = (ctypes.c_long * 64)()
    failed: int = _libc().fstatfs(descriptor, answer)
    return 0 if failed else answer[0] & 0xFFFFFFFF


def _syncfs(descriptor: int) -> None:
    if _libc().syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
