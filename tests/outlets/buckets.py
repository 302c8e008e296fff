"""Servers that speak S3. moto does not create what is there already, and gives nothing to whoever has no signature;
s3rver knows who may sign, and when an address ends. Neither checks what is signed: botocore says what it should be."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from npm_project import installed, running

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
    project = installed(
        SOURCE, tmp_path_factory.mktemp("s3rver") / "project", without="buckets are tried on moto alone."
    )
    with running(project, "server.js", str(project.parent / "data"), BUCKET) as port:
        yield Bucket(f"http://127.0.0.1:{port}", "S3RVER", "S3RVER")
