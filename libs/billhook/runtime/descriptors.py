"""How many files and connections a process may have open."""

from __future__ import annotations

import resource
from typing import Final

WANTED: Final = 16_384

SPARE: Final = 200
"""For what is no connection of a server: the database, the queue, files, libraries."""


def raise_limit() -> int:
    """Have as many descriptors as this process may, and say how many those are. With 1,024, a usual default, a thousand
    silent connections would shut the door."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= possible:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return possible
