"""A real Prometheus on the rules of deploy/prometheus, with the processes of a test as its targets."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from billhook.runtime.valkey import HOST, free_port

ROOT = Path(__file__).parents[2]
DEPLOYED = ROOT / "deploy" / "prometheus"
RULES = sorted((DEPLOYED / "rules").glob("*.yml"))
EVERY = "1s"
WINDOW = "5s"
"""What every window of a rule is in a drill: long enough for a rate over scrapes of `EVERY`."""

PATIENCE_SECONDS = 60.0


def tool(name: str) -> str | None:
    """`prometheus` or `promtool`: of the machine, or as `deploy/setup.sh prometheus` brings them."""
    brought = ROOT / ".venv" / "prometheus" / "usr" / "bin" / name
    return shutil.which(name) or (str(brought) if brought.exists() else None)


def rules_in_a_hurry(path: Path) -> str:
    """The rules with all windows and delays shortened: what they say of minutes and hours, they say of seconds, and
    what of the twenty attempts in a quarter of an hour, of two."""
    text = re.sub(r"\[\d+[smhd]\]", f"[{WINDOW}]", path.read_text()).replace("> 20\n", "> 2\n")
    return re.sub(r"for: \d+[smhd]", "for: 0s", text)


class Prometheus:
    """A running one."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.url = f"http://{HOST}:{port}"
        self._process = process

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It answers nobody, and what it had begun to scrape stays begun."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _get(self, path: str, **query: str) -> Any:
        with urlopen(f"{self.url}{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get("/api/v1/query", query=expression)["result"]
        return result

    def names(self) -> set[str]:
        return set(self._get("/api/v1/label/__name__/values"))

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire: (name, queue or job or class it is of)."""
        alerts = self.query('ALERTS{alertstate="firing"}')
        told = ("queue", "job", "finding_class", "source")
        return {
            (labels["alertname"], next((labels[name] for name in told if name in labels), ""))
            for labels in (alert["metric"] for alert in alerts)
        }

    def until_fired(self, expected: set[tuple[str, str]]) -> None:
        """Until each has fired: what is about a rate has passed when the last is there."""
        missing = set(expected)

        def none_missing() -> bool:
            missing.difference_update(self.firing())
            return not missing

        self.until(none_missing, missing)

    def unreachable(self) -> list[str]:
        """Why targets were not scraped."""
        targets = self._get("/api/v1/targets")["activeTargets"]
        return [f"{target['labels']['job']}: {target['lastError']}" for target in targets if target["lastError"]]

    def until(self, happened: Callable[[], Any], what: object) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"{what} did not happen; firing: {self.firing()}; {self.unreachable()}"
            time.sleep(0.1)


@contextmanager
def prometheus_server(directory: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """One that scrapes these (job → port)."""
    program = tool("prometheus")
    assert program is not None
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"{HOST}:{targets[job['job_name']]}"]}]
    for rules in RULES:
        (directory / rules.name).write_text(rules_in_a_hurry(rules))
    config["rule_files"] = [str(directory / rules.name) for rules in RULES]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=error",
    ]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        server = Prometheus(port, process)
        try:
            _await_start(server, process, directory / "log")
            yield server
        finally:
            process.kill()


def _await_start(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urlopen(f"{server.url}/-/ready", timeout=2):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
