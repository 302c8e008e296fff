from __future__ import annotations

from collections.abc import Iterator

import pytest
from queue_line import Line

from billhook_testing.servers import ValkeyServer


@pytest.fixture
def line(valkey: ValkeyServer) -> Iterator[Line]:
    """A bell and a listener on an empty queue."""
    with Line(valkey.url) as line:
        line.broker.client.flushall()
        yield line
