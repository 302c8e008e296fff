"""A merchant's endpoint in Node, which verifies with the official library: see node/receiver.js.

A test elsewhere imports `node_project` into its conftest, and `node_receiver` where it needs one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from npm_project import installed, running

SOURCE = Path(__file__).parent / "node"


@dataclass(frozen=True)
class Verdict:
    """What the receiver thought of one request."""

    id: str
    type: str | None
    """The event's type, if the request was verified and its body has one."""
    error: str | None
    """None: it was verified, and answered 204. Otherwise the answer was 400."""


@dataclass(frozen=True)
class NodeReceiver:
    url: str
    """Where to deliver to."""

    def verdicts(self) -> list[Verdict]:
        """One for each delivery so far, in the order in which they were answered."""
        with urlopen(self.url, timeout=30) as answer:
            return [Verdict(**verdict) for verdict in json.load(answer)]


@pytest.fixture(scope="session")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The receiver with its packages, as package-lock.json names them, outside the tree."""
    return installed(
        SOURCE, tmp_path_factory.mktemp("node") / "receiver", without="the official library for Node is not asked."
    )


@contextmanager
def node_receiver(project: Path, secret: str) -> Iterator[NodeReceiver]:
    """A receiver that verifies with `secret`: `whsec_…`, or `whpk_…`."""
    with running(project, "receiver.js", environment={"WEBHOOK_SECRET": secret}) as port:
        yield NodeReceiver(f"http://127.0.0.1:{port}/")
