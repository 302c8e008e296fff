"""Servers for tests that are written for Node: installed by npm outside the tree, and run on a port of their choice."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def installed(source: Path, project: Path, *, without: str) -> Path:
    """A copy of `source` at `project` with its packages, as package-lock.json names them. Where there is no Node, the
    test is skipped, and `without` says what is not tried then."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"No node and npm on PATH: {without}")
    shutil.copytree(source, project, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        said = f"`npm ci` failed; is the npm registry there?\n{result.stderr}"
        # At a desk without a network this costs its tests; in CI it would hide them.
        if os.environ.get("CI"):
            raise RuntimeError(said)
        pytest.skip(said)
    return project


@contextmanager
def running(project: Path, script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run one that writes its port as its first line. It ends when its standard input does."""
    command: Sequence[str] = ["node", script, *arguments]
    environment = {**os.environ, **(environment or {})}
    with subprocess.Popen(
        command, cwd=project, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, f"{script} ended before it listened; its reason is on standard error"
            yield int(port)
        finally:
            process.terminate()
