"""Making files durable, many at a time.

A sync of a file waits for the disk. Those of a batch wait together, in threads: the filesystem brings what they ask for
to the disk in one go, so that sixteen take little longer than one. Linux has a call that does it for all files of a
filesystem (`syncfs`), and it is hardly faster: sixteen files on an SSD took it 4 to 8 ms, and take 5 to 8 so (one after
the other, 8 to 60). But it waits for whatever anybody wrote there: beside somebody who writes 60 MB a second it took
200 ms at times, where these take 40 at most. There may be a database beside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

AT_ONCE: Final = 8
"""Half as many as there are documents in a batch: two one after the other took as long, for they wait for the same
writes of the filesystem's, and to wake a thread for each cost a sixth more of the processor."""


def sync_all(paths: Sequence[Path], pool: Executor) -> None:
    """Files or directories are on the disk when this returns. Raises OSError."""
    if len(paths) == 1:
        _sync(paths)
    else:
        for _ in pool.map(_sync, [paths[share::AT_ONCE] for share in range(min(AT_ONCE, len(paths)))]):
            pass


def _sync(paths: Sequence[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
