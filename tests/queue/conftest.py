from __future__ import annotations

from collections.abc import Iterator

import pytest
from queue_line import Line
from store.databases import database, migrated

from billhook_testing.servers import ValkeyServer

__all__ = ["database", "migrated"]


@pytest.fixture
def line(valkey: ValkeyServer) -> Iterator[Line]:
    """A bell and a listener on an empty queue."""
    with Line(valkey.url) as line:
        line.broker.client.flushall()
        yield line
