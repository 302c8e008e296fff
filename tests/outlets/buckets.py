"""Servers that speak S3. moto does not create what is there already, and gives nothing to whoever has no signature;
s3rver knows who may sign, and when an address ends. Neither checks what is signed: botocore says what it should be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from billhook.outlets.objects import Objects, open_objects

BUCKET = "invoices"
SOURCE = Path(__file__).parent / "s3rver"


@dataclass(frozen=True)
class Bucket:
    address: str
    key_id: str
    secret: str

    def open(self, prefix: str, *, key_id: str | None = None, options: str = "") -> Objects:
        environment = {"AWS_ACCESS_KEY_ID": key_id or self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}
        return open_objects(
            f"s3://{BUCKET}/{prefix}?endpoint={self.address}&region=us-east-1{options}", environment=environment
        )


@pytest.fixture(scope="session")
def moto() -> Iterator[Bucket]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
                line = process.stderr.readline()
                assert line, f"moto ended before it listened:\n{said}"
                said += line
            bucket = Bucket(found[0], "anybody", "at all")
            requests.put(f"{bucket.address}/{BUCKET}", timeout=30).raise_for_status()
            yield bucket
        finally:
            process.terminate()
            process.stderr.close()


@pytest.fixture(scope="session")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    project = _installed(tmp_path_factory.mktemp("s3rver") / "project")
    with _running(["node", "server.js", str(project.parent / "data"), BUCKET], project) as port:
        yield Bucket(f"http://127.0.0.1:{port}", "S3RVER", "S3RVER")


def _installed(project: Path) -> Path:
    """The server with its packages, as package-lock.json names them, outside the tree."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("No node and npm on PATH: buckets are tried on moto alone.")
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
def _running(command: list[str], project: Path) -> Iterator[str]:
    with subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, "s3rver ended before it listened; its reason is on standard error"
            yield port
        finally:
            process.terminate()
