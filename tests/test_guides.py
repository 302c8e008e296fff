"""docs/add-a-provider.md and docs/add-a-consumer.md, followed literally in a copy of the product, and no other file
touched: both are found, run in real processes, and answer."""

from __future__ import annotations

import hmac
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from guides import follow
from test_counted_facts import told_too_early
from test_decoding import read_past_the_lock
from test_imports import complaints

from billhook.runtime.health import is_ready
from billhook.runtime.settings import default_port
from billhook.runtime.valkey import free_port
from billhook.store.vault import new_key

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
PATIENCE_SECONDS = 120.0
SERVICES = ("ingress", "bookkeeper", "greeter")
GUARDS = (
    "tests/cli/test_pages.py::test_a_generated_page_is_what_the_code_makes",
    "tests/runtime/test_compose.py",
    "tests/runtime/test_services.py",
    "tests/store/test_everything_ends.py::test_what_is_over_and_old_goes_and_all_else_stays[sqlite]",
    "tests/store/test_isolation.py::test_every_function_that_takes_a_merchant_is_asked_here",
    "tests/store/test_migrations.py::test_alembic_finds_no_difference_between_the_migrations_and_the_tables[sqlite]",
)
"""What asks something of every service, table, queue, provider or metric, also of new ones."""


def eventually(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


class Clone:
    """A copy of the product in which the guides were followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("libs", "services", "deploy", "docs", "tests", "bench"):
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        for name in ("pyproject.toml", "compose.yaml", "README.md"):
            shutil.copy(ROOT / name, root / name)
        self.touched = [path for name in ("provider", "consumer") for path in self._follow(f"docs/add-a-{name}.md")]
        self.ports = {name: free_port() for name in SERVICES}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")},
            **{f"BILLHOOK_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
            "BILLHOOK_VAR": str(root / "var"),
            "BILLHOOK_ENCRYPTION_KEYS": new_key(),
            "PYTHONPATH": f"{root / 'libs'}{os.pathsep}{root}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def written(self) -> list[Path]:
        """Those of the touched files that were not there before."""
        return [path for path in self.touched if not (ROOT / path.relative_to(self.root)).exists()]

    def _follow(self, guide: str) -> list[Path]:
        return follow(ROOT / guide, self.root)

    def run(self, *words: str) -> str:
        command = [sys.executable, "-m", *words]
        ran = subprocess.run(command, env=self.environment, cwd=self.root, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def billhook(self, *words: str) -> str:
        return self.run("billhook.cli.main", *words)

    def metric(self, name: str) -> float:
        with urlopen(f"http://{HOST}:{self.ports['greeter']}/metrics") as answer:
            found = re.search(rf"^billhook_{name} (\S+)$", answer.read().decode(), re.M)
        return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def till() -> Iterator[str]:
    """Till's API: a customer as it is now, whom events of one moment say two things about."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/customers/c-1" and self.headers["Authorization"] == "Bearer key"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b'{"number":"c-1","name":"Ada King","email":"ada@example.com"}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_the_guides_show_passes_its_tests_and_whatever_is_asked_of_all(clone: Clone) -> None:
    code = sorted({str(path) for path in clone.touched if path.suffix == ".py"})
    clone.run("ruff", "check", "-q", "--ignore=I001", *code)  # `make fmt` sorts imports, beside whatever else is there
    clone.run("ruff", "format", "-q", "--check", *code)
    assert complaints(clone.root) == []
    for path in (path for path in clone.touched if path.suffix == ".py" and "tests" not in path.parts):
        assert not [*told_too_early(path.read_text()), *read_past_the_lock(path.read_text())], path
    tests = [str(path) for path in clone.written if path.name.startswith("test_")]
    assert len(tests) == 2
    clone.billhook("docs")
    clone.run("pytest", "-q", "-p", "no:cacheprovider", *tests, *GUARDS)


def test_what_the_guides_show_has_its_types(clone: Clone) -> None:
    """As `make check` has it, which goes before in CI: without what it leaves behind this takes a minute."""
    if not (ROOT / ".mypy_cache").is_dir():
        pytest.skip("`make check` was not run")
    shutil.copytree(ROOT / ".mypy_cache", clone.root / ".mypy_cache")
    clone.run("mypy")


def test_the_port_that_the_guide_names_is_the_services(clone: Clone) -> None:
    assert f"{default_port('greeter')}" in (ROOT / "docs/add-a-consumer.md").read_text()


def test_an_event_of_the_new_provider_becomes_work_of_the_new_consumer(clone: Clone, till: str) -> None:
    clone.billhook("migrate")
    assert "greeter" in clone.billhook("services")
    clone.billhook("merchants", "add", "Acme")
    options = ("--secret", "topsecret", "--api-key", "key", "--api-base", till, "--json")
    address = json.loads(clone.billhook("sources", "add", "till", *options))["address"]
    log = (clone.root / "log.txt").open("wb")
    command = [sys.executable, "-m", "billhook.cli.main", "run", *SERVICES]
    with subprocess.Popen(command, env=clone.environment, cwd=clone.root, stdout=log, stderr=log) as process, log:
        try:
            eventually(lambda: all(is_ready(HOST, port) for port in clone.ports.values()), "readiness")
            for number, name in ((1, "Ada"), (2, "A. King")):
                assert post(address, number, name) == "accepted"
                assert post(address, number, name) == "duplicate"
            eventually(lambda: clone.metric("greetings_total") == 1, "the greeting")
            eventually(lambda: states(clone) == ["processed", "processed"], "processing")
        finally:
            process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, (clone.root / "log.txt").read_text()
    assert customers(clone) == ["Ada King"], "the provider was asked, for two events of one moment said two things"


def post(address: str, number: int, name: str) -> str:
    customer = {"number": "c-1", "name": name, "email": "ada@example.com"}
    event = {"id": f"t-{number}", "kind": "customer.created", "at": "2026-03-01T09:30:17.25Z", "customer": customer}
    body = json.dumps(event).encode()
    signature = hmac.digest(b"topsecret", body, "sha256").hex()
    headers = {"Content-Type": "application/json", "Till-Signature": signature}
    with urlopen(Request(address, body, headers)) as answer:
        status: str = json.load(answer)["status"]
    return status


def states(clone: Clone) -> list[str]:
    return _column(clone, "SELECT state FROM inbox ORDER BY id")


def customers(clone: Clone) -> list[str]:
    return _column(clone, "SELECT name FROM customers")


def _column(clone: Clone, query: str) -> list[str]:
    with sqlite3.connect(clone.root / "var" / "billhook.db") as connection:
        found = [row[0] for row in connection.execute(query)]
    connection.close()
    return found
