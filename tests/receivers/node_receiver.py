"""A merchant's endpoint in Node, which verifies with the official library: see node/receiver.js.

A test elsewhere imports `node_project` into its conftest, and `node_receiver` where it needs one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

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
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("No node and npm on PATH: the official library for Node is not asked.")
    project = tmp_path_factory.mktemp("node") / "receiver"
    shutil.copytree(SOURCE, project, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(
        command, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if installed.returncode:
        said = f"`npm ci` failed; is the npm registry there?\n{installed.stderr}"
        # At a desk without a network this costs its tests; in CI it would hide them.
        if os.environ.get("CI"):
            raise RuntimeError(said)
        pytest.skip(said)
    return project


@contextmanager
def node_receiver(project: Path, secret: str) -> Iterator[NodeReceiver]:
    """A receiver that verifies with `secret`: `whsec_…`, or `whpk_…`."""
    command = ["node", "receiver.js"]
    with subprocess.Popen(
        command,
        cwd=project,
        env={**os.environ, "WEBHOOK_SECRET": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, "the receiver ended before it listened; its reason is on standard error"
            yield NodeReceiver(f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
